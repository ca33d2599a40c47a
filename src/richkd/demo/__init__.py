"""The embedded demo: a genuine but tiny CLIP, and real handwritten digits, so that nothing is downloaded.

``tiny_clip/`` loads through open_clip's ``local-dir:`` path. It was pre-trained by
``scripts/train_tiny_clip.py`` on captioned renderings of glyphs, and never saw a handwritten digit.
"""
