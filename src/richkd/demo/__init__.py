"""The demo: a tiny CLIP model and real handwritten digits. Nothing is downloaded.

open_clip loads the folder ``tiny_clip/`` with the model name ``local-dir:FOLDER``. The model was pre-trained
by ``scripts/train_tiny_clip.py`` on renderings of printed glyphs with captions, not on handwritten digits.
"""
