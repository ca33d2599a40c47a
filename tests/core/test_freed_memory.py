"""Freed memory does not stay with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Small blocks, of which the last one keeps the C library from returning the others by itself.
SHOW = """
import ctypes
from pathlib import Path
from richkd.core.freed_memory import return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [malloc(4000) for _ in range(20_000)]
for block in blocks:
    ctypes.memset(ctypes.c_void_p(block), 1, 4000)
for block in blocks[:-1]:
    free(block)
before = resident()
return_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the C library of Linux")
def test_most_of_it_is_returned() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    pages = int(done.stdout)
    assert pages * 4096 > 0.8 * 20_000 * 4000
