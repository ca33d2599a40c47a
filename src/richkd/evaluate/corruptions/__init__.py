"""Corruptions of images as batched torch operations: 15 for testing, 4 for validation, 5 severities each."""

from importlib import import_module

# Corruptions are listed in the order in which they are registered, so this is the order of every table. The
# registry imports any further module of this package after these.
for _module in ("noise", "blur", "weather", "digital"):
    import_module(f"{__name__}.{_module}")
