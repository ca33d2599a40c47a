"""``richkd cache import``: check outputs of a vision teacher that were computed elsewhere, and store them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from richkd.config.schema import Config
from richkd.core.errors import CacheError
from richkd.core.home import expanded
from richkd.core.logs import Log
from richkd.core.types import UNLABELED, Output
from richkd.data.augmentations import Clean, build_augmentation
from richkd.data.batches import Store, open_store
from richkd.data.contents import Contents
from richkd.data.framing import Framing
from richkd.data.sources import open_data
from richkd.data.views import Augmentation
from richkd.metrics.accuracy import accuracy, near_chance
from richkd.pipeline.assemble import build_student
from richkd.teachers.cache.cached import cache_name, count_of, split_ingredients
from richkd.teachers.cache.manifest import Manifest
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.cache.store import SHARD_BYTES, OutputCache
from richkd.teachers.precomputed.outputs_file import GivenOutputs, RowIndex, paired, read_outputs
from richkd.teachers.precomputed.vision import GIVEN, imported_manifests


def import_outputs(
    path: str | Path, config: Config, *, name: str | None = None, log: Log = lambda message: None
) -> list[OutputCache]:
    """Store the outputs in a file in one cache per split; a run uses them as ``--teacher cache:NAME``.

    The file is an ``.npz`` file, or a ``.safetensors`` file with the lists of text as JSON in its metadata:

    - ``logits`` (N, C), and optional ``features`` (N, F): floating-point;
    - ``classnames``: C names in the order of the data; letter case, underscores and spaces may differ;
    - ``files``, ``file``, ``keys`` or ``key``: N image keys;
    - optional ``views``: N integers, the view number of each row in the training augmentation. Rows of other
      splits are of the whole image and have view number 0. Without ``views``, all rows are of whole images,
      and every image needs a row.

    Rows with other keys are ignored. Outputs that are already stored are not stored again.

    Args:
        path: the file.
        config: the settings of the run. Data, augmentation, seed and image size determine the image and view
            of each row.
        name: name of the teacher; by default the file name without its extension.
        log: receives one line per split with the number of stored outputs and their accuracy.

    Returns:
        The caches of all splits.

    Raises:
        CacheError: the file or a row cannot be used, images have no row, there is no cache folder, or another
            file was imported under the same name.
        RichKDError: the data cannot be opened, or have other classes.
    """
    if config.cache.dir is None:
        raise CacheError("cache.dir must be set", got="no folder", fix="add --teacher-cache DIR.")
    root = expanded(config.cache.dir)
    data = open_data(config.data, config.train.seed)
    given = read_outputs(path, data.class_names)
    name = name or given.path.stem
    framing = Framing(config.data.size or build_student(config, data).size)
    clean = Clean(framing.size)
    drawn = clean if given.number_N is None else build_augmentation(config.augment, framing.size)
    augmentations: dict[str, Augmentation] = {
        split: drawn if split == "train" else clean for split in data.splits
    }
    rows = paired(given, data.splits, augmentations)
    limit, workers = config.data.in_memory_gb, config.train.workers
    stores = {
        name: open_store(split, framing, in_memory_gb=limit, workers=workers)
        for name, split in data.splits.items()
    }
    contents = Contents(root, log)
    manifests = {
        split: _manifest(name, given, store, augmentations[split], config, contents)
        for split, store in stores.items()
    }
    _check_name(name, root, manifests)
    caches = []
    for split, store in stores.items():
        cache = OutputCache(root, manifests[split])
        _fill(cache, given, rows[split])
        caches.append(cache)
        _report(given, rows[split], store, log)
    log(f"to use these outputs: --teacher cache:{name} --teacher-cache {root}")
    return caches


def _manifest(
    name: str,
    given: GivenOutputs,
    store: Store,
    augmentation: Augmentation,
    config: Config,
    contents: Contents,
) -> Manifest:
    """The manifest of the cache for the outputs of a split."""
    split, top_k = store.split, config.cache.top_k
    wide = split.name != "train" and top_k is None
    row_format = RowFormat(len(split.class_names), given.feats_NF.shape[1], top_k, wide=wide)
    ingredients = {
        "teacher": name,
        GIVEN: given.fingerprint,
        "class names": list(split.class_names),
        **split_ingredients(store.fingerprint(contents), augmentation, config.train.seed),
    }
    return Manifest(cache_name(name, split.name), ingredients, len(split), count_of(augmentation), row_format)


def _check_name(name: str, root: Path, manifests: Mapping[str, Manifest]) -> None:
    """Check that no other file with outputs for the same images was imported under this name."""
    for stored in imported_manifests(root):
        for manifest in manifests.values():
            same_images = all(
                stored.ingredients[key] == manifest.ingredients[key] for key in ("images", "class names")
            )
            if stored.name == manifest.name and same_images and GIVEN in stored.differences(manifest):
                raise CacheError(
                    f"The name '{name}' must refer to the outputs of one file",
                    got=f"outputs of another file in {root / stored.folder}",
                    fix=f"choose another --name, or remove the cache: richkd cache rm {root} {stored.folder}",
                )


def _fill(cache: OutputCache, given: GivenOutputs, rows: RowIndex) -> None:
    """Store the rows that are not yet in the cache, one shard at a time."""
    new_R = (cache.find(rows.index_R, rows.number_R) < 0).nonzero()[:, 0]
    if not len(new_R):  # torch.split would return one empty part, which becomes an empty shard
        return
    for part_P in torch.split(new_R, max(1, SHARD_BYTES // cache.format.row_bytes)):
        row_P = rows.row_R[part_P]
        output = Output(given.logits_NC[row_P].float(), given.feats_NF[row_P].float())
        cache.add(rows.index_R[part_P], rows.number_R[part_P], output)
    cache.flush()


def _report(given: GivenOutputs, rows: RowIndex, store: Store, log: Log) -> None:
    """Log the number of stored outputs of a split, and the accuracy on images with labels."""
    split, count = store.split, len(rows.row_R)
    images = len(np.unique(rows.index_R.numpy()))
    line = f"{split.name}: {count:,} outputs stored, of {images:,} of {len(split):,} images"
    labels_R = split.labels_N[rows.index_R]
    labeled_R = labels_R != UNLABELED
    if not labeled_R.any():
        log(line)
        return
    top1 = accuracy(given.logits_NC[rows.row_R[labeled_R]].float(), labels_R[labeled_R])
    log(f"{line}, accuracy {top1:.1%}")
    classes, images = len(split.class_names), len(np.unique(rows.index_R[labeled_R].numpy()))
    if split.name == "train" and near_chance(top1, classes, images):
        log(
            f"warning: this is about chance ({1 / classes:.1%}) or below; the logits are probably in another "
            "order than 'classnames', or the keys belong to other images"
        )
