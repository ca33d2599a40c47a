"""Give memory that was freed back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


def return_freed_memory() -> None:
    """Return freed memory to the system, as far as the C library can (``malloc_trim`` of glibc).

    Lists of all images are read in Python before they become arrays. What they leave would stay with the
    process, and with each other process of a run, as long as it trains.

    Example:
        >>> return_freed_memory()
    """
    gc.collect()
    if sys.platform == "linux":
        # Other C libraries than glibc do not have the function.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
