"""Add images without labels to the training split.

Unlabeled images follow the labeled images in "train" and have the label `UNLABELED`. The student learns from
the outputs of the teachers for them, without the cross-entropy term.
"""

from __future__ import annotations

from dataclasses import replace

import datasets
import torch

from richkd.core.errors import DataError, ImageError, Problems
from richkd.core.home import expanded
from richkd.core.presence import is_dir
from richkd.core.types import UNLABELED
from richkd.data.columns import DETECTED, Columns, image_and_key_columns
from richkd.data.duplicates import duplicates, summary
from richkd.data.file_types import printable
from richkd.data.formats.hub import load_hub, quiet
from richkd.data.formats.scan import WHOLE, check_files, images_below
from richkd.data.slices import COLUMN as SLICES
from richkd.data.slices import FEATURE
from richkd.data.split import Data, Split
from richkd.data.tables import is_table, open_tables

NAME = "unlabeled"
# Names of splits without labels on the hub, in both spellings; the training split if there is none.
HUB_SPLITS = ("unlabeled", "unlabelled", "unsupervised", "train")
KEY = "key"


def with_unlabeled(data: Data, path: str, columns: Columns = DETECTED) -> Data:
    """Add the images of ``path`` at the end of the training split.

    Labels in the source are ignored. Images keep their keys; if a key is also the key of an image of the
    data, in any split, all keys of unlabeled images get the prefix ``unlabeled/``.

    Args:
        data: data with a split "train".
        path: a folder of images with any nested folders, a listing, parquet files, tar shards, or a name on
            the hub.
        columns: names of the columns of images and keys that the user gave.

    Raises:
        DataError: a source that cannot be opened or has no images, or data without a training split.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (4, 4))] * 2
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> train = as_split(rows, "train", "example")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 4)).save(f"{folder}/0.png")
        ...     joined = with_unlabeled(Data({"train": train}, train.class_names, "example"), folder)
        >>> joined.splits["train"].keys(), joined.splits["train"].labels_N.tolist()
        (['train[0]', 'train[1]', '0.png'], [0, 1, -1])
    """
    if "train" not in data.splits:
        raise DataError(
            "Unlabeled images can only be added to data with a training split",
            got=f"only {', '.join(data.splits)} in {data.path}",
            fix="set --data to a source with training images.",
        )
    train = data.splits["train"]
    with quiet():
        rows = _open(path, columns)
        if not len(rows):
            raise DataError(
                f"{path} must contain unlabeled images", got="none", fix="set --unlabeled to another source."
            )
        image_column, key_column = image_and_key_columns(rows, f"unlabeled {path}", columns)
        added = Split(NAME, rows, torch.full((len(rows),), UNLABELED), (), image_column, key_column)
        keys, added_keys = train.keys(), added.keys()
        known = {key for split in data.splits.values() for key in split.keys()}  # noqa: SIM118
        if not known.isdisjoint(added_keys):
            added_keys = [f"{NAME}/{key}" for key in added_keys]
        joined = datasets.concatenate_datasets(
            [_plain(train, train.image_column, keys), _plain(added, train.image_column, added_keys)]
        )
    whole = replace(
        train,
        table=joined,
        labels_N=torch.cat([train.labels_N, added.labels_N]),
        key_column=KEY,
        origin=None,
        origin_N=None,
    )
    return replace(data, splits=data.splits | {"train": whole})


def refuse_tested(data: Data, workers: int) -> None:
    """Check that no unlabeled image occurs in a split that is used for fitting or evaluation.

    Decoded pixels are compared, so a copy is detected under any name and in any lossless format.

    Args:
        data: data with a split "train" that contains unlabeled images.
        workers: number of threads.

    Raises:
        DataError: some unlabeled images also occur in another split; the message lists their keys.

    Example:
        >>> from PIL import Image
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (4, 4))] * 2
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> test = as_split(rows, "test", "example")
        >>> train = replace(test, name="train", labels_N=torch.full((2,), UNLABELED))
        >>> try:
        ...     refuse_tested(Data({"train": train, "test": test}, test.class_names, "example"), workers=1)
        ... except DataError as error:
        ...     error.rule
        'No unlabeled image may occur in the test split'
    """
    train = data.splits["train"]
    unlabeled = train.select(NAME, (train.labels_N == UNLABELED).nonzero()[:, 0].numpy())
    problems = Problems(ImageError)
    for name in (name for name in data.splits if name != "train"):
        shared = problems.attempt(duplicates, unlabeled, data.splits[name], workers)
        if shared:
            raise DataError(
                f"No unlabeled image may occur in the {name} split",
                got=f"{sum(len(one.first) for one in shared):,} with equal pixels: {summary(shared)}",
                fix="remove these images from the folder of --unlabeled.",
            )
    problems.refuse_all()


def _open(path: str, columns: Columns) -> datasets.Dataset:
    place = expanded(path)
    if is_table(path):
        tables = open_tables(path, columns=columns, labeled=False)
        if not {WHOLE, "train"} & tables.keys():
            rule = f"{path} must have a training split, or not be divided into splits"
            raise DataError(rule, got=", ".join(tables), fix="set --unlabeled to files of one split.")
        return tables[WHOLE if WHOLE in tables else "train"]
    if not is_dir(place):
        result = load_hub(path)
        return result[next((name for name in HUB_SPLITS if name in result), next(iter(result)))]
    files = images_below(place)
    check_files(files, printable(place))
    table = {
        "image": [{"bytes": None, "path": str(file)} for file in files],
        "file": [file.relative_to(place).as_posix() for file in files],
    }
    features = datasets.Features({"image": datasets.Image(decode=False), "file": datasets.Value("string")})
    return datasets.Dataset.from_dict(table, features=features)


def _plain(split: Split, image_column: str, keys: list[str]) -> datasets.Dataset:
    """A table of encoded images and keys only, so that tables from different sources can be concatenated."""
    sliced = SLICES in split.table.column_names
    rows = split.table.select_columns([split.image_column, *([SLICES] if sliced else [])]).cast_column(
        split.image_column, datasets.Image(decode=False)
    )
    if split.image_column != image_column:
        rows = rows.rename_column(split.image_column, image_column)
    if not sliced:
        rows = rows.add_column(SLICES, [None] * len(rows), feature=datasets.Features(FEATURE))
    return rows.add_column(KEY, keys)
