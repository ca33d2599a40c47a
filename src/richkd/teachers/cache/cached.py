"""A teacher with a cache: its outputs are computed once, stored, and later read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from richkd.config.schema import CacheConfig
from richkd.core.errors import CacheError
from richkd.core.home import expanded
from richkd.core.logs import Log
from richkd.core.types import Batch, Output
from richkd.data.batches import Store
from richkd.data.contents import Contents
from richkd.data.views import Augmentation, Views
from richkd.teachers.base import Teacher, ZeroShot
from richkd.teachers.cache.manifest import Manifest, explain_miss
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.cache.store import OutputCache

Caches = Mapping[tuple[str, Augmentation], OutputCache]


class CachedTeacher(Teacher):
    """A teacher with one cache per split: stored outputs are read, all others are computed and stored.

    If the output of any image of a batch is not stored, the whole batch is computed. So computed batches
    always have full size, and outputs are bit-identical to those of a run without a cache. Views of other
    augmentations and pixels that belong to no split are always computed.

    Args:
        teacher: the teacher that computes outputs.
        caches: the cache for each pair of split name and augmentation.

    Attributes:
        read: number of images whose outputs were read from a cache.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torch import arange, eye
        >>> from richkd.data.augmentations import Clean
        >>> from richkd.teachers.precomputed.clip import GivenClip
        >>> clip = GivenClip(eye(2), eye(2), {}, logit_scale=100.0, fingerprint="")
        >>> with TemporaryDirectory() as folder:
        ...     cache = OutputCache(folder, Manifest("clip", {}, 2, 1, RowFormat(2, 2)))
        ...     teacher = CachedTeacher(clip, {("train", Clean(8)): cache})
        ...     teacher.lacks("train", arange(2), Clean(8).draw(0, 0, arange(2)))
        True
    """

    def __init__(self, teacher: Teacher, caches: Caches) -> None:
        self.teacher, self.caches = teacher, dict(caches)
        self.name, self.feature_width, self.role = teacher.name, teacher.feature_width, teacher.role
        self.logit_scale, self.sees_pixels = teacher.logit_scale, teacher.sees_pixels
        self.network, self.framing = teacher.network, teacher.framing
        self.read = 0

    @property
    def computed(self) -> int:  # type: ignore[override]
        """Number of images that were processed by the network of the teacher."""
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
        stored = Output(output.logits_BC[new_B], output.feats_BF[new_B])
        try:
            cache.add(batch.index_B[new_B], views.number_B[new_B], stored)
        except CacheError as error:
            raise self._unstorable(error, stored, batch.index_B[new_B], cache) from error
        # Sparse rows drop small logits. Drop them now, too, so that later runs have the same targets.
        if cache.format.top_k is None:
            return output
        return self.teacher.restored(cache.format.restored(output).to(output.logits_BC.device))

    def lacks(self, split: str, index_B: Tensor, views: Views) -> bool:
        """Whether the output of any of these views, drawn by the augmentation of a cache, is not stored."""
        assert views.augmentation is not None
        assert views.number_B is not None
        return bool((self.caches[split, views.augmentation].find(index_B, views.number_B) < 0).any())

    def _unstorable(
        self, error: CacheError, output: Output, index_B: Tensor, cache: OutputCache
    ) -> CacheError:
        """The error of a cache with the teacher and its first image."""
        good_B = torch.cat([output.logits_BC.half(), output.feats_BF.half()], dim=1).isfinite().all(dim=1)
        bad = index_B[(~good_B).cpu()].tolist()
        return CacheError(
            f"{error.rule}; those of {self.role} {self.name} are not",
            got=f"{error.got} for {len(bad)} of {len(index_B)} images, first image {bad[0]} of the data of "
            f"{cache.manifest.name}",
            fix=error.fix,
        )

    def flush(self) -> None:
        """Write outputs that are not yet on disk."""
        for cache in self.caches.values():
            cache.flush()

    def exchange(self) -> None:
        for cache in self.caches.values():
            cache.exchange()


def with_cache(
    teacher: Teacher,
    config: CacheConfig,
    stores: Mapping[str, Store],
    augmentations: Mapping[str, Augmentation],
    class_names: Sequence[str],
    *,
    seed: int,
    features: bool,
    log: Log,
) -> Teacher:
    """Add a cache for each split under ``config.dir`` to a teacher.

    Args:
        teacher: the teacher that computes outputs.
        config: folder and row format of the cache.
        stores: the images of each split.
        augmentations: the augmentation of each split.
        class_names: names of the classes, in the order of the logits.
        seed: seed of the run; it becomes an ingredient if the views of an augmentation depend on it.
        features: store features in sparse rows, too; required by loss terms that read features.
        log: receives one line per cache, and the reason why a cache with other settings is not used.

    Returns:
        A `CachedTeacher`; or ``teacher`` itself if there is no folder or its outputs are not to be cached.

    Raises:
        CacheError: the views of an augmentation never repeat, or ``config.top_k`` is out of range.
        CheckpointError: the folder cannot be written.

    Example:
        >>> import torch
        >>> from richkd.teachers.precomputed.clip import GivenClip
        >>> clip = GivenClip(torch.eye(2), torch.eye(2), {}, logit_scale=100.0, fingerprint="")
        >>> with_cache(clip, CacheConfig(), {}, {}, [], seed=0, features=True, log=print) is clip
        True
    """
    rows = teacher.row_format
    if config.dir is None or rows is None:
        return teacher
    root = expanded(config.dir)
    # Rows of CLIP have features only; they do not depend on the classes.
    classes = {"class names": list(class_names)} if rows.classes else {}
    if rows.classes and config.top_k is not None:
        rows = RowFormat(rows.classes, rows.features if features else 0, config.top_k)
    caches = {}
    contents = Contents(root, log)
    for split, store in stores.items():
        augmentation = augmentations[split]
        ingredients = teacher.ingredients(trained=split == "train") | classes
        ingredients |= split_ingredients(store.fingerprint(contents), augmentation, seed)
        name = cache_name(teacher.name, split)
        # On held-out images, logits are float32. CLIP rounds its features before it computes logits.
        wide = split != "train" and rows.classes > 0 and rows.top_k is None
        row_format = replace(rows, wide=wide)
        manifest = Manifest(name, ingredients, len(store.split), count_of(augmentation), row_format)
        if reason := explain_miss(root, manifest):
            log(reason)
        cache = caches[split, augmentation] = OutputCache(root, manifest)
        for damage in cache.damaged:
            log(f"warning: {cache.folder.name}: shard {damage}; it was removed and will be computed again")
        log(f"cache: {cache}")
    return CachedTeacher(teacher, caches)


def cache_name(teacher: str, split: str) -> str:
    """The name of the cache of a teacher for a split, without the digest.

    Example:
        >>> cache_name("local-dir:teachers/resnet50", "train")
        'resnet50-train'
    """
    return re.sub(r"[^\w.-]+", "-", f"{Path(teacher).name}-{split}").strip("-")


def split_ingredients(images: str, augmentation: Augmentation, seed: int) -> dict[str, Any]:
    """The ingredients of a cache that do not depend on the teacher: images, augmentation and seed.

    Args:
        images: fingerprint of the images of the split.
        augmentation: the augmentation of the split.
        seed: seed of the run; included only if the views of the augmentation depend on it.

    Example:
        >>> from richkd.data.augmentations import Clean
        >>> split_ingredients("sha256", Clean(32), seed=0)
        {'images': 'sha256', 'views': {'augmentation': 'Clean', 'size': 32}}
    """
    ingredients = {"images": images, "views": described(augmentation)}
    return ingredients | ({"seed": seed} if augmentation.seeded else {})


def count_of(augmentation: Augmentation) -> int:
    """The number of different views that an augmentation draws of an image.

    Raises:
        CacheError: the number is unlimited, so a stored view would never be read again.

    Example:
        >>> from richkd.data.augmentations import CropFlip
        >>> count_of(CropFlip(32, pad=4))
        162
    """
    if augmentation.count is None:
        raise CacheError(
            "A teacher cache needs an augmentation with a limited number of views",
            got=f"augmentation {type(augmentation).__name__}, whose views never repeat",
            fix="add --augment.num_views 8, or train without --teacher-cache.",
        )
    return augmentation.count


def described(augmentation: Augmentation) -> dict[str, Any]:
    """The class and the settings of an augmentation that are not None, as values for JSON.

    Example:
        >>> from richkd.data.augmentations import Clean
        >>> described(Clean(32))
        {'augmentation': 'Clean', 'size': 32}
    """
    settings: dict[str, Any] = asdict(augmentation)  # type: ignore[call-overload]
    given = {name: value for name, value in settings.items() if value is not None}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return {"augmentation": type(augmentation).__name__, **plain}
