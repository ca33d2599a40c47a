"""Check archives and arrays before they are read: a small file must not ask for gigabytes of memory."""

from __future__ import annotations

import ast
import io
import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from richkd.core.regular_files import open_regular

# An archive may grow to this many times its size when it is read; up to FREE bytes, any growth is allowed.
RATIO, FREE = 100, 256 << 20
# Largest number of members of an archive; the checkpoints of the largest models have a few thousand.
MEMBERS = 100_000
# Longest header of an array in bytes.
HEADER = 1 << 16
# Largest number of items without bytes.
EMPTY = 1 << 20


def check_zip(path: Path) -> None:
    """Check a zip file: different names of members, no encryption, and no growth by more than `RATIO`.

    Raises:
        OSError: the file cannot be read, or is no regular file.
        ValueError: it is no zip file, or one of these rules is broken.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez_compressed(f"{folder}/a.npz", zeros=np.zeros(10))
        ...     check_zip(Path(folder) / "a.npz")
    """
    with open_regular(path) as file:
        size = file.seek(0, io.SEEK_END)
        try:
            members = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
            raise ValueError(f"no zip file, or a damaged one: {error}") from error
    if len(members) > MEMBERS:
        raise ValueError(f"{len(members):,} members, more than {MEMBERS:,}")
    known: set[str] = set()
    for member in members:
        if member.filename in known:
            raise ValueError(f"two members are called {member.filename[:100]!r}")
        known.add(member.filename)
        if member.flag_bits & 1:
            raise ValueError(f"{member.filename[:100]!r} is encrypted")
    total = sum(member.file_size for member in members)
    if total > max(FREE, RATIO * size):
        raise ValueError(
            f"{total:,} bytes in a file of {size:,} bytes, more than {RATIO} times as many "
            "(saved without compression, it could be read)"
        )


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a ``.npz`` file; Python objects are refused, because they can execute code.

    Raises:
        OSError: the file cannot be read, or is no regular file.
        ValueError: see `check_zip`; or an array does not have the size that its header states, or a Python
            object.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/a.npz", ones=np.ones(2), names=np.array(["ant"]))
        ...     {name: array.tolist() for name, array in read_npz(Path(folder) / "a.npz").items()}
        {'ones': [1.0, 1.0], 'names': ['ant']}
    """
    check_zip(path)
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    with archive.open(member) as opened:
                        _check_array(opened, member.file_size, member.filename)
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                names = list(arrays.files)
                if len(set(names)) < len(names):
                    raise ValueError(f"two arrays have one name: {', '.join(sorted(names))[:100]}")
                return {name: np.asarray(arrays[name]) for name in names}
    except (OSError, ValueError):
        raise
    # Readers of damaged archives raise zlib.error, struct.error, NotImplementedError, MemoryError and others.
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read_npy(path: Path) -> NDArray[Any]:
    """Map a ``.npy`` file into memory; its array must have the size that its header states.

    Raises:
        OSError: the file cannot be read, or is no regular file.
        ValueError: it is no array, is shorter than its header states, or holds Python objects.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/a.npy", np.arange(3))
        ...     read_npy(Path(folder) / "a.npy").tolist()
        [0, 1, 2]
    """
    with open_regular(path) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        _check_array(file, size, path.name)
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return array


def _check_array(file: Any, size: int, name: str) -> None:
    """Compare the size of an array with that which its header states."""
    shape, dtype = _header(file, name)
    if dtype.hasobject:
        raise ValueError(f"'{name}' holds Python objects")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError(f"'{name}' has the shape {str(shape)[:100]}")
    count, left = math.prod(shape), size - file.tell()
    stated = count * dtype.itemsize
    # Items without bytes, such as texts of length 0, cost memory when they are listed.
    if stated > left or max(count, *shape, 0) > max(size, EMPTY):
        raise ValueError(f"'{name}' has {left:,} bytes for {dtype} of shape {str(shape)[:100]}")


def _header(file: BinaryIO, name: str) -> tuple[tuple[Any, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        width = 2 if version == (1, 0) else 4
        length = int.from_bytes(file.read(width), "little")
        text = file.read(min(length, HEADER)).decode("latin1" if version < (3, 0) else "utf-8")
        header = ast.literal_eval(text.strip())
        return tuple(header["shape"]), np.lib.format.descr_to_dtype(header["descr"])
    except OSError:
        raise
    # A header may be any text.
    except Exception as error:
        raise ValueError(f"'{name}' is no array: {type(error).__name__}: {error}") from error
