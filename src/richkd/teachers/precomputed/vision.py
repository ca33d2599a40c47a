"""A vision teacher whose outputs were computed elsewhere and imported into caches: it only reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from richkd.config.schema import Config
from richkd.core.errors import CacheError, nearest
from richkd.core.types import Batch, Output
from richkd.data.augmentations import Clean
from richkd.data.batches import Store
from richkd.data.split import Split
from richkd.data.views import Augmentation, Views
from richkd.teachers.base import Sample, Teacher
from richkd.teachers.cache.cached import cache_name, count_of, split_ingredients
from richkd.teachers.cache.store import Manifest, OutputCache, readable_manifests

# The ingredient that only imported caches have.
GIVEN = "given arrays"


@dataclass(frozen=True)
class ImportedSplit:
    """The stored outputs of a split, and the augmentation whose views they are of."""

    split: Split
    augmentation: Augmentation
    cache: OutputCache


class ImportedTeacher(Teacher):
    """Stored outputs of a vision teacher, looked up by split, image and view; see `open_imported`.

    Outputs of whole images serve for whatever view the student sees, as a CLIP's given outputs do.

    Attributes:
        computed: images that went through a network: none ever does.
    """

    def __init__(self, name: str, splits: Mapping[str, ImportedSplit]) -> None:
        self.name, self.splits = name, dict(splits)
        self.feature_width = min(part.cache.format.features for part in self.splits.values())

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        """Logits and features (B, F) of the batch's views, on the device of its pixels.

        Raises:
            CacheError: a view that was not imported, with its image.
        """
        assert not maps, "stored outputs have no maps"
        assert batch.split is not None, "stored outputs belong to a split"
        part, index_B = self.splits[batch.split], batch.index_B
        whole = isinstance(part.augmentation, Clean)
        number_B = torch.zeros_like(index_B) if whole else views.number_B
        if number_B is None or not (whole or views.augmentation == part.augmentation):
            raise CacheError(
                f"The outputs of '{self.name}' on split '{batch.split}' are of views of {part.augmentation}",
                got=f"views of {views.augmentation}",
                fix="import outputs of whole images, a file without 'views', which serve for any view.",
            )
        return part.cache.read(self._found(part, index_B, number_B)).to(batch.pixels_BHWC.device)

    def sample(self, store: Store, device: torch.device, most: int) -> Sample:
        cache = self.splits[store.split.name].cache
        index_N, number_N = cache.sample(most)
        return Sample(index_N, cache.read(cache.find(index_N, number_N)), "imported views")

    def check_complete(self) -> None:
        """Refuse whole images without an output, which evaluation would ask for at the end of a run.

        Raises:
            CacheError: naming the first image.
        """
        for part in self.splits.values():
            if isinstance(part.augmentation, Clean):
                index_N = torch.arange(len(part.split))
                self._found(part, index_N, torch.zeros_like(index_N))

    def describe(self) -> str:
        stored = sum(len(part.cache) for part in self.splits.values())
        numbered = [part.cache for part in self.splits.values() if not isinstance(part.augmentation, Clean)]
        seen = f"of {numbered[0].manifest.views:,} views in training" if numbered else "of whole images"
        return f"{self.name}: {stored:,} outputs computed elsewhere, {seen}, width {self.feature_width}"

    def _found(self, part: ImportedSplit, index_B: Tensor, number_B: Tensor) -> Tensor:
        position_B = part.cache.find(index_B, number_B)
        missing_B = (position_B < 0).nonzero()[:, 0]
        if len(missing_B):
            one = int(missing_B[0])
            view = "" if isinstance(part.augmentation, Clean) else f"view {int(number_B[one])} of "
            raise CacheError(
                f"The outputs of '{self.name}' must hold every view that the run asks for",
                got=f"{len(missing_B):,} of {len(index_B):,} missing in split '{part.split.name}': "
                f"{view}{part.split.key(int(index_B[one]))}",
                fix="compute these too and import the larger file with another --name, or import outputs of "
                "whole images, one for each, without 'views'.",
            )
        return position_B


def open_imported(
    name: str,
    config: Config,
    stores: Mapping[str, Store],
    augmentations: Mapping[str, Augmentation],
    *,
    features: bool,
    log: Callable[[str], None],
) -> ImportedTeacher:
    """The teacher ``cache:NAME`` of that name, from the caches that ``richkd cache import`` wrote.

    Args:
        stores: the splits.
        augmentations: what each split is seen through.
        features: whether a loss term reads features.
        log: receives a line for each cache that is read.

    Raises:
        CacheError: no folder or no such cache; images, classes or views are others than the run's; shards
            are damaged; features or images lack.
    """
    if config.cache.dir is None:
        raise CacheError(
            f"Teacher cache:{name} is read from a folder of caches",
            got="no folder",
            fix="add --teacher-cache DIR.",
        )
    root = config.cache.dir.expanduser()
    known = imported_manifests(root)
    splits = {}
    for split, store in stores.items():
        named = [manifest for manifest in known if manifest.name == cache_name(name, split)]
        if not named:
            names = {str(manifest.ingredients["teacher"]) for manifest in known}
            raise CacheError(
                f"There are no imported outputs of '{name}' for split '{split}' in {root}",
                got=", ".join(sorted(names)) or "no imported outputs",
                fix=nearest(name, names)
                if names and name not in names
                else f"richkd cache import FILE --name {name} --teacher-cache {root} -c RECIPE",
            )
        # Outputs of the very views of the run come before those of whole images.
        whole: Augmentation = Clean(store.size)
        seen = augmentations[split]
        accepted = [whole] if seen.count is None or seen == whole else [seen, whole]
        manifest, augmentation = _chosen(named, store, accepted, config)
        cache = OutputCache(root, manifest, mend=False)
        if cache.damaged:
            raise CacheError(
                f"The cache {cache.folder} must be whole, as its outputs cannot be computed",
                got=f"shard {'; shard '.join(cache.damaged)}",
                fix="import its file again, which mends it.",
            )
        if features and not manifest.rows.features:
            raise CacheError(
                f"A loss term reads features, which the imported outputs of '{name}' must then have",
                got=f"logits without features in {cache.folder}",
                fix="import features too (array 'features' of the file), or use terms on logits only: "
                "--method.variant l or --method kd.",
            )
        log(f"cache: {cache}")
        splits[split] = ImportedSplit(store.split, augmentation, cache)
    teacher = ImportedTeacher(name, splits)
    teacher.check_complete()
    return teacher


def imported_manifests(root: Path) -> list[Manifest]:
    """The manifests of all imported caches in a folder."""
    return [manifest for manifest in readable_manifests(root) if GIVEN in manifest.ingredients]


def _chosen(
    named: Sequence[Manifest],
    store: Store,
    accepted: Sequence[Augmentation],
    config: Config,
) -> tuple[Manifest, Augmentation]:
    """The cache that belongs to this run, with its augmentation: the first of ``accepted`` that there is."""
    images, seed = store.fingerprint(), config.train.seed
    compared: list[tuple[list[str], Manifest, Augmentation]] = []
    for augmentation in accepted:
        belonging = {
            "class names": list(store.split.class_names),
            **split_ingredients(images, augmentation, seed),
        }
        for manifest in named:
            own = {key: manifest.ingredients[key] for key in ("teacher", GIVEN)}
            rows = replace(manifest.rows, top_k=config.cache.top_k)
            wanted = Manifest(manifest.name, own | belonging, len(store.split), count_of(augmentation), rows)
            compared.append((manifest.differences(wanted), manifest, augmentation))
    differing, manifest, augmentation = min(compared, key=lambda one: (len(one[0]), "views" in one[0]))
    if differing:
        raise CacheError(
            "Imported outputs must be of this run's images, classes and views",
            got=f"cache {manifest.folder}, which differs in {', '.join(differing)}",
            fix="import the file with the settings of this run: data, data.size or student, "
            "data.val_fraction, train.seed, views and cache.top_k.",
        )
    twins = [one.folder for differing, one, of in compared if not differing and of == augmentation]
    if len(twins) > 1:
        raise CacheError(
            f"The name {manifest.name} must stand for one file's outputs",
            got=", ".join(twins),
            fix="remove all but one with `richkd cache rm`.",
        )
    return manifest, augmentation
