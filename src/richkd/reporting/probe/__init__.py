"""Whether CLIP will help, before any training: figures, verdict, terminal and page."""
