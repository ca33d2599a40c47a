"""Images without labels: opened from anywhere, and joined to the training images.

They follow the labeled images in the training split, with `UNLABELED` for a label. The student learns what
teachers say of them, and has no cross-entropy there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import torch

from richkd.core.errors import DataError
from richkd.core.types import UNLABELED
from richkd.data.columns import image_and_key_columns
from richkd.data.images import IMAGE_SUFFIXES, duplicates
from richkd.data.split import Data, Split
from richkd.data.tables import WHOLE, load_hub, open_tables, quiet, some

NAME = "unlabeled"
# What the hub calls the splits without labels; a data set without such a one gives its training split.
HUB_SPLITS = ("unlabeled", "unlabeled", "unsupervised", "train")
KEY = "key"


def with_unlabeled(
    data: Data, path: str, *, image_column: str | None = None, key_column: str | None = None
) -> Data:
    """The data with the images of ``path`` at the end of their training split.

    ``path`` is a folder of images, nested as they may be, a folder or file of parquet, or a name on the hub.
    Labels that it has are not read. Every image keeps its key; where one of them is also a labeled image's,
    all of theirs begin with ``unlabeled/``.

    Raises:
        DataError: a source that cannot be opened or has no images, or data without a training split.
    """
    if "train" not in data.splits:
        raise DataError(
            "Unlabeled images are added to a training split",
            got=f"only {', '.join(data.splits)} in {data.path}",
            fix="give --data a source with training images.",
        )
    train = data.splits["train"]
    with quiet():
        rows = _open(path)
        if not len(rows):
            raise DataError(f"{path} must hold unlabeled images", got="none", fix="name another folder.")
        found_image, found_key = image_and_key_columns(rows, f"unlabeled {path}", image_column, key_column)
        added = Split(NAME, rows, torch.full((len(rows),), UNLABELED), (), found_image, found_key)
        keys, added_keys = train.keys(), added.keys()
        if set(keys) & set(added_keys):
            added_keys = [f"{NAME}/{key}" for key in added_keys]
        joined = datasets.concatenate_datasets(
            [_plain(train, train.image_column, keys), _plain(added, train.image_column, added_keys)]
        )
    whole = replace(
        train,
        rows=joined,
        labels_N=torch.cat([train.labels_N, added.labels_N]),
        key_column=KEY,
        origin=None,
        origin_N=None,
    )
    return replace(data, splits=data.splits | {"train": whole})


def refuse_tested(data: Data, workers: int) -> None:
    """Make sure that no unlabeled image is one that something is fitted or judged on.

    Compares decoded pixels, so a copy is found under any name and in any lossless format.

    Raises:
        DataError: naming images that are in two splits.
    """
    train = data.splits["train"]
    places_N = (train.labels_N == UNLABELED).nonzero()[:, 0].numpy()
    unlabeled = train.select(NAME, places_N)
    for name in data.splits.keys() - {"train"}:
        pairs = duplicates(unlabeled, data.splits[name], workers)
        if pairs:
            raise DataError(
                f"An unlabeled image must not be one of {name}, or its figures flatter the student",
                got=f"{len(pairs)} that are: {some([f'{a} = {b}' for a, b in pairs])}",
                fix="take them out of --unlabeled.",
            )


def _open(path: str) -> datasets.Dataset:
    place = Path(path).expanduser()
    if not place.exists():
        result = load_hub(path)
        return result[next((name for name in HUB_SPLITS if name in result), next(iter(result)))]
    if place.is_file() or any(place.glob("*.parquet")):
        tables = open_tables(path, beside=())
        return tables.get(WHOLE) or tables["train"]
    files = sorted(file for file in place.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    columns = {
        "image": [{"bytes": None, "path": str(file)} for file in files],
        "file": [file.relative_to(place).as_posix() for file in files],
    }
    features = datasets.Features({"image": datasets.Image(decode=False), "file": datasets.Value("string")})
    return datasets.Dataset.from_dict(columns, features=features)


def _plain(split: Split, image_column: str, keys: list[str]) -> datasets.Dataset:
    """Encoded images and keys alone, so that tables of any origin join."""
    rows = split.rows.select_columns([split.image_column]).cast_column(
        split.image_column, datasets.Image(decode=False)
    )
    if split.image_column != image_column:
        rows = rows.rename_column(split.image_column, image_column)
    return rows.add_column(KEY, keys)
