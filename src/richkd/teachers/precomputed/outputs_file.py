"""Read a file with outputs of a vision teacher and match its rows with the images of each split."""

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
from richkd.metrics.probabilities import recognized
from richkd.teachers.cache.cached import count_of
from richkd.teachers.precomputed.arrays import (
    GivenArrays,
    find_keys,
    first,
    hash_given,
    read_arrays,
    refuse_repeated,
)


@dataclass(frozen=True)
class GivenOutputs:
    """The outputs in a file, in the order of the file.

    Attributes:
        path: the file.
        keys: image key of each row.
        logits_NC, feats_NF: the outputs; F is 0 if the file has no features.
        number_N: view number of each row; None if all rows were computed from whole images.
        fingerprint: hash of the arrays and of the class names.

    Example:
        >>> logits_NC, feats_NF = torch.tensor([[2.0, 0.0]]), torch.empty(1, 0)
        >>> given = GivenOutputs(Path("a.npz"), ["1.png"], logits_NC, feats_NF, None, fingerprint="")
        >>> given.feats_NF.shape[1], given.number_N is None
        (0, True)
    """

    path: Path
    keys: list[str]
    logits_NC: Tensor
    feats_NF: Tensor
    number_N: Tensor | None
    fingerprint: str


@dataclass(frozen=True)
class RowIndex:
    """The R rows of a file that belong to a split.

    Attributes:
        row_R: positions of the rows in the file.
        index_R: positions of their images in the split.
        number_R: their view numbers.

    Example:
        >>> rows = RowIndex(row_R=torch.tensor([7]), index_R=torch.tensor([0]), number_R=torch.tensor([3]))
        >>> int(rows.number_R)
        3
    """

    row_R: Tensor
    index_R: Tensor
    number_R: Tensor


