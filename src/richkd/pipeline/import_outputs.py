"""``richkd cache import``: outputs that a vision teacher gave elsewhere, checked and stored in caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from richkd.config.schema import Config
from richkd.core.errors import CacheError
from richkd.core.types import Output
from richkd.data.augmentations import Clean, build_augmentation
from richkd.data.batches import Store
from richkd.data.sources import open_data
from richkd.metrics.accuracy import accuracy
from richkd.pipeline.assemble import build_student, open_stores
from richkd.teachers.cache.cached import cache_name, count_of, split_ingredients
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.cache.store import SHARD_BYTES, Manifest, OutputCache
from richkd.teachers.precomputed.outputs_file import GivenOutputs, Rows, paired, read_outputs
from richkd.teachers.precomputed.vision import GIVEN, imported_manifests

Log = Callable[[str], None]


def import_outputs(
    path: str | Path, config: Config, *, name: str | None = None, log: Log = lambda message: None
) -> list[OutputCache]:
    """Store a file's outputs in a cache for each split, to be used as ``--teacher cache:NAME``.

    The file is an ``.npz``, or a ``.safetensors`` whose lists of text are JSON in its metadata:

    - ``logits`` (N, C) and, optionally, ``features`` (N, F), floating point;
    - ``classnames``: C names in the order of the data's; case, underscores and blanks may differ;
    - ``files``, ``file``, ``keys`` or ``key``: N names that pair rows with images;
    - optionally ``views``, N integers: each row's number among the views of the training augmentation. Rows
      of other splits have the number 0, and are of the whole image. Without ``views`` all rows are of
      whole images, and every image needs one.

    Rows of unknown images are passed over. What is stored already is not stored again.

    Args:
        config: the run's settings; data, views, seed and size decide what the rows belong to.
        name: what the teacher is called; the file's stem if None.
        say: told what was stored and how much of it is right, a line for each split.

    Raises:
        CacheError: the file, or a row in it, cannot be used; images lack; no cache folder; the name is taken.
        RichKDError: the data cannot be opened, or have other classes.
    """
    if config.cache.dir is None:
        raise CacheError("The cache's folder must be named", got="none", fix="add --teacher-cache DIR.")
    root = config.cache.dir.expanduser()
    data = open_data(config.data, config.train.seed)
    given = read_outputs(path, data.class_names)
    name = name or given.path.stem
    size = config.data.size or build_student(config, data).size
    training = Clean(size) if given.number_N is None else build_augmentation(config.augment, size)
    augmentations = {split: training if split == "train" else Clean(size) for split in data.splits}
    rows = paired(given, data.splits, augmentations)
    stores = open_stores(config, data, size)
    layout = RowFormat(len(data.class_names), given.feats_NF.shape[1], config.cache.top_k)
    manifests = {}
    for split, store in stores.items():
        own = {"teacher": name, GIVEN: given.fingerprint, "class names": list(data.class_names)}
        ingredients = own | split_ingredients(store.fingerprint(), augmentations[split], config.train.seed)
        views = count_of(augmentations[split])
        manifests[split] = Manifest(cache_name(name, split), ingredients, len(store.split), views, layout)
    _check_name(name, root, manifests)
    caches = []
    for split, store in stores.items():
        cache = OutputCache(root, manifests[split])
        _fill(cache, given, rows[split])
        caches.append(cache)
        _report(given, rows[split], store, log)
    log(f"use them as --teacher cache:{name} --teacher-cache {root}")
    return caches


def _check_name(name: str, root: Path, manifests: Mapping[str, Manifest]) -> None:
    """Refuse a name that stands for another file's outputs of the same images."""
    for result in imported_manifests(root):
        for manifest in manifests.values():
            same = all(
                result.ingredients[key] == manifest.ingredients[key] for key in ("images", "class names")
            )
            if result.name == manifest.name and same and GIVEN in result.differences(manifest):
                raise CacheError(
                    f"The name '{name}' must stand for the outputs of one file",
                    got=f"outputs of another file in {root / result.folder}",
                    fix=f"choose another --name, or remove those: richkd cache rm {root} {result.folder}",
                )


def _fill(cache: OutputCache, given: GivenOutputs, rows: Rows) -> None:
    """Store what the cache does not hold, a shard's worth at a time."""
    new_R = (cache.find(rows.index_R, rows.number_R) < 0).nonzero()[:, 0]
    if not len(new_R):  # no row makes a shard as well, an empty one
        return
    for part_P in torch.split(new_R, max(1, SHARD_BYTES // cache.format.row_bytes)):
        row_P = rows.row_R[part_P]
        output = Output(given.logits_NC[row_P].float(), given.feats_NF[row_P].float())
        cache.add(rows.index_R[part_P], rows.number_R[part_P], output)
    cache.flush()


def _report(given: GivenOutputs, rows: Rows, store: Store, log: Log) -> None:
    """Say how much of a split was stored, and how much of it is right."""
    split, count = store.split, len(rows.row_R)
    images = len(np.unique(rows.index_R.numpy()))
    line = f"{split.name}: {count:,} outputs stored, of {images:,} of {len(split):,} images"
    if count == 0:
        log(line)
        return
    top1 = accuracy(given.logits_NC[rows.row_R].float(), split.labels_N[rows.index_R])
    log(f"{line}, {top1:.1%} right")
    chance = 1 / len(split.class_names)
    # Two standard errors of guessing, and for many images a twentieth of the way from chance to perfect.
    margin = max(2 * (chance * (1 - chance) / images) ** 0.5, 0.05 * (1 - chance))
    if split.name == "train" and top1 <= chance + margin:
        log(
            f"warning: that is about chance ({chance:.1%}) or below; the logits' classes are probably in "
            "another order than 'classnames' says, or the keys name other images"
        )
