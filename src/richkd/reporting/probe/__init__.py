"""`richkd probe`: whether CLIP improves the teacher, before training; metrics, verdict, terminal and page."""
