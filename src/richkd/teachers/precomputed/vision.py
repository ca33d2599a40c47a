"""A vision teacher that only reads outputs which were computed elsewhere and imported into caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from richkd.config.schema import Config
from richkd.core.errors import CacheError, nearest
from richkd.core.home import expanded
from richkd.core.logs import Log
from richkd.core.types import Batch, Output
from richkd.data.augmentations import Clean
from richkd.data.batches import Store
from richkd.data.contents import Contents
from richkd.data.split import Split
from richkd.data.views import Augmentation, Views
from richkd.teachers.base import Sample, Teacher
from richkd.teachers.cache.cached import cache_name, count_of, split_ingredients
from richkd.teachers.cache.manifest import Manifest, readable_manifests
from richkd.teachers.cache.store import OutputCache

# Name of the ingredient that only imported caches have: the fingerprint of the imported file.
GIVEN = "imported outputs"


@dataclass(frozen=True)
class ImportedSplit:
    """The stored outputs of a split.

    Attributes:
        split: the images.
        augmentation: the augmentation that drew the views of the stored outputs; `Clean` for whole images.
        cache: the stored outputs.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset
        >>> from richkd.teachers.cache.row_format import RowFormat
        >>> split = Split("train", Dataset.from_dict({}), torch.tensor([0]), ("ant", "bee"), "image", None)
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache = OutputCache(root, Manifest("big-train", {}, 1, 1, RowFormat(2, 0)))
        ...     len(ImportedSplit(split, Clean(32), cache).cache)
        0
    """

    split: Split
    augmentation: Augmentation
    cache: OutputCache


class ImportedTeacher(Teacher):
    """Stored outputs of a vision teacher by split, image and view; see `open_imported`.

    Outputs of whole images are used for all views of the student, as those of `GivenClip`.

    Args:
        name: name of the teacher.
        splits: the stored outputs of each split.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset
        >>> from richkd.teachers.cache.row_format import RowFormat
        >>> train = Split("train", Dataset.from_dict({}), torch.tensor([0]), ("ant", "bee"), "image", None)
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache = OutputCache(root, Manifest("big-train", {}, 1, 1, RowFormat(2, 0)))
        ...     ImportedTeacher("big", {"train": ImportedSplit(train, Clean(32), cache)}).describe()
        'big: 0 outputs computed elsewhere, of whole images, width 0'
    """

    def __init__(self, name: str, splits: Mapping[str, ImportedSplit]) -> None:
        self.name, self.splits = name, dict(splits)
        self.feature_width = min(part.cache.format.features for part in self.splits.values())

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        """The stored outputs of these views, on the device of the pixels.

        Raises:
            CacheError: an output was not imported; the message has the image and the view.
        """
        assert not maps, "stored outputs have no intermediate maps"
        assert batch.split is not None, "stored outputs belong to a split"
        part, index_B = self.splits[batch.split], batch.index_B
        whole = isinstance(part.augmentation, Clean)
        number_B = torch.zeros_like(index_B) if whole else views.number_B
        if number_B is None or not (whole or views.augmentation == part.augmentation):
            raise CacheError(
                f"The outputs of '{self.name}' on split '{batch.split}' are for views of {part.augmentation}",
                got=f"views of {views.augmentation}",
                fix="import outputs of whole images (a file without 'views'), which are used for all views.",
            )
        return part.cache.read(self._positions(part, index_B, number_B)).to(batch.pixels_BHWC.device)

    def sample(self, store: Store, device: torch.device, most: int) -> Sample:
        cache = self.splits[store.split.name].cache
        index_N, number_N = cache.sample(most)
        return Sample(index_N, cache.read(cache.find(index_N, number_N)), "imported views")

    def check_complete(self) -> None:
        """Check that every image has an output in splits with outputs of whole images.

        Otherwise the error would occur only in the evaluation at the end of a run.

        Raises:
            CacheError: an output is missing; the message has the first image.
        """
        for part in self.splits.values():
            if isinstance(part.augmentation, Clean):
                index_N = torch.arange(len(part.split))
                self._positions(part, index_N, torch.zeros_like(index_N))

    def describe(self) -> str:
        stored = sum(len(part.cache) for part in self.splits.values())
        numbered = [part.cache for part in self.splits.values() if not isinstance(part.augmentation, Clean)]
        views = f"of {numbered[0].manifest.views:,} views in training" if numbered else "of whole images"
        return f"{self.name}: {stored:,} outputs computed elsewhere, {views}, width {self.feature_width}"

    def _positions(self, part: ImportedSplit, index_B: Tensor, number_B: Tensor) -> Tensor:
        position_B = part.cache.find(index_B, number_B)
        missing_B = (position_B < 0).nonzero()[:, 0]
        if len(missing_B):
            first = int(missing_B[0])
            view = "" if isinstance(part.augmentation, Clean) else f"view {int(number_B[first])} of "
            raise CacheError(
                f"The imported outputs of '{self.name}' must include every view that the run uses",
                got=f"{len(missing_B):,} of {len(index_B):,} missing in split '{part.split.name}': "
                f"{view}{part.split.key(int(index_B[first]))}",
                fix="compute these, too, and import the larger file with another --name; or import one "
                "output per whole image, without 'views'.",
            )
        return position_B


def open_imported(
    name: str,
    config: Config,
    stores: Mapping[str, Store],
    augmentations: Mapping[str, Augmentation],
    *,
    features: bool,
    log: Log,
) -> ImportedTeacher:
    """Open the teacher ``cache:NAME`` from the caches that ``richkd cache import`` wrote.

    Args:
        name: name of the teacher.
        config: the settings of the run.
        stores: the images of each split.
        augmentations: the augmentation of each split.
        features: whether a loss term reads features.
        log: receives one line per cache.

    Raises:
        CacheError: there is no folder or no such cache; the cache has other images, classes or views than the
            run; shards are damaged; or outputs or features are missing.
    """
    if config.cache.dir is None:
        raise CacheError(
            f"Teacher cache:{name} needs the folder of a teacher cache",
            got="no folder",
            fix="add --teacher-cache DIR.",
        )
    root = expanded(config.cache.dir)
    known = imported_manifests(root)
    splits = {}
    contents = Contents(root, log)
    for split, store in stores.items():
        named = [manifest for manifest in known if manifest.name == cache_name(name, split)]
        if not named:
            raise _not_imported(name, split, root, known)
        # Outputs for the views of the run are preferred to outputs of whole images.
        whole: Augmentation = Clean(store.size)
        drawn = augmentations[split]
        accepted = [whole] if drawn.count is None or drawn == whole else [drawn, whole]
        manifest, augmentation = _select_cache(named, store, accepted, config, contents)
        cache = OutputCache(root, manifest, repair=False)
        _refuse_unusable(cache, name, features=features)
        log(f"cache: {cache}")
        splits[split] = ImportedSplit(store.split, augmentation, cache)
    teacher = ImportedTeacher(name, splits)
    teacher.check_complete()
    return teacher


def imported_manifests(root: str | Path) -> list[Manifest]:
    """The manifests of all imported caches in a folder.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.row_format import RowFormat
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name, ingredients in (("big-train", {GIVEN: "sha256"}), ("net-train", {})):
        ...         cache = OutputCache(root, Manifest(name, ingredients, 9, 1, RowFormat(2, 0)))
        ...     [manifest.name for manifest in imported_manifests(root)]
        ['big-train']
    """
    return [manifest for manifest in readable_manifests(root) if GIVEN in manifest.ingredients]


def _not_imported(name: str, split: str, root: Path, known: Sequence[Manifest]) -> CacheError:
    """The error for a split without imported outputs of the teacher."""
    names = {str(manifest.ingredients["teacher"]) for manifest in known}
    fix = f"richkd cache import FILE --name {name} --teacher-cache {root} -c RECIPE"
    if names and name not in names:
        fix = nearest(name, names, f"`richkd cache ls {root}` lists all.")
    return CacheError(
        f"There are no imported outputs of '{name}' for split '{split}' in {root}",
        got=", ".join(sorted(names)) or "no imported outputs",
        fix=fix,
    )


def _refuse_unusable(cache: OutputCache, name: str, *, features: bool) -> None:
    """Refuse a damaged cache, and one without features if a loss term reads them."""
    if cache.damaged:
        raise CacheError(
            f"The cache {cache.folder} must be intact, because imported outputs cannot be computed again",
            got=f"shard {'; shard '.join(cache.damaged)}",
            fix="import the file again, which replaces damaged shards.",
        )
    if features and not cache.manifest.row_format.features:
        raise CacheError(
            f"A loss term reads features, so the imported outputs of '{name}' must have features",
            got=f"logits without features in {cache.folder}",
            fix="import features, too (array 'features' of the file), or use terms on logits only: "
            "--method.variant l or --method kd.",
        )


def _select_cache(
    named: Sequence[Manifest],
    store: Store,
    accepted: Sequence[Augmentation],
    config: Config,
    contents: Contents,
) -> tuple[Manifest, Augmentation]:
    """The cache that fits this run, with the first augmentation in ``accepted`` for which one exists."""
    images, seed = store.fingerprint(contents), config.train.seed
    compared: list[tuple[list[str], Manifest, Augmentation]] = []
    for augmentation in accepted:
        expected = {
            "class names": list(store.split.class_names),
            **split_ingredients(images, augmentation, seed),
        }
        for manifest in named:
            imported = {key: manifest.ingredients[key] for key in ("teacher", GIVEN)}
            rows = replace(manifest.row_format, top_k=config.cache.top_k)
            needed = Manifest(
                manifest.name, imported | expected, len(store.split), count_of(augmentation), rows
            )
            compared.append((manifest.differences(needed), manifest, augmentation))
    differing, manifest, augmentation = min(compared, key=lambda entry: (len(entry[0]), "views" in entry[0]))
    if differing:
        raise CacheError(
            "Imported outputs must belong to this run's images, classes and views",
            got=f"cache {manifest.folder}, which differs in {', '.join(differing)}",
            fix="import the file with the settings of this run: data, data.size or student, "
            "data.val_fraction, train.seed, augment and cache.top_k.",
        )
    matching = [
        other.folder for differing, other, drawn in compared if not differing and drawn == augmentation
    ]
    if len(matching) > 1:
        raise CacheError(
            f"The name {manifest.name} must refer to the outputs of one file",
            got=", ".join(matching),
            fix="remove all but one with `richkd cache rm`.",
        )
    return manifest, augmentation
