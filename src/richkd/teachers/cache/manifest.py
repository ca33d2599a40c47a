"""What a teacher cache says of itself: ``manifest.json`` lists everything that its outputs depend on.

The name of the folder of a cache contains a digest of the manifest, so a changed ingredient leads to another
folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from richkd.core.errors import CacheError
from richkd.core.json_text import to_json
from richkd.core.structured import read_json
from richkd.teachers.cache.row_format import RowFormat

MANIFEST = "manifest.json"

Ingredients = Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """The description of a cache.

    Attributes:
        name: name of the teacher and the split; not part of the digest.
        ingredients: everything that the outputs depend on, under names that messages can show.
        images: number of images; image indices are in 0..images − 1.
        views: number of views of an image; view numbers are in 0..views − 1.
        row_format: byte format of a stored output.

    Example:
        >>> manifest = Manifest("net-train", {"seed": 0}, images=10, views=2, row_format=RowFormat(3, 4))
        >>> other = Manifest("net-train", {"seed": 1}, images=10, views=2, row_format=RowFormat(3, 4))
        >>> manifest.differences(other), manifest.folder == other.folder
        (['seed'], False)
    """

    name: str
    ingredients: Ingredients
    images: int
    views: int
    row_format: RowFormat

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of all attributes except the name."""
        hashed = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of the folder of the cache."""
        return f"{self.name}-{self.digest}"

    def differences(self, other: Manifest) -> list[str]:
        """Names of the different ingredients; "row format" if only sizes or the row format differ."""
        different = (self.images, self.views, self.row_format) != (
            other.images,
            other.views,
            other.row_format,
        )
        return self.differing_ingredients(other) or (["row format"] if different else [])

    def differing_ingredients(self, other: Manifest) -> list[str]:
        """Names of the ingredients with different values, or that only one of the two manifests has."""
        ours, others = dict(self.ingredients), dict(other.ingredients)
        return [name for name in {**ours, **others} if ours.get(name) != others.get(name)]

    def to_json(self) -> bytes:
        """The content of ``manifest.json``."""
        return to_json(asdict(self), indent=2).encode()


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a cache.

    Raises:
        CacheError: the manifest does not exist, cannot be read, or does not match the name of the folder.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.store import OutputCache
        >>> manifest = Manifest("net-train", {"seed": 0}, images=9, views=1, row_format=RowFormat(2, 0))
        >>> with tempfile.TemporaryDirectory() as root:
        ...     read_manifest(OutputCache(root, manifest).folder) == manifest
        True
    """
    try:
        content = read_json(Path(folder) / MANIFEST)
        manifest = Manifest(**content | {"row_format": RowFormat(**content["row_format"])})
        digest = manifest.digest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"The cache {folder} must have a readable manifest.json",
            got=f"{type(error).__name__}: {error}",
            fix="remove the folder.",
        ) from None
    if Path(folder).name != f"{manifest.name}-{digest}":
        raise CacheError(
            f"The manifest of the cache {folder} must match the name of the folder",
            got=f"a manifest of {manifest.folder}",
            fix="remove the cache with `richkd cache rm`, or give the folder its name back.",
        )
    return manifest


def list_caches(root: str | Path) -> list[Path]:
    """The folders of all caches in a folder, sorted by name.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.store import OutputCache
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache = OutputCache(root, Manifest("net-train", {}, 9, 1, RowFormat(2, 0)))
        ...     list_caches(root) == [cache.folder]
        True
    """
    return sorted(path.parent for path in Path(root).glob(f"*/{MANIFEST}"))


def readable_manifests(root: str | Path) -> list[Manifest]:
    """The manifests of all caches in a folder; unreadable manifests are skipped.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.store import OutputCache
        >>> manifest = Manifest("net-train", {}, images=9, views=1, row_format=RowFormat(2, 0))
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache = OutputCache(root, manifest)
        ...     readable_manifests(root) == [manifest]
        True
    """
    manifests = []
    for folder in list_caches(root):
        try:
            manifests.append(read_manifest(folder))
        except CacheError:
            continue
    return manifests


def explain_miss(root: str | Path, manifest: Manifest) -> str | None:
    """Explain why no existing cache can be used, for the log.

    Returns:
        The differences from the most similar cache with the same name. None if the cache of ``manifest``
        exists, or if there is no cache with this name.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.store import OutputCache
        >>> manifests = [Manifest("net-train", {"seed": seed}, 9, 1, RowFormat(2, 0)) for seed in (0, 1)]
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache = OutputCache(root, manifests[0])
        ...     explain_miss(root, manifests[1]).endswith("is not used: it differs in seed")
        True
    """
    if (Path(root) / manifest.folder).exists():
        return None
    same_name = [other for other in readable_manifests(root) if other.name == manifest.name]
    if not same_name:
        return None
    # The row format follows from the ingredients, so it is compared last.
    closest = min(
        same_name,
        key=lambda other: (
            len(manifest.differing_ingredients(other)),
            manifest.row_format != other.row_format,
        ),
    )
    return f"cache {closest.folder} is not used: it differs in {', '.join(manifest.differences(closest))}"
