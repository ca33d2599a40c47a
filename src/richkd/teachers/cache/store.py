"""A cache: a teacher's outputs on disk, found by (image, view).

A cache is a folder. ``manifest.json`` lists every ingredient that the outputs depend on; the folder's
name carries their digest, so that a changed ingredient is another folder. Rows lie in shards, files of
their own that are written whole and are called by the SHA-256 of their content. So processes that fill
one cache at a time never meet, a kill loses what was not yet written and nothing else, and a damaged
shard is known by its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from richkd.core.errors import CacheError, nearest
from richkd.core.files import write_atomically
from richkd.core.types import Output
from richkd.teachers.cache.row_format import RowFormat

MANIFEST = "manifest.json"
SHARD_BYTES = 32 << 20

Ingredients = Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What a cache holds.

    Attributes:
        name: the teacher and the split, for people.
        ingredients: all that the outputs depend on, by the name a person knows it by.
        images, views: an image has an index below ``images``, each of its views a number below ``views``.
        rows: how an output is kept.
    """

    name: str
    ingredients: Ingredients
    images: int
    views: int
    rows: RowFormat

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of everything above but the name."""
        described = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.digest}"

    def differences(self, other: Manifest) -> list[str]:
        """In what two caches differ: the names of ingredients, or what a row keeps if these are equal."""
        shapes = (self.images, self.views, self.rows) != (other.images, other.views, other.rows)
        return self.differing_ingredients(other) or (["what a row keeps"] if shapes else [])

    def differing_ingredients(self, other: Manifest) -> list[str]:
        """Names of the ingredients that have another value, or that only one of two caches has."""
        mine, theirs = dict(self.ingredients), dict(other.ingredients)
        return [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]


class OutputCache:
    """The rows of one manifest: those on disk, and those that are still to be written.

    Damaged shards are not used; ``damaged`` tells of them, and with ``mend`` they are removed.

    Raises:
        CacheError: the folder holds another cache, or cannot be read.
        CheckpointError: a shard or the manifest cannot be written; what was written before is intact.
    """

    def __init__(self, root: Path, manifest: Manifest, *, mend: bool = True) -> None:
        self.folder, self.manifest, self.format = root / manifest.folder, manifest, manifest.rows
        self.damaged: list[str] = []
        # Position in the sequence of all rows, −1 where there is none.
        self._row_P = torch.full((manifest.images * manifest.views,), -1, dtype=torch.int32)
        self._shards: list[Tensor] = []
        self._starts: list[int] = []
        self._rows = 0
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._waiting_rows = 0
        if (self.folder / MANIFEST).exists():
            self._open(mend)
        else:
            write_atomically(self.folder / MANIFEST, _encode(manifest))

    def __len__(self) -> int:
        """Stored outputs, each (image, view) counted once."""
        return int((self._row_P >= 0).sum())

    def __str__(self) -> str:
        places = self.manifest.images * self.manifest.views
        return f"{self.folder}, {len(self):,} of {places:,} outputs stored"

    def find(self, index_B: Tensor, number_B: Tensor) -> Tensor:
        """Positions (B) for :meth:`read` of these images' views; −1 where there is none."""
        return self._row_P[self._keys(index_B, number_B)]

    def read(self, position_B: Tensor) -> Output:
        """The outputs at positions that :meth:`find` gave, none of them −1."""
        starts = torch.tensor(self._starts)
        shard_B = torch.searchsorted(starts, position_B.long(), right=True) - 1
        rows_BR = torch.empty(len(position_B), self.format.row_bytes, dtype=torch.uint8)
        for shard in set(shard_B.tolist()):
            here_B = shard_B == shard
            rows_BR[here_B] = self._shards[shard][position_B[here_B].long() - self._starts[shard]]
        return self.format.unpack(rows_BR)

    def add(self, index_B: Tensor, number_B: Tensor, output: Output) -> None:
        """Store outputs: found at once, and on disk after a shard's worth or :meth:`flush`."""
        rows_BR = self.format.pack(output)
        key_B = self._keys(index_B, number_B)
        self._append(key_B, rows_BR)
        self._waiting.append((key_B, rows_BR))
        self._waiting_rows += len(rows_BR)
        if self._waiting_rows * self.format.row_bytes >= SHARD_BYTES:
            self.flush()

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Images and view numbers of up to ``count`` stored outputs, evenly spread."""
        keys = (self._row_P >= 0).nonzero()[:, 0]
        selected = keys[torch.linspace(0, len(keys) - 1, min(count, len(keys))).long()]
        return selected // self.manifest.views, selected % self.manifest.views

    def flush(self) -> None:
        """Write what waits as one shard."""
        if not self._waiting:
            return
        tensors = {
            "keys": torch.cat([key_B for key_B, _ in self._waiting]),
            "rows": torch.cat([rows_BR for _, rows_BR in self._waiting]),
        }
        content = save(tensors)
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        write_atomically(path, content)
        # From here on the rows are read from the file, and their memory is free.
        count = len(self._waiting)
        self._shards[-count:] = [load_file(path)["rows"]]
        self._starts[-count:] = [self._starts[-count]]
        self._waiting, self._waiting_rows = [], 0

    @property
    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    def _keys(self, index_B: Tensor, number_B: Tensor) -> Tensor:
        return index_B.long() * self.manifest.views + number_B.long()

    def _append(self, key_B: Tensor, rows_BR: Tensor) -> None:
        self._row_P[key_B] = torch.arange(self._rows, self._rows + len(key_B), dtype=torch.int32)
        self._shards.append(rows_BR)
        self._starts.append(self._rows)
        self._rows += len(key_B)

    def _open(self, mend: bool) -> None:
        result = read_manifest(self.folder)
        if result.digest != self.manifest.digest:
            raise CacheError(
                f"The cache {self.folder} must hold what its name says",
                got=f"a manifest that differs in {', '.join(result.differences(self.manifest))}",
                fix="remove it with `richkd cache rm`.",
            )
        paths = sorted(self.folder.glob("*.safetensors"))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            problems = list(pool.map(lambda path: shard_problem(path, self.manifest), paths))
        for path, problem in zip(paths, problems, strict=True):
            if problem is None:
                shard = load_file(path)
                self._append(shard["keys"], shard["rows"])
            else:
                self.damaged.append(f"{path.name[:12]}… {problem}")
                if mend:  # what it held will be computed again
                    path.unlink(missing_ok=True)


def shard_problem(path: Path, manifest: Manifest) -> str | None:
    """What is wrong with a shard, or None: its content must hash to its name and fit the manifest."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != path.stem:
            return "does not hash to its name"
        shard = load_file(path)
        keys, rows = shard["keys"], shard["rows"]
    except (OSError, SafetensorError, KeyError) as error:
        return f"cannot be read: {error}"
    places = manifest.images * manifest.views
    fits = rows.shape == (len(keys), manifest.rows.row_bytes) and bool(((keys >= 0) & (keys < places)).all())
    return None if fits else "does not fit the manifest"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a cache's folder.

    Raises:
        CacheError: there is none, or it cannot be read.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(**content | {"rows": RowFormat(**content["rows"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"The cache {folder} must have a manifest.json that can be read",
            got=f"{type(error).__name__}: {error}",
            fix="remove the folder.",
        ) from None


def list_caches(root: Path) -> list[Path]:
    """The folders of all caches under ``root``, by name."""
    return sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))


def readable_manifests(root: Path) -> list[Manifest]:
    """The manifests of all caches under ``root`` but those that cannot be read."""
    manifests = []
    for folder in list_caches(root):
        try:
            manifests.append(read_manifest(folder))
        except CacheError:
            continue
    return manifests


def explain_miss(root: Path, manifest: Manifest) -> str | None:
    """How the most similar cache of this name differs, where there is no cache for ``manifest`` itself."""
    if (root / manifest.folder).exists():
        return None
    same = [other for other in readable_manifests(root) if other.name == manifest.name]
    if not same:
        return None
    # What a row keeps depends on the ingredients, so it decides only between caches of equal ingredients.
    closest = min(
        same, key=lambda other: (len(manifest.differing_ingredients(other)), manifest.rows != other.rows)
    )
    return f"cache {closest.folder} is not used: it differs in {', '.join(manifest.differences(closest))}"


def remove_cache(root: Path, name: str) -> Path:
    """Delete a cache's folder.

    Raises:
        CacheError: no cache of that name, with the nearest.
    """
    known = [folder.name for folder in list_caches(root)]
    if name not in known:
        raise CacheError(f"There is no cache '{name}' in {root}", fix=nearest(name, known))
    shutil.rmtree(root / name)
    return root / name


def _encode(manifest: Manifest) -> bytes:
    return json.dumps(asdict(manifest), indent=2, ensure_ascii=False).encode()
