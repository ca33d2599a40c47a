"""``richkd bank import``: outputs that a vision teacher gave elsewhere, checked and stored in banks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from richkd.config.schema import Config
from richkd.core.errors import BankError
from richkd.core.types import Output
from richkd.data.batches import Store
from richkd.data.views import Clean, recipe
from richkd.metrics.accuracy import accuracy
from richkd.pipeline.assemble import build_student, open_splits, open_stores
from richkd.teachers.cache.cached import bank_name, count_of, split_ingredients
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.cache.store import SHARD_BYTES, Bank, Manifest
from richkd.teachers.precomputed.outputs_file import GivenOutputs, Rows, paired, read_outputs
from richkd.teachers.precomputed.vision import GIVEN, PREFIX, imported_manifests

Say = Callable[[str], None]


def import_outputs(
    path: str | Path, config: Config, *, name: str | None = None, say: Say = lambda message: None
) -> list[Bank]:
    """Store a file's outputs in a bank for each split, to be used as ``--teacher bank:NAME``.

    The file is an ``.npz``, or a ``.safetensors`` whose lists of text are JSON in its metadata:

    - ``logits`` (N, C) and, optionally, ``features`` (N, F), floating point;
    - ``classnames``: C names in the order of the data's; case, underscores and blanks may differ;
    - ``files``, ``file``, ``keys`` or ``key``: N names that pair rows with images;
    - optionally ``views``, N integers: each row's number among the views of the training recipe. Rows
      of other splits have the number 0, and are of the whole image. Without ``views`` all rows are of
      whole images, and every image needs one.

    Rows of unknown images are passed over. What is stored already is not stored again.

    Args:
        config: the run's settings; data, views, seed and size decide what the rows belong to.
        name: what the teacher is called; the file's stem if None.
        say: told what was stored and how much of it is right, a line for each split.

    Raises:
        BankError: the file, or a row in it, cannot be used; images lack; no bank folder; the name is taken.
        RichKDError: the data cannot be opened, or have other classes.
    """
    if config.bank.folder is None:
        raise BankError("The bank's folder must be named", got="none", fix="add --bank DIR.")
    root = config.bank.folder.expanduser()
    data = open_splits(config.data, config.train.seed)
    given = read_outputs(path, data.class_names)
    name = name or given.path.stem
    size = config.data.size or build_student(config, data).size
    training = Clean(size) if given.number_N is None else recipe(config.views, size)
    recipes = {split: training if split == "train" else Clean(size) for split in data.splits}
    rows = paired(given, data.splits, recipes)
    stores = open_stores(config, data, size)
    layout = RowFormat(len(data.class_names), given.feats_NF.shape[1], config.bank.top)
    manifests = {}
    for split, store in stores.items():
        own = {"teacher": name, GIVEN: given.fingerprint, "class names": list(data.class_names)}
        ingredients = own | split_ingredients(store.fingerprint(), recipes[split], config.train.seed)
        views = count_of(recipes[split])
        manifests[split] = Manifest(bank_name(name, split), ingredients, len(store.split), views, layout)
    _check_name(name, root, manifests)
    banks = []
    for split, store in stores.items():
        bank = Bank(root, manifests[split])
        _fill(bank, given, rows[split])
        banks.append(bank)
        _report(given, rows[split], store, say)
    say(f"use them as --teacher {PREFIX}{name} --bank {root}")
    return banks


def _check_name(name: str, root: Path, manifests: Mapping[str, Manifest]) -> None:
    """Refuse a name that stands for another file's outputs of the same images."""
    for found in imported_manifests(root):
        for manifest in manifests.values():
            same = all(
                found.ingredients[key] == manifest.ingredients[key] for key in ("images", "class names")
            )
            if found.name == manifest.name and same and GIVEN in found.differences(manifest):
                raise BankError(
                    f"The name '{name}' must stand for the outputs of one file",
                    got=f"outputs of another file in {root / found.folder}",
                    fix=f"choose another --name, or remove those: richkd bank rm {root} {found.folder}",
                )


def _fill(bank: Bank, given: GivenOutputs, rows: Rows) -> None:
    """Store what the bank does not hold, a shard's worth at a time."""
    new_R = (bank.find(rows.index_R, rows.number_R) < 0).nonzero()[:, 0]
    if not len(new_R):  # no row makes a shard as well, an empty one
        return
    for part_P in torch.split(new_R, max(1, SHARD_BYTES // bank.format.row_bytes)):
        row_P = rows.row_R[part_P]
        output = Output(given.logits_NC[row_P].float(), given.feats_NF[row_P].float())
        bank.add(rows.index_R[part_P], rows.number_R[part_P], output)
    bank.flush()


def _report(given: GivenOutputs, rows: Rows, store: Store, say: Say) -> None:
    """Say how much of a split was stored, and how much of it is right."""
    split, count = store.split, len(rows.row_R)
    images = len(np.unique(rows.index_R.numpy()))
    line = f"{split.name}: {count:,} outputs stored, of {images:,} of {len(split):,} images"
    if count == 0:
        say(line)
        return
    top1 = accuracy(given.logits_NC[rows.row_R].float(), split.labels_N[rows.index_R])
    say(f"{line}, {top1:.1%} right")
    chance = 1 / len(split.class_names)
    # Two standard errors of guessing, and for many images a twentieth of the way from chance to perfect.
    margin = max(2 * (chance * (1 - chance) / images) ** 0.5, 0.05 * (1 - chance))
    if split.name == "train" and top1 <= chance + margin:
        say(
            f"warning: that is about chance ({chance:.1%}) or below; the logits' classes are probably in "
            "another order than 'classnames' says, or the keys name other images"
        )
