"""Open a data set wherever it lies: a folder of class folders, parquet files, or a name on the hub.

Whatever the source, the outcome is the same: splits of encoded images with class positions, and one ordered
list of class names that all splits share. Classes are told apart by name, and nothing is skipped in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from richkd.core.errors import ConfigError, DataError
from richkd.data.classes import check_same_classes
from richkd.data.columns import as_split, check_names, read_names
from richkd.data.split import Data, Split, folds_of, held_out
from richkd.data.tables import WHOLE, open_tables, quiet

# Images that a share of test gives up are the same in every run, or runs would be judged on others.
TEST_SEED = 0
LEFT_OUT = "left-out"
ORDER = (WHOLE, "train", "val", "test", "calibration", LEFT_OUT)


def open_data(
    path: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    key_column: str | None = None,
    class_names_file: Path | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    calibration: Path | None = None,
    test_calibration_fraction: float = 0.0,
    beside: Sequence[Path] = (),
    exclude_fold: tuple[int, int] | None = None,
    seed: int = 0,
) -> Data:
    """Open a folder of class folders, a folder or file of parquet, or a data set of the Hugging Face hub.

    A source without any split first gives ``test_fraction`` of each class to "test"; a source without a
    validation split then gives ``val_fraction`` of each class of "train" to "val". See :func:`held_out`.
    ``class_names_file`` has one name a line, in label order, and replaces the source's names. ``calibration``
    is a source of its own with the same classes, in any order, and becomes the split "calibration"; without
    one, ``test_calibration_fraction`` of each class of "test" becomes it, and is no longer in "test". Folders
    ``beside`` the data may lie inside of them without being a part. ``exclude_fold`` (j, k) moves the fold j
    of k of "train" to a split of its own, "left-out".

    Raises:
        ConfigError: a fraction that does not lie in [0, 1).
        DataError: a source that cannot be opened, has no images or labels, or leaves it open which column
            or split is meant. Images themselves are not decoded here.
        ClassError: splits that do not share their classes, or two classes of one name.
    """
    fractions = {
        "val_fraction": val_fraction,
        "test_fraction": test_fraction,
        "test_calibration_fraction": test_calibration_fraction,
    }
    for option, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise ConfigError(
                f"data.{option} must lie in [0, 1)", got=str(fraction), fix="0 keeps nothing back."
            )
    with quiet():
        apart = [*beside, calibration] if calibration is not None else beside
        tables = open_tables(path, beside=apart)
        splits: dict[str, Split] = {}
        # Training data, where there are such, set the classes that the other splits must have.
        for name in sorted(tables, key=ORDER.index):
            splits[name] = as_split(
                tables[name], name, f"{name} in {path}", image_column, label_column, key_column
            )
            first = next(iter(splits.values()))
            check_same_classes(first.class_names, splits[name].class_names, where=f"{name} in {path}")
        class_names = source_names = first.class_names
        if class_names_file is not None:
            class_names = read_names(class_names_file, len(source_names))
        check_names(class_names, path)
        if WHOLE in splits:
            splits["train"] = whole = splits.pop(WHOLE)
            test_N = held_out(whole.labels_N, test_fraction, seed)
            _divide(splits, "train", "test", test_N)
        if "train" in splits and "val" not in splits:
            _divide(splits, "train", "val", held_out(splits["train"].labels_N, val_fraction, seed))
        if test_calibration_fraction:
            _check_divisible(splits, calibration, path)
            _divide(
                splits,
                "test",
                "calibration",
                held_out(splits["test"].labels_N, test_calibration_fraction, TEST_SEED),
            )
        if calibration is not None:
            splits["calibration"] = _open_calibration(calibration, source_names, class_names)
    if exclude_fold is not None:
        fold, folds = exclude_fold
        members_N = (folds_of(splits["train"].labels_N, folds) == fold).nonzero()[:, 0]
        _divide(splits, "train", LEFT_OUT, members_N.numpy())
    order = [name for name in ORDER if name in splits]
    return Data(
        {name: replace(splits[name], class_names=class_names) for name in order}, class_names, str(path)
    )


def _divide(splits: dict[str, Split], source: str, name: str, index_N: NDArray[np.int64]) -> None:
    """Move images of a split to a new one; none to move, no split."""
    if len(index_N):
        whole = splits[source]
        splits[name] = whole.select(name, index_N)
        splits[source] = whole.select(source, np.setdiff1d(np.arange(len(whole)), index_N))


def _check_divisible(splits: dict[str, Split], calibration: Path | None, path: str) -> None:
    if calibration is not None:
        raise ConfigError(
            "data.test_calibration_fraction stands in for a calibration folder",
            got=f"both, with data.calibration {calibration}",
            fix="leave one of them out.",
        )
    if "test" not in splits:
        raise DataError(
            f"data.test_calibration_fraction takes images of a test split of {path}",
            got=f"only {', '.join(splits)}",
            fix="leave it out; validation images serve.",
        )


def _open_calibration(path: Path, source_names: Sequence[str], class_names: Sequence[str]) -> Split:
    tables = open_tables(str(path), beside=())
    if len(tables) != 1:
        raise DataError(
            f"Calibration images in {path} must not be divided into splits",
            got=", ".join(sorted(tables, key=ORDER.index)),
            fix="give one folder of class folders, or one parquet file.",
        )
    split = as_split(next(iter(tables.values())), "calibration", str(path), None, None, None)
    names = list(split.class_names)
    expected = next((list(e) for e in (source_names, class_names) if sorted(e) == sorted(names)), None)
    if expected is None:
        check_same_classes(source_names, names, where=f"calibration in {path}")
    assert expected is not None
    # Folders are alphabetical and the data need not be: the same names mean the same classes.
    position_C = torch.tensor([expected.index(name) for name in names])
    return replace(split, labels_N=position_C[split.labels_N], class_names=tuple(expected))