def read_outputs(path: str | Path, class_names: Sequence[str]) -> GivenOutputs:
    """Read a file with outputs of a vision teacher; its format is described in `import_outputs`.

    Args:
        path: the file.
        class_names: names of the classes of the data, in label order.

    Raises:
        CacheError: the file or an array is missing, pickled or of a wrong shape.
        ClassError: the classes in the file differ from ``class_names``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     arrays = {"logits": np.eye(2), "classnames": ["ant", "bee"], "files": ["1.png", "2.png"]}
        ...     np.savez(f"{folder}/outputs.npz", **arrays)
        ...     given = read_outputs(f"{folder}/outputs.npz", ["ant", "bee"])
        >>> given.keys, tuple(given.logits_NC.shape)
        (['1.png', '2.png'], (2, 2))
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
            fix="save the logits of all classes, in the order of 'classnames'.",
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
) -> dict[str, RowIndex]:
    """Match the rows of a file with the images of each split, by key.

    Args:
        given: the outputs. Without view numbers, every image needs a row. With view numbers, views and images
            may be missing.
        splits: the splits of the data.
        augmentations: the augmentation of each split, which determines the valid view numbers.

    Raises:
        CacheError: image keys are not unique; no row matches an image; an image has no row; two rows have the
            same image and view; a view number is not valid; or a row contains NaN, infinity or probabilities.

    Example:
        >>> from datasets import Dataset
        >>> labels_N, rows = torch.tensor([0, 1]), Dataset.from_dict({})
        >>> test = Split("test", rows, labels_N, ("ant", "bee"), "image", None)
        >>> keys, logits_NC = ["test[1]", "test[0]"], 2 * torch.eye(2)
        >>> given = GivenOutputs(Path("a.npz"), keys, logits_NC, torch.empty(2, 0), None, fingerprint="")
        >>> paired(given, {"test": test}, {"test": Clean(32)})["test"].index_R.tolist()
        [1, 0]
    """
    keys_by_split = {name: split.keys() for name, split in splits.items()}
    all_keys = [key for keys in keys_by_split.values() for key in keys]
    place_of = {key: place for place, key in enumerate(all_keys)}
    if len(place_of) < len(all_keys):
        refuse_repeated(CacheError, "The keys of the images must be unique over all splits", all_keys)
    place_N = torch.tensor(find_keys(given.keys, place_of), dtype=torch.long)
    if not bool((place_N >= 0).any()):
        raise CacheError(
            f"{given.path} must have rows with the keys of these images",
            got=f"keys such as '{next(iter(given.keys), '')}'",
            fix=f"use the keys of the data, which are like '{next(iter(all_keys), '')}'.",
        )
    number_N = torch.zeros_like(place_N) if given.number_N is None else given.number_N
    rows, start = {}, 0
    for name, keys in keys_by_split.items():
        row_R = ((place_N >= start) & (place_N < start + len(keys))).nonzero()[:, 0]
        rows[name] = RowIndex(row_R, place_N[row_R] - start, number_N[row_R])
        _check_views(given, rows[name], name, augmentations[name])
        if given.number_N is None:
            _check_complete(given, rows[name], name, keys)
        elif name == "train" and not len(row_R):
            raise CacheError(
                f"{given.path} must have rows of training images",
                got="only rows of other splits",
                fix="add rows for the views that the student is trained on.",
            )
        _check_numbers(given, rows[name], name)
        start += len(keys)
    return rows


def _view_numbers(file: GivenArrays) -> Tensor:
    array = file.take("views")
    # Time spans are integers of NumPy, too.
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise CacheError(
            f"{file.path}: 'views' must be a list of integers, the view number of each row",
            got=f"shape {array.shape}, type {array.dtype}",
            fix="save the view numbers of the augmentation, or omit 'views' if rows are of whole images.",
        )
    return torch.from_numpy(array.astype(np.int64))


def _check_views(given: GivenOutputs, rows: RowIndex, split: str, augmentation: Augmentation) -> None:
    """Check that view numbers are valid and that no two rows have the same image and view."""
    views = count_of(augmentation)
    outside_R = (rows.number_R < 0) | (rows.number_R >= views)
    if bool(outside_R.any()):
        numbers = sorted(set(rows.number_R[outside_R].tolist()))
        rule = f"the views of split '{split}' must be numbers from 0 to {views - 1}, of {augmentation}"
        if isinstance(augmentation, Clean):
            rule = f"rows of split '{split}' must be of the whole image, view 0"
        raise CacheError(
            f"{given.path}: {rule}",
            got=f"{int(outside_R.sum())} others, such as {first([str(number) for number in numbers])}: "
            + _keys(given, rows.row_R[outside_R]),
            fix="import with the settings that the views were drawn with: --augment.…, data.val_fraction and "
            "train.seed, which select the images that are held out of train.",
        )
    pair_R = rows.index_R * views + rows.number_R
    if len(np.unique(pair_R.numpy())) < len(pair_R):
        texts = [given.keys[row] for row in rows.row_R.tolist()]
        if given.number_N is not None:
            texts = [f"view {n} of {key}" for n, key in zip(rows.number_R.tolist(), texts, strict=True)]
        refuse_repeated(CacheError, f"{given.path}: a view of an image must have only one row", texts)


def _check_complete(given: GivenOutputs, rows: RowIndex, split: str, keys: list[str]) -> None:
    """Check that every image of a split has a row."""
    indices = set(rows.index_R.tolist())
    missing = [key for index, key in enumerate(keys) if index not in indices]
    if missing:
        raise CacheError(
            f"Every image of split '{split}' needs a row in {given.path}",
            got=f"{len(missing)} of {len(keys)} images without a row: {first(missing)}",
            fix=f"add these rows, or use the same keys; a key of the file is '{given.keys[0]}'.",
        )


def _check_numbers(given: GivenOutputs, rows: RowIndex, split: str) -> None:
    """Check that outputs are finite in float16 and are not probabilities."""
    for name, matrix in (("logits", given.logits_NC), ("features", given.feats_NF)):
        bad_R = ~matrix[rows.row_R].half().isfinite().all(dim=1)
        if bool(bad_R.any()):
            raise CacheError(
                f"{given.path}: rows of '{name}' must be finite and at most 65,504 to be stored in float16",
                got=f"{int(bad_R.sum())} of {len(bad_R)} rows in split '{split}' are not: "
                + _keys(given, rows.row_R[bad_R]),
                fix="compute the outputs of these images again.",
            )
    kind = recognized(given.logits_NC[rows.row_R])
    if kind is not None:
        total = 100 if kind.startswith("percentages") else 1
        share = "P / 100" if total == 100 else "P"
        raise CacheError(
            f"{given.path}: 'logits' must contain logits or log-probabilities",
            got=f"{kind}: no number is negative, and each row of split '{split}' sums to {total}",
            fix="save the outputs before the softmax, or the logarithms of the probabilities: "
            f"np.log(np.maximum({share}, 1e-6)) of these numbers P.",
        )


def _keys(given: GivenOutputs, row_R: Tensor) -> str:
    return first([given.keys[row] for row in row_R[:6].tolist()])
