"""Import large libraries without searches for garbage, which take a third of the time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from richkd.core.waiting import still

# Imports that take longer are said.
SECONDS = 5.0


@contextmanager
def quick_imports() -> Iterator[None]:
    """Context in which a command imports what it needs: Python's garbage collector is off.

    Modules make hundreds of thousands of objects, none of which is garbage. The collector would look at all
    of them several times during the imports, again during the work, and when the process ends. So what was
    imported is left out of all later searches (`gc.freeze`). That also applies to everything else that exists
    at the end of the context, so this is for commands, at their start.

    Example:
        >>> with quick_imports():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        # On a disk that is fast, imports take three seconds, which nobody has to be told.
        with still("loading libraries", first=SECONDS):
            yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
