"""A teacher whose outputs are computed once, stored, and read afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from richkd.config.schema import CacheConfig
from richkd.core.errors import CacheError
from richkd.core.types import Batch, Output
from richkd.data.batches import Store
from richkd.data.views import Augmentation, Views
from richkd.teachers.base import Teacher, ZeroShot
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.cache.store import Manifest, OutputCache, explain_miss

Caches = Mapping[tuple[str, Augmentation], OutputCache]


class CachedTeacher(Teacher):
    """A teacher with a cache for each split: stored outputs are read, all others are computed and stored.

    If any image of a batch is new, the whole batch is computed. Every batch that is computed then has one
    size, and the outputs are bit-identical to those of a run without a cache. Views of other augmentations,
    and pixels that no split holds, are always computed.

    Attributes:
        read: number of images whose outputs came from a cache.
    """

    def __init__(self, teacher: Teacher, caches: Caches) -> None:
        self.teacher, self.caches = teacher, dict(caches)
        self.name, self.feature_width, self.role = teacher.name, teacher.feature_width, teacher.role
        self.logit_scale, self.sees_pixels = teacher.logit_scale, teacher.sees_pixels
        self.network = teacher.network
        self.read = 0

    @property
    def computed(self) -> int:  # type: ignore[override]
        """Number of images that went through the teacher's network."""
        return self.teacher.computed

    @property
    def uncached(self) -> Teacher:
        return self.teacher

    @property
    def zero_shot(self) -> ZeroShot | None:
        inner = self.teacher.zero_shot
        if inner is None:
            return None

        def reweighted(class_embeddings_CD: Tensor) -> Teacher:
            return CachedTeacher(inner.reweighted(class_embeddings_CD), self.caches)

        return replace(inner, reweighted=reweighted)

    def describe(self) -> str:
        return self.teacher.describe()

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        key = (batch.split, views.augmentation)
        cache = None if None in key else self.caches.get(key)  # type: ignore[arg-type]
        if cache is None or views.number_B is None or maps:
            return self.teacher.outputs(batch, views, maps=maps)
        position_B = cache.find(batch.index_B, views.number_B)
        missing_B = position_B < 0
        if not missing_B.any():
            self.read += len(position_B)
            return self.teacher.restored(cache.read(position_B).to(batch.pixels_BHWC.device))
        output = self.teacher.outputs(batch, views)
        new_B = missing_B.nonzero()[:, 0]
        cache.add(
            batch.index_B[new_B],
            views.number_B[new_B],
            Output(output.logits_BC[new_B], output.feats_BF[new_B]),
        )
        # Sparse rows drop logits; they must be dropped the first time, too.
        if cache.format.top_k is None:
            return output
        return self.teacher.restored(_through(cache, output).to(output.logits_BC.device))

    def lacks(self, split: str, index_B: Tensor, views: Views) -> bool:
        """Whether any of these views of a split with a cache would have to be computed."""
        assert views.augmentation is not None
        assert views.number_B is not None
        return bool((self.caches[split, views.augmentation].find(index_B, views.number_B) < 0).any())

    def flush(self) -> None:
        """Write what is not yet on disk."""
        for cache in self.caches.values():
            cache.flush()


def with_cache(
    teacher: Teacher,
    config: CacheConfig,
    stores: Mapping[str, Store],
    augmentations: Mapping[str, Augmentation],
    class_names: Sequence[str],
    *,
    seed: int,
    features: bool,
    log: Callable[[str], None],
) -> Teacher:
    """The teacher with a cache for each split under ``config.dir``; itself where it stores nothing.

    Args:
        teacher: outputs that were computed elsewhere are stored already.
        stores: the splits.
        augmentations: what each split is seen through.
        class_names: the order of the columns of stored logits.
        seed: the run's seed, an ingredient where an augmentation's views depend on it.
        features: whether sparse rows are to keep features, which the feature loss needs.
        say: told what is there, and why a cache of another setting is not used.

    Raises:
        CacheError: views that never repeat, or rows that cannot be as asked.
        CheckpointError: the folder cannot be written.
    """
    rows = teacher.row_format
    if config.dir is None or rows is None:
        return teacher
    root, own = config.dir.expanduser(), teacher.ingredients()
    # A CLIP's rows hold features alone: they have no largest logits, and outlive a change of classes.
    if rows.classes:
        own["class names"] = list(class_names)
        if config.top_k is not None:
            rows = RowFormat(rows.classes, rows.features if features else 0, config.top_k)
    caches = {}
    for split, store in stores.items():
        augmentation = augmentations[split]
        ingredients = own | split_ingredients(store.fingerprint(), augmentation, seed)
        name = cache_name(teacher.name, split)
        manifest = Manifest(name, ingredients, len(store.split), count_of(augmentation), rows)
        if missed := explain_miss(root, manifest):
            log(missed)
        cache = caches[split, augmentation] = OutputCache(root, manifest)
        for damage in cache.damaged:
            log(f"warning: {cache.folder.name}: shard {damage}; it was removed, and will be computed again")
        log(f"cache: {cache}")
    return CachedTeacher(teacher, caches)


def cache_name(teacher: str, split: str) -> str:
    """What a teacher's cache of a split is called, before its digest."""
    return re.sub(r"[^\w.-]+", "-", f"{Path(teacher).name}-{split}").strip("-")


def split_ingredients(images: str, augmentation: Augmentation, seed: int) -> dict[str, Any]:
    """What outputs of a split depend on besides the teacher.

    Args:
        images: the fingerprint of its images.
        augmentation: what it is seen through.
        seed: the run's seed, which counts where the augmentation's views depend on it.
    """
    ingredients = {"images": images, "views": described(augmentation)}
    return ingredients | ({"seed": seed} if augmentation.seeded else {})


def count_of(augmentation: Augmentation) -> int:
    """The number of views that an image has.

    Raises:
        CacheError: they are endless, so that none would ever be read again.
    """
    if augmentation.count is None:
        raise CacheError(
            "A cache holds views that come again",
            got=f"augmentation {type(augmentation).__name__}, whose views never repeat",
            fix="add --augment.num_views 8, or do without a cache.",
        )
    return augmentation.count


def described(augmentation: Augmentation) -> dict[str, Any]:
    """An augmentation's settings as plain values."""
    settings: dict[str, Any] = asdict(augmentation)  # type: ignore[call-overload]
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {"augmentation": type(augmentation).__name__, **plain}


def _through(cache: OutputCache, output: Output) -> Output:
    return cache.format.unpack(cache.format.pack(output))
