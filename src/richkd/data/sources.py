"""Open a data set from folders, listings, parquet files or tar shards, or from the Hugging Face hub.

The result has the same form for all sources: splits of encoded images with class positions, and one ordered
list of class names that all splits share. Classes are matched by name, and no image is skipped silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from richkd.config.schema import REST, DataConfig
from richkd.core.errors import ConfigError, DataError
from richkd.core.home import expanded
from richkd.core.logs import logger_of
from richkd.core.presence import resolved
from richkd.core.types import UNLABELED
from richkd.data.classes import check_names, positions_of, read_names
from richkd.data.columns import Columns, as_split, is_unlabeled, log_absent
from richkd.data.formats.hub import quiet
from richkd.data.formats.scan import SPLIT_NAMES, WHOLE
from richkd.data.labels import refuse_rest_of_all, with_few_labels
from richkd.data.split import Data, Split, folds_of, held_out
from richkd.data.tables import open_tables
from richkd.data.unlabeled import with_unlabeled

# Fixed, so that runs with different seeds are evaluated on the same test images.
TEST_SEED = 0
LEFT_OUT = "left-out"
# Name of a column that no source has.
KEY = "richkd: key"
ORDER = (WHOLE, "train", "val", "test", "calibration", LEFT_OUT)

logger = logger_of(__name__)


def open_data(config: DataConfig, seed: int = 0) -> Data:
    """Open a data set and divide it into splits. Images are not decoded.

    1. A source without splits gives ``test_fraction`` of each class to "test".
    2. A source without a validation split gives ``val_fraction`` of each class of "train" to "val".
    3. ``test_calibration_fraction`` of each class of "test" is moved to "calibration". Alternatively,
       "calibration" is opened from ``calibration``, a source with the same classes in any order. If one of
       its keys is also the key of another image, all its keys get the prefix ``calibration/``.
    4. ``labels_per_class`` images of each class of "train" keep their labels. The others are left out, or
       lose their labels with ``unlabeled`` "rest"; see :func:`~richkd.data.labels.labeled_images`.
    5. ``exclude_fold`` (j, k) moves fold j of k of the labeled images of "train" to "left-out".
    6. The images of another ``unlabeled`` are added at the end of "train".

    A held-out split may lack classes of train, and a held-out split without labels is left out; both are
    logged. Files and folders given by ``calibration`` and ``unlabeled`` may be inside the data folder.

    Args:
        config: the settings of the data. ``class_names`` is a file with one name per line, in label order,
            that replaces the class names of the source.
        seed: seed of steps 1 and 2; see :func:`~richkd.data.split.held_out`.

    Raises:
        ConfigError: both ``calibration`` and ``test_calibration_fraction``, a fold that does not exist, or
            ``unlabeled`` "rest" without ``labels_per_class``.
        DataError: a source that cannot be opened, has no images or labels, or has several columns that could
            be meant; a setting that needs a split that does not exist.
        ClassError: a split with a class that train lacks, or two classes with the same name.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("ant", "bee"):
        ...         (Path(folder) / name).mkdir()
        ...         for number in range(5):
        ...             Image.new("RGB", (4, 4)).save(Path(folder) / name / f"{number}.png")
        ...     data = open_data(DataConfig(path=folder, test_fraction=0.2, val_fraction=0.25))
        >>> data.class_names, {name: len(split) for name, split in data.splits.items()}
        (('ant', 'bee'), {'train': 6, 'val': 2, 'test': 2})
    """
    refuse_rest_of_all(config)
    with quiet():
        splits = _source_splits(config)
        source_names = next(iter(splits.values())).class_names
        class_names = source_names
        if config.class_names is not None:
            class_names = read_names(config.class_names, len(source_names), source_names)
        check_names(class_names, config.path)
        _hold_out(splits, config, seed)
        if config.calibration is not None:
            calibration = _open_calibration(config, source_names, class_names)
            splits["calibration"] = _with_other_keys(calibration, splits.values())
    named = {name: replace(split, class_names=class_names) for name, split in splits.items()}
    if config.labels_per_class is not None:
        named["train"] = with_few_labels(named, config)
    if config.exclude_fold is not None:
        _leave_out_fold(named, *config.exclude_fold, config.path)
    ordered = {name: named[name] for name in ORDER if name in named}
    data = Data(ordered, class_names, config.path, source_names)
    if config.unlabeled is None or config.unlabeled == REST:
        return data
    return with_unlabeled(data, config.unlabeled, replace(columns_of(config), label=None, optional=True))


def _source_splits(config: DataConfig) -> dict[str, Split]:
    """The splits of the source; training data come first, so that errors compare other splits with them."""
    unlabeled = None if config.unlabeled == REST else config.unlabeled
    others = [Path(other) for other in (config.calibration, unlabeled) if other is not None]
    columns = columns_of(config)
    tables = open_tables(config.path, exclude=others, columns=columns, nested=config.nested_classes)
    _log_replaced_splits(config, unlabeled)
    splits: dict[str, Split] = {}
    for name in sorted(tables, key=ORDER.index):
        where = f"{name} in {config.path}"
        if "train" in splits and is_unlabeled(tables[name], config.label_column):
            logger.warning("%s: the images have no labels and are left out", where)
            continue
        expected = next(iter(splits.values())).class_names if splits else None
        splits[name] = as_split(tables[name], name, where, columns, expected)
    return splits


def _log_replaced_splits(config: DataConfig, unlabeled: str | None) -> None:
    """Log which folders of splits are no splits, because a setting names them."""
    given = {"data.calibration": config.calibration, "data.unlabeled": unlabeled}
    for setting, path in given.items():
        name = None if path is None else SPLIT_NAMES.get(Path(path).name.lower())
        if path is None or name is None:
            continue
        if resolved(expanded(path).parent) == resolved(expanded(config.path)):
            logger.warning("%s is the folder of %s, so its images are no %s split", path, setting, name)


def columns_of(config: DataConfig) -> Columns:
    """The columns that the settings of the data name.

    Example:
        >>> columns_of(DataConfig(path="photos", label_column="breed")).label
        'breed'
    """
    return Columns(config.image_column, config.label_column, config.key_column)


def _hold_out(splits: dict[str, Split], config: DataConfig, seed: int) -> None:
    """Move held-out images to "test", "val" and "calibration"."""
    if WHOLE in splits:
        splits["train"] = splits.pop(WHOLE)
        test_N = held_out(splits["train"].labels_N, config.test_fraction, seed)
        _divide(splits, "train", "test", test_N)
    if "train" in splits and "val" not in splits:
        _divide(splits, "train", "val", held_out(splits["train"].labels_N, config.val_fraction, seed))
    fraction = config.test_calibration_fraction
    if fraction:
        _check_divisible(splits, config.calibration, config.path)
        _divide(splits, "test", "calibration", held_out(splits["test"].labels_N, fraction, TEST_SEED))


def _leave_out_fold(splits: dict[str, Split], fold: int, folds: int, path: str) -> None:
    if not 0 <= fold < folds:
        raise ConfigError(
            "data.exclude_fold must be J K with 0 ≤ J < K", got=f"{fold} {folds}", fix="number folds from 0."
        )
    if "train" not in splits:
        raise DataError(
            f"data.exclude_fold needs a training split in {path}",
            got=f"only {', '.join(splits)}",
            fix="remove this setting, or set data.path to a source with training images.",
        )
    labels_N = splits["train"].labels_N
    labeled_N = (labels_N != UNLABELED).nonzero()[:, 0]
    if folds > len(labeled_N):
        raise ConfigError(
            f"data.exclude_fold must not have more folds than {path} has training images with labels",
            got=f"{folds:,} folds of {len(labeled_N):,} images",
            fix="use 5 folds.",
        )
    members_N = labeled_N[folds_of(labels_N[labeled_N], folds) == fold]
    _divide(splits, "train", LEFT_OUT, members_N.numpy())


def _divide(splits: dict[str, Split], source: str, name: str, index_N: NDArray[np.int64]) -> None:
    """Move images from one split to a new split, which is not created if there are no images to move."""
    if len(index_N):
        whole = splits[source]
        splits[name] = whole.select(name, index_N)
        splits[source] = whole.select(source, np.setdiff1d(np.arange(len(whole)), index_N))


def _check_divisible(splits: dict[str, Split], calibration: Path | None, path: str) -> None:
    if calibration is not None:
        raise ConfigError(
            "Only one of data.calibration and data.test_calibration_fraction can be set",
            got=f"both, with data.calibration {calibration}",
            fix="remove one of them.",
        )
    if "test" not in splits:
        raise DataError(
            f"data.test_calibration_fraction needs a test split in {path}",
            got=f"only {', '.join(splits)}",
            fix="remove this setting; validation images are used instead.",
        )


def _open_calibration(config: DataConfig, source_names: Sequence[str], class_names: Sequence[str]) -> Split:
    path = config.calibration
    columns = replace(columns_of(config), optional=True)
    tables = open_tables(str(path), columns=columns, nested=config.nested_classes)
    if len(tables) != 1:
        raise DataError(
            f"Calibration images in {path} must not be divided into splits",
            got=", ".join(sorted(tables, key=ORDER.index)),
            fix="set data.calibration to one folder of class folders, or to one parquet file.",
        )
    split = as_split(next(iter(tables.values())), "calibration", str(path), columns)
    where = f"calibration in {path}"
    # The order of classes may differ, because class folders are sorted by name; match classes by name.
    known = (names for names in (source_names, class_names) if set(split.class_names) <= set(names))
    expected = tuple(next(known, source_names))
    position_C = torch.tensor(positions_of(expected, split.class_names, where=where))
    labels_N = position_C[split.labels_N]
    log_absent(labels_N, expected, where)
    return replace(split, labels_N=labels_N, class_names=expected)


def _with_other_keys(split: Split, others: Iterable[Split]) -> Split:
    """The split, with a prefix before all its keys if one of them is also the key of another image."""
    keys = split.keys()
    if set(keys).isdisjoint(key for other in others for key in other.keys()):  # noqa: SIM118
        return split
    table = split.table.add_column(KEY, [f"{split.name}/{key}" for key in keys])
    return replace(split, table=table, key_column=KEY)
