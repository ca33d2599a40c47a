"""A vision teacher's outputs in a file: read, paired with the images of each split, refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from richkd.core.errors import CacheError
from richkd.data.augmentations import Clean
from richkd.data.split import Split
from richkd.data.views import Augmentation
from richkd.teachers.cache.cached import count_of
from richkd.teachers.precomputed.arrays import GivenArrays, first, hash_given, read_arrays, refuse_repeated

# Half-precision probabilities of many classes sum to one within about this.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class GivenOutputs:
    """The outputs in a file, in its order.

    Attributes:
        path: the file.
        keys: the image of each row.
        logits_NC, feats_NF: the outputs; without features F is 0.
        number_N: the number of each row's view, or None where rows are of whole images.
        fingerprint: a hash of all of these and of the class names.
    """

    path: Path
    keys: list[str]
    logits_NC: Tensor
    feats_NF: Tensor
    number_N: Tensor | None
    fingerprint: str


@dataclass(frozen=True)
class Rows:
    """The rows (R) of a file that belong to a split: where they are, and of which image and view."""

    row_R: Tensor
    index_R: Tensor
    number_R: Tensor


def read_outputs(path: str | Path, class_names: Sequence[str]) -> GivenOutputs:
    """Read a file of outputs; see `import_outputs`.

    Raises:
        CacheError: the file or one of its arrays is missing, pickled or of a wrong shape.
        ClassError: its classes are not the data's.
    """
    file = read_arrays(path, CacheError, "outputs")
    key_name = file.key_column()
    names, keys, logits_NC = file.texts("classnames"), file.texts(key_name), file.matrix("logits")
    feats_NF = file.matrix("features") if "features" in file.arrays else torch.empty(len(keys), 0)
    number_N = _view_numbers(file) if "views" in file.arrays else None
    file.check_classes(class_names, names)
    if logits_NC.shape[1] != len(names):
        raise CacheError(
            f"{file.path}: 'logits' must have one column for each of 'classnames'",
            got=f"{logits_NC.shape[1]} columns for {len(names)}",
            fix="save the outputs of the whole classifier, in the order of its classes.",
        )
    file.check_rows("logits", len(logits_NC), key_name, len(keys))
    file.check_rows("features", len(feats_NF), key_name, len(keys))
    numbers = None
    if number_N is not None:
        file.check_rows("views", len(number_N), key_name, len(keys))
        numbers = number_N.tolist()
    fingerprint = hash_given([keys, names, numbers, feats_NF.shape[1]], (logits_NC, feats_NF))
    return GivenOutputs(file.path, keys, logits_NC, feats_NF, number_N, fingerprint)


def paired(
    given: GivenOutputs, splits: Mapping[str, Split], augmentations: Mapping[str, Augmentation]
) -> dict[str, Rows]:
    """The rows of each split, each of another image or view.

    Args:
        given: rows of whole images must be of all images; numbered views may be of some.
        splits: the data; what a row's key names is looked for in all of them.
        augmentations: what each split is seen through, which says which views there are.

    Raises:
        CacheError: keys of images repeat, no row is of these images, images lack; a row repeats, or is of
            a view that there is not, or holds NaN, infinity or probabilities.
    """
    keys = {name: split.keys() for name, split in splits.items()}
    every = [key for listed in keys.values() for key in listed]
    place_of = {key: place for place, key in enumerate(every)}
    if len(place_of) < len(every):
        refuse_repeated(CacheError, "The keys of the images must be unique over all splits", every)
    place_N = torch.tensor([place_of.get(key, -1) for key in given.keys], dtype=torch.long)
    if not bool((place_N >= 0).any()):
        raise CacheError(
            f"{given.path} must have rows of these images, paired by their keys",
            got=f"keys such as '{next(iter(given.keys), '')}'",
            fix=f"make the keys agree: the data's look like '{next(iter(every), '')}'.",
        )
    number_N = torch.zeros_like(place_N) if given.number_N is None else given.number_N
    rows, start = {}, 0
    for name, listed in keys.items():
        row_R = ((place_N >= start) & (place_N < start + len(listed))).nonzero()[:, 0]
        rows[name] = Rows(row_R, place_N[row_R] - start, number_N[row_R])
        _check_views(given, rows[name], name, augmentations[name])
        if given.number_N is None:
            _check_complete(given, rows[name], name, listed)
        elif name == "train" and not len(row_R):
            raise CacheError(
                f"{given.path} must have rows of training images",
                got="rows of other splits alone",
                fix="add the views that the student will see.",
            )
        _check_numbers(given, rows[name], name)
        start += len(listed)
    return rows


def _view_numbers(file: GivenArrays) -> Tensor:
    array = file.take("views")
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise CacheError(
            f"{file.path}: 'views' must be a list of integers, the number of each row's view",
            got=f"shape {array.shape}, type {array.dtype}",
            fix="save the numbers that the augmentation's views have, or leave 'views' out for whole images.",
        )
    return torch.from_numpy(array.astype(np.int64))


def _check_views(given: GivenOutputs, rows: Rows, split: str, seen: Augmentation) -> None:
    """Refuse views that the augmentation does not have, and rows of one view."""
    views = count_of(seen)
    outside_R = (rows.number_R < 0) | (rows.number_R >= views)
    if bool(outside_R.any()):
        numbers = sorted(set(rows.number_R[outside_R].tolist()))
        rule = f"the views of split '{split}' must be numbers from 0 to {views - 1}, of {seen}"
        if isinstance(seen, Clean):
            rule = f"rows of split '{split}' must be of the whole image, view 0"
        raise CacheError(
            f"{given.path}: {rule}",
            got=f"{int(outside_R.sum())} others, such as {first([str(number) for number in numbers])}: "
            + _keys(given, rows.row_R[outside_R]),
            fix="import with the settings that the views were drawn with: --augment.…, data.val_fraction and "
            "train.seed, which decide what is held out of train.",
        )
    pair_R = rows.index_R * views + rows.number_R
    if len(np.unique(pair_R.numpy())) < len(pair_R):
        texts = [given.keys[row] for row in rows.row_R.tolist()]
        if given.number_N is not None:
            texts = [f"view {n} of {key}" for n, key in zip(rows.number_R.tolist(), texts, strict=True)]
        refuse_repeated(CacheError, f"{given.path}: each view of an image must have one row", texts)


def _check_complete(given: GivenOutputs, rows: Rows, split: str, keys: list[str]) -> None:
    there = set(rows.index_R.tolist())
    missing = [key for index, key in enumerate(keys) if index not in there]
    if missing:
        raise CacheError(
            f"Every image of split '{split}' needs a row in {given.path}",
            got=f"{len(missing)} of {len(keys)} images without one: {first(missing)}",
            fix=f"add their rows, or make the keys agree: the file's look like '{given.keys[0]}'.",
        )


def _check_numbers(given: GivenOutputs, rows: Rows, split: str) -> None:
    """Refuse outputs that are not finite, not even in float16, and probabilities."""
    for name, matrix in (("logits", given.logits_NC), ("features", given.feats_NF)):
        bad_R = ~matrix[rows.row_R].half().isfinite().all(dim=1)
        if bool(bad_R.any()):
            raise CacheError(
                f"{given.path}: rows of '{name}' must be finite, and below 65,504 to be stored",
                got=f"{int(bad_R.sum())} others in split '{split}': {_keys(given, rows.row_R[bad_R])}",
                fix="compute the outputs of these images again.",
            )
    logits_RC = given.logits_NC[rows.row_R].float()
    sums_to_one = (logits_RC.sum(dim=1) - 1).abs() <= SUM_TOLERANCE
    if len(logits_RC) and bool((logits_RC >= 0).all()) and bool(sums_to_one.all()):
        raise CacheError(
            f"{given.path}: 'logits' must hold logits or log-probabilities",
            got="probabilities: no number is negative, and each row sums to one",
            fix="save the classifier's outputs before the softmax, or their logarithms.",
        )


def _keys(given: GivenOutputs, row_R: Tensor) -> str:
    return first([given.keys[row] for row in row_R[:6].tolist()])
