"""Loss terms, one file each, and the presets that combine them.

To add a term, write one module here: the loss, its settings and a `Term` that is registered under its name.
"""
