"""Start again with huge pages for large tensors, which makes training steps on a CPU faster.

A tensor of some megabytes lies on thousands of pages of 4 KiB, and a step makes and frees hundreds of
tensors. With pages of 2 MiB, the system reserves and clears few of them, and the processor finds addresses
faster. The C library decides about this when a process starts, from an environment variable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

VARIABLE = "GLIBC_TUNABLES"
SETTING = "glibc.malloc.hugetlb=1"
# The first version of glibc with the setting.
SINCE = (2, 35)
# Whether the kernel gives huge pages to programs that ask for them.
STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# Options of commands that compute nothing.
QUICK = frozenset({"--help", "-h", "--version"})


def restart_with_huge_pages() -> None:
    """Replace this process by the same command with huge pages, unless they are in use or not available.

    An environment with settings for the C library, or with another allocator, is left alone.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, {VARIABLE: "glibc.malloc.hugetlb=0"}):
        ...     restart_with_huge_pages()
    """
    if not wanted(os.environ, sys.argv[1:]) or not available():
        return
    environment = os.environ | {VARIABLE: SETTING}
    # Where a program cannot be started, the command goes on as it is.
    with suppress(OSError):
        os.execve(sys.executable, sys.orig_argv, environment)


def wanted(environment: Mapping[str, str], arguments: Sequence[str]) -> bool:
    """Whether a command profits, and its user has not chosen how memory is managed.

    Example:
        >>> wanted({}, ["distill"]), wanted({}, ["distill", "--help"]), wanted({"LD_PRELOAD": "x"}, ["teach"])
        (True, False, False)
    """
    configured = any(name in (VARIABLE, "LD_PRELOAD") or name.startswith("MALLOC_") for name in environment)
    return not configured and bool(arguments) and QUICK.isdisjoint(arguments)


def available() -> bool:
    """Whether this system has a glibc with the setting, and huge pages for programs that ask for them.

    Example:
        >>> available() in (True, False)
        True
    """
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split(" ")
        state = STATE.read_text(encoding="ascii")
        known = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= SINCE
    except (AttributeError, ValueError, OSError):
        return False
    return known and "[madvise]" in state


def state(environment: Mapping[str, str]) -> str:
    """Whether this process has huge pages for large tensors: "in use", "available" or "not available".

    Example:
        >>> state({VARIABLE: SETTING}) in ("in use", "not available")
        True
    """
    with suppress(OSError):
        # Then the kernel gives them to every program.
        if "[always]" in STATE.read_text(encoding="ascii"):
            return "in use"
    if not available():
        return "not available"
    return "in use" if SETTING in environment.get(VARIABLE, "").split(":") else "available"
