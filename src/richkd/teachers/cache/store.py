"""A teacher cache: outputs of one teacher for one split on disk, with the key (image, view).

A cache is a folder. Its file ``manifest.json`` lists all ingredients: everything that the outputs depend on.
The folder name contains a digest of the manifest, so a changed ingredient leads to another folder. Rows are
stored in shards. A shard is a file that is written atomically; its name is the SHA-256 of its content.
Therefore several processes can fill the same cache, a killed process loses only rows that it had not yet
written, and damaged shards are detected. Processes that use a cache share a lock, whose file is beside the
folder, so that a cache in use is not removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from richkd.core.errors import CacheError
from richkd.core.files import write_atomically
from richkd.core.lock import share
from richkd.core.lock_owners import Locked, in_use
from richkd.core.processes import meet, on_first_of_node, world
from richkd.core.regular_files import open_regular
from richkd.core.temporary import remove_abandoned
from richkd.core.types import Output
from richkd.data.split import evenly_spaced
from richkd.teachers.cache.manifest import MANIFEST, Manifest, read_manifest

SHARD_BYTES = 32 << 20
# Positions of rows are signed 32-bit integers, which halves the memory of the index.
MOST_OUTPUTS = (1 << 31) - 1


class OutputCache:
    """The rows of one cache: those on disk, and those that are not yet written.

    Args:
        root: folder of the teacher cache; the rows are in its subfolder ``manifest.folder``.
        manifest: description of the cache.
        repair: delete damaged shards, so that their rows are computed again. They are never read. Temporary
            files of killed processes are removed, too.
        used: hold the lock of the cache as long as this object exists.

    Attributes:
        damaged: name and problem of each damaged shard.

    Raises:
        CacheError: the manifest in the folder cannot be read or differs from ``manifest``, the cache is just
            being removed, or it would have more than 2,147,483,647 outputs.
        CheckpointError: a shard or the manifest cannot be written; earlier shards are intact.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.row_format import RowFormat
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache = OutputCache(root, Manifest("net-train", {}, 9, 1, RowFormat(2, 0)))
        ...     image_B, view_B = torch.tensor([7]), torch.tensor([0])
        ...     cache.add(image_B, view_B, Output(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 0)))
        ...     cache.flush()
        ...     len(cache), cache.read(cache.find(image_B, view_B)).logits_BC.tolist()
        (1, [[1.0, 2.0]])
    """

    def __init__(
        self, root: str | Path, manifest: Manifest, *, repair: bool = True, used: bool = True
    ) -> None:
        self.folder, self.manifest, self.format = Path(root) / manifest.folder, manifest, manifest.row_format
        self._known: set[str] = set()
        _refuse_too_many(manifest)
        # Position of each (image, view) in the sequence of all rows; −1 if it is not stored.
        self._row_P = torch.full((manifest.images * manifest.views,), -1, dtype=torch.int32)
        self._shards: list[Tensor] = []
        self._starts: list[int] = []
        self._rows = 0
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._waiting_rows = 0
        if used:
            self._share_lock()
        # Hashes of shards are checked once on each machine; the other processes open the good ones.
        names, self.damaged = on_first_of_node(lambda: self._checked(repair))
        self._open(names)

    def __len__(self) -> int:
        """Number of (image, view) pairs with a stored output."""
        return int((self._row_P >= 0).sum())

    def __str__(self) -> str:
        places = self.manifest.images * self.manifest.views
        return f"{self.folder}, {len(self):,} of {places:,} outputs stored"

    def find(self, index_B: Tensor, number_B: Tensor) -> Tensor:
        """Positions (B) of the outputs of these images and views, for :meth:`read`; −1 if not stored."""
        return self._row_P[self._keys(index_B, number_B)]

    def read(self, position_B: Tensor) -> Output:
        """The outputs at positions returned by :meth:`find`, none of which may be −1."""
        starts = torch.tensor(self._starts)
        shard_B = torch.searchsorted(starts, position_B.long(), right=True) - 1
        rows_BR = torch.empty(len(position_B), self.format.row_bytes, dtype=torch.uint8)
        for shard in set(shard_B.tolist()):
            in_shard_B = shard_B == shard
            rows_BR[in_shard_B] = self._shards[shard][position_B[in_shard_B].long() - self._starts[shard]]
        return self.format.unpack(rows_BR)

    def add(self, index_B: Tensor, number_B: Tensor, output: Output) -> None:
        """Store outputs. They can be read at once; a full shard or :meth:`flush` writes them to disk.

        Raises:
            CacheError: an output is NaN or infinite, or too large for float16.
            CheckpointError: a shard cannot be written.
        """
        rows_BR = self.format.pack(output)
        key_B = self._keys(index_B, number_B)
        self._append(key_B, rows_BR)
        self._waiting.append((key_B, rows_BR))
        self._waiting_rows += len(rows_BR)
        if self._waiting_rows * self.format.row_bytes >= SHARD_BYTES:
            self.flush()

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Image indices and view numbers of at most ``count`` stored outputs, evenly spaced."""
        keys = (self._row_P >= 0).nonzero()[:, 0]
        selected = keys[evenly_spaced(len(keys), count)]
        return selected // self.manifest.views, selected % self.manifest.views

    def flush(self) -> None:
        """Write all rows that are not yet on disk as one shard."""
        if not self._waiting:
            return
        tensors = {
            "keys": torch.cat([key_B for key_B, _ in self._waiting]),
            "rows": torch.cat([rows_BR for _, rows_BR in self._waiting]),
        }
        content = save(tensors)
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        write_atomically(path, content)
        self._known.add(path.name)
        # Replace the rows in memory by the memory-mapped file.
        count = len(self._waiting)
        self._shards[-count:] = [load_file(path)["rows"]]
        self._starts[-count:] = [self._starts[-count]]
        self._waiting, self._waiting_rows = [], 0

    @property
    def bytes_on_disk(self) -> int:
        """Size of all shards in bytes."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    def _keys(self, index_B: Tensor, number_B: Tensor) -> Tensor:
        return index_B.long() * self.manifest.views + number_B.long()

    def _append(self, key_B: Tensor, rows_BR: Tensor) -> None:
        self._row_P[key_B] = torch.arange(self._rows, self._rows + len(key_B), dtype=torch.int32)
        self._shards.append(rows_BR)
        self._starts.append(self._rows)
        self._rows += len(key_B)

    def _share_lock(self) -> None:
        # A folder that cannot be created is reported when the manifest is written.
        with contextlib.suppress(OSError):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        path = lock_of(self.folder)
        try:
            lock = share(path)
        except Locked as held:
            raise in_use(held, path, CacheError, f"The cache {self.folder} must not be in removal") from None
        if lock is not None:
            weakref.finalize(self, lock.release)

    def exchange(self) -> None:
        """Write the rows of this process, and open what the other processes of the run have written.

        All processes of the run must call this.
        """
        if world() == 1:
            return
        self.flush()
        meet()
        self._open([path.name for path in sorted(self.folder.glob("*.safetensors"))])

    def _checked(self, repair: bool) -> tuple[list[str], list[str]]:
        """Names of intact shards, and problems of the others. The folder is created if it is missing."""
        if repair:
            remove_abandoned(self.folder.parent)
            remove_abandoned(self.folder)
        if not (self.folder / MANIFEST).exists():
            write_atomically(self.folder / MANIFEST, self.manifest.to_json())
            return [], []
        read_manifest(self.folder)
        paths = sorted(self.folder.glob("*.safetensors"))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            problems = list(pool.map(lambda path: shard_problem(path, self.manifest), paths))
        damaged = [(path, problem) for path, problem in zip(paths, problems, strict=True) if problem]
        for path, _ in damaged:
            if repair:
                path.unlink(missing_ok=True)
        good = [path.name for path, problem in zip(paths, problems, strict=True) if problem is None]
        return good, [f"{path.name[:12]}… {problem}" for path, problem in damaged]

    def _open(self, names: list[str]) -> None:
        """Map shards that were checked, or that a process of this run has just written, into memory."""
        for name in names:
            if name not in self._known:
                self._known.add(name)
                shard = load_file(self.folder / name)
                self._append(shard["keys"], shard["rows"])


def _refuse_too_many(manifest: Manifest) -> None:
    if manifest.images * manifest.views > MOST_OUTPUTS:
        raise CacheError(
            f"A teacher cache has at most {MOST_OUTPUTS:,} outputs",
            got=f"{manifest.images:,} images × {manifest.views:,} views for {manifest.name}",
            fix="use --augment.policy random-resized-crop with fewer --augment.num_views, or no "
            "--teacher-cache.",
        )


def lock_of(folder: Path) -> Path:
    """The file of the lock of a cache. It is beside the folder, so it can be held while that is removed.

    Example:
        >>> lock_of(Path("cache/resnet50-train-0123456789abcdef")).as_posix()
        'cache/.resnet50-train-0123456789abcdef.lock'
    """
    return folder.with_name(f".{folder.name}.lock")


def shard_problem(path: str | Path, manifest: Manifest) -> str | None:
    """Check that a shard's name is the SHA-256 of its content, and its rows fit the manifest and are finite.

    Returns:
        A description of the problem, or None if the shard is intact.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.row_format import RowFormat
        >>> manifest = Manifest("net-train", {}, images=9, views=1, row_format=RowFormat(2, 0))
        >>> with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        ...     shard_problem(file.name, manifest)
        'has a name that is not the SHA-256 of its content'
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != path.stem:
            return "has a name that is not the SHA-256 of its content"
        shard = load_file(path)
        keys, rows = shard["keys"], shard["rows"]
    except (OSError, SafetensorError, KeyError) as error:
        return f"cannot be read: {error}"
    places = manifest.images * manifest.views
    fits = rows.shape == (len(keys), manifest.row_format.row_bytes) and bool(
        ((keys >= 0) & (keys < places)).all()
    )
    if not fits:
        return "does not fit the manifest"
    return None if manifest.row_format.finite(rows) else "contains outputs that are NaN or infinite"
