"""SHA-256 of image files. Hashes are kept beside a teacher cache, so that unchanged files are not read again.

A file is unchanged if its path, size, inode and times (of modification and of change) are those of the moment
when it was read. Programs can set the time of modification, but not the time of change.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from richkd.core.checksums import hash_file
from richkd.core.errors import CheckpointError, DataError, ModelError
from richkd.core.files import not_written, write_atomically
from richkd.core.lock import PAUSE, FileLock
from richkd.core.lock_owners import Locked
from richkd.core.logs import Log
from richkd.core.tensor_files import encode_tensors, read_tensors
from richkd.core.waiting import Wait
from richkd.data.file_types import printable
from richkd.data.opening import RESTORE
from richkd.data.split import Split

KEPT, LOCK = "image-hashes.safetensors", ".image-hashes.lock"
# Rows of a table that are read at a time.
ROWS = 1000
# Threads that read files; most of the time they wait for the disk.
THREADS, PART = 16, 4096
LOG_SECONDS = 30.0
# Times of a file system advance in steps, so a file could change once more within a step.
STEP_NS = 100_000_000

# Size, time of modification and of change in nanoseconds, and inode.
Stamp = tuple[int, int, int, int]
# The name of an image for messages, and its file.
Named = tuple[str, str | Path]
# An encoded image: its bytes, or the path of its file.
Cell = Mapping[str, bytes | str | None]


def no_log(message: str) -> None:
    """Logs nothing.

    Example:
        >>> no_log("not shown")
    """


class Contents:
    """Hashes of files by path and stamp: those in the file ``image-hashes.safetensors``, and new ones.

    Args:
        folder: the folder of the teacher cache; None keeps nothing.
        log: receives a line when files are read, and how long it takes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     file = Path(name, "1.png")
        ...     size = file.write_bytes(b"...")
        ...     contents = Contents()
        ...     with contents.kept():
        ...         digests_N32 = contents.hash_files([("1.png", file)], np.array([stamp_of("1.png", file)]))
        >>> bytes(digests_N32[0]) == hashlib.sha256(b"...").digest()
        True
    """

    def __init__(self, folder: Path | None = None, log: Log = no_log) -> None:
        self.folder, self.log = folder, log
        self._keys_N: NDArray[np.int64] = np.zeros(0, np.int64)
        self._stamps_N4: NDArray[np.int64] = np.zeros((0, 4), np.int64)
        self._digests_N32: NDArray[np.uint8] = np.zeros((0, 32), np.uint8)
        self._new: list[tuple[int, Stamp, bytes]] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Load kept hashes, and keep new ones. Other processes wait, so that each file is read once.

        In a cache that can only be read, there is no lock, and new hashes are not kept.

        Raises:
            CheckpointError: there is no such folder, and it cannot be created.
        """
        if self.folder is None:
            yield
            return
        lock = FileLock(self.folder / LOCK)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_written(self.folder, 0, error) from error
        with suppress(OSError):
            _wait_for(lock)
        try:
            self._load(self.folder / KEPT)
            yield
        finally:
            # What was read before an error, or an interrupt, need not be read again.
            try:
                self._save(self.folder / KEPT)
            finally:
                lock.release()

    def find(self, keys_N: NDArray[np.int64], stamps_N4: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the hashes with these keys and stamps; −1 if there is none."""
        if not len(self._keys_N):
            return np.full(len(keys_N), -1)
        at_N = np.searchsorted(self._keys_N, keys_N).clip(max=len(self._keys_N) - 1)
        same_N = (self._keys_N[at_N] == keys_N) & (self._stamps_N4[at_N] == stamps_N4).all(axis=1)
        return np.where(same_N, at_N, -1)

    def digest(self, position: int) -> bytes:
        """The hash at a position of `find`."""
        return bytes(self._digests_N32[position])

    def keep(self, key: int, stamp: Stamp, digest: bytes) -> None:
        """Keep a hash under a key and a stamp."""
        self._new.append((key, stamp, digest))

    def hash_files(self, files: Sequence[Named], stamps_N4: NDArray[np.int64]) -> NDArray[np.uint8]:
        """SHA-256 of each file (N, 32). Files whose stamp is known are not read.

        Args:
            files: name and path of each image.
            stamps_N4: the stamp of each file, taken before this call.

        Raises:
            DataError: a file cannot be read.
        """
        keys_N = np.array([key_of(os.path.abspath(path)) for _, path in files], np.int64)  # noqa: PTH100
        at_N = self.find(keys_N, stamps_N4)
        digests_N32 = np.zeros((len(files), 32), np.uint8)
        digests_N32[at_N >= 0] = self._digests_N32[at_N[at_N >= 0]]
        unknown = np.flatnonzero(at_N < 0).tolist()
        report = Report(self.log, len(unknown), int(stamps_N4[unknown, 0].sum()))
        # Without a log, as without a teacher cache, long waits are shown nevertheless.
        wait = Wait("reading files", len(unknown), unit="files") if self.log is no_log else None
        with ThreadPoolExecutor(THREADS) as pool:
            for place, digest in _in_parts(pool, lambda place: _hash(*files[place]), unknown):
                digests_N32[place] = np.frombuffer(digest, np.uint8)
                report.advance()
                if wait is not None:
                    wait.advance()
                size, modified, changed, inode = stamps_N4[place].tolist()
                if time.time_ns() - max(modified, changed) > STEP_NS:
                    self.keep(int(keys_N[place]), (size, modified, changed, inode), digest)
        report.end()
        if wait is not None:
            wait.end()
        return digests_N32

    def _load(self, path: Path) -> None:
        try:
            tensors, _ = read_tensors(path)
            self._keys_N, self._stamps_N4 = tensors["keys"].numpy(), tensors["stamps"].numpy()
            self._digests_N32 = tensors["digests"].numpy()
        except FileNotFoundError:
            return
        except (OSError, SafetensorError, KeyError, ModelError) as error:
            self.log(f"warning: {path} cannot be used, so images are read again: {error}")

    def _save(self, path: Path) -> None:
        if not self._new:
            return
        newest = {key: (stamp, digest) for key, stamp, digest in self._new}
        kept_N = ~np.isin(self._keys_N, list(newest))
        keys_N = np.concatenate([self._keys_N[kept_N], np.array(list(newest), np.int64)])
        stamps_N4 = np.array([stamp for stamp, _ in newest.values()], np.int64)
        digests = np.frombuffer(b"".join(digest for _, digest in newest.values()), np.uint8)
        order_N = np.argsort(keys_N)
        self._keys_N = keys_N[order_N]
        self._stamps_N4 = np.concatenate([self._stamps_N4[kept_N], stamps_N4])[order_N]
        self._digests_N32 = np.concatenate([self._digests_N32[kept_N], digests.reshape(-1, 32)])[order_N]
        self._new = []
        arrays = {"keys": self._keys_N, "stamps": self._stamps_N4, "digests": self._digests_N32}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        try:
            write_atomically(path, encode_tensors(tensors))
        except CheckpointError as error:
            self.log(f"warning: hashes of images are not kept, so images will be read again: {error.got}")


class Report:
    """Lines about files that are read: one at the beginning, some while it lasts, one at the end.

    Example:
        >>> report = Report(print, total=0, size=0)
        >>> report.end()
    """

    def __init__(self, log: Log, total: int, size: int) -> None:
        self.log, self.total, self.size, self.done = log, total, size, 0
        self.began = self.logged = time.monotonic()
        if total:
            log(f"images: reading {total:,} files ({size / 1e9:.3g} GB); the teacher cache depends on them")

    def advance(self, count: int = 1) -> None:
        """Count files that were read."""
        self.done += count
        if time.monotonic() - self.logged > LOG_SECONDS:
            self.logged = time.monotonic()
            self.log(f"images: {self.done:,} of {self.total:,} files read")

    def end(self) -> None:
        """Log how long it took."""
        if self.total:
            seconds = time.monotonic() - self.began
            self.log(
                f"images: {self.total:,} files read in {seconds:.1f} s; unchanged files are not read again"
            )


def key_of(text: str) -> int:
    """A 64-bit hash of a text, under which hashes of contents are kept.

    Example:
        >>> key_of("/photos/1.png") == key_of("/photos/2.png")
        False
    """
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "little", signed=True)


def stamp_of(name: str, path: str | Path) -> Stamp:
    """Size, times of modification and change, and inode of the file of an image.

    Raises:
        DataError: the file is gone.

    Example:
        >>> stamp_of("this", Path(__file__)) == stamp_of("this", Path(__file__))
        True
    """
    try:
        # Path is slow, and interns the names of all files.
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError) as error:
        raise _unreadable(name, path, error) from error
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & 0x7FFFFFFFFFFFFFFF


def hash_images(split: Split, contents: Contents) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Stamp (N, 4) and SHA-256 (N, 32) of each image of a split. Embedded images have a stamp of zeros.

    Args:
        split: the images.
        contents: hashes of files that are known.

    Raises:
        DataError: a file is gone or cannot be read.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"a", "path": None}]})
        >>> split = Split("train", rows, torch.tensor([0]), ("ant",), "image", None)
        >>> stamps_N4, digests_N32 = hash_images(split, Contents())
        >>> bytes(digests_N32[0]) == hashlib.sha256(b"a").digest()
        True
    """
    stamps_N4 = np.zeros((len(split), 4), dtype=np.int64)
    digests_N32 = np.zeros((len(split), 32), dtype=np.uint8)
    files, places = [], []
    for start in range(0, len(split), ROWS):
        cells = split.cells(start, min(start + ROWS, len(split)))
        for index, (name, cell) in enumerate(cells, start=start):
            content = cell.get("bytes")
            if isinstance(content, bytes):
                digests_N32[index] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
            else:
                path = str(cell.get("path"))
                stamps_N4[index] = stamp_of(name, path)
                files.append((name, path))
                places.append(index)
    if files:
        digests_N32[places] = contents.hash_files(files, stamps_N4[places])
    return stamps_N4, digests_N32


def _wait_for(lock: FileLock) -> None:
    while True:
        try:
            return lock.acquire()
        except Locked:
            time.sleep(PAUSE)


def _in_parts(
    pool: ThreadPoolExecutor, function: Callable[[int], bytes], places: Sequence[int]
) -> Iterator[tuple[int, bytes]]:
    """Each place with its result. A pool keeps all that it is given in memory, so it is given parts."""
    for start in range(0, len(places), PART):
        part = places[start : start + PART]
        yield from zip(part, pool.map(function, part), strict=True)


def _hash(name: str, path: str | Path) -> bytes:
    try:
        return bytes.fromhex(hash_file(path))
    except (OSError, ValueError) as error:
        raise _unreadable(name, path, error) from error


def _unreadable(name: str, path: str | Path, error: Exception) -> DataError:
    got = f"{getattr(error, 'strerror', None) or error}: {printable(path)}"
    return DataError(f"Image {name} must be readable", got=got, fix=RESTORE)
