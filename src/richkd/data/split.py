"""An opened data set: splits of encoded images, with one list of class names for all splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from richkd.data.images import decode_cell
from richkd.data.remote import is_remote
from richkd.data.slices import COLUMN as SLICES
from richkd.data.slices import read_slice


@dataclass(frozen=True)
class Split:
    """The encoded images of one split, with their labels and keys.

    Args:
        name: name of the split, such as ``"train"``.
        table: rows with an image column; each cell holds the bytes or the path of an image file, or else the
            column of `richkd.data.slices` says where its bytes are.
        labels_N: positions in ``class_names`` (int64), or `UNLABELED`.
        class_names: names of the classes, in label order.
        image_column: name of the image column.
        key_column: name of a column with a unique key for each image, or None.
        origin: name of the source split that the rows come from, if this split is a part of it.
        origin_N: row numbers in ``origin``. They keep the key of an image the same whatever share of the
            source split is held out.

    Example:
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 3})
        >>> split = Split("train", rows, torch.tensor([0, 1, 0]), ("ant", "bee"), "image", None)
        >>> len(split), split.keys()
        (3, ['train[0]', 'train[1]', 'train[2]'])
        >>> split.select("val", np.array([2])).keys()
        ['train[2]']
    """

    name: str
    table: datasets.Dataset
    labels_N: Tensor
    class_names: tuple[str, ...]
    image_column: str
    key_column: str | None
    origin: str | None = None
    origin_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels_N)

    def key(self, index: int) -> str:
        """The key of one image: its value in the key column, else its split and row, such as ``train[17]``.

        For a folder of images, the key is the path of the file relative to that folder.
        """
        return self._key(
            self.table.select_columns([self.key_column])[index] if self.key_column else {}, index
        )

    def keys(self) -> list[str]:
        """The keys of all images, in order."""
        if self.key_column:
            return [str(value) for value in self.table.select_columns([self.key_column])[:][self.key_column]]
        return [self.key(index) for index in range(len(self))]

    def read(self, index: int) -> Image.Image:
        """Decode one image to 8-bit RGB.

        Raises:
            DataError: the image cannot be read; the message contains its key.
        """
        ((name, cell),) = self.cells_at([index])
        return decode_cell(cell, name=name)

    def cells(self, start: int, stop: int) -> Iterator[tuple[str, dict[str, bytes | str | None]]]:
        """Keys and encoded images from ``start`` to ``stop`` (exclusive), in one read of the table."""
        return self.cells_at(range(start, stop))

    def cells_at(self, indices: Sequence[int] | range) -> Iterator[tuple[str, dict[str, bytes | str | None]]]:
        """Keys and encoded images at these positions, in one read of the table.

        Raises:
            ImageError: an image is a part of a file that is gone or was changed.
        """
        columns = self.table[indices]
        slices = columns.get(SLICES) or [None] * len(indices)
        for offset, (index, cell) in enumerate(zip(indices, columns[self.image_column], strict=True)):
            row = {self.key_column: columns[self.key_column][offset]} if self.key_column else {}
            name, place = self._key(row, index), slices[offset]
            # The cell alone does not say where its bytes are, and every reader of cells knows bytes.
            yield name, {"bytes": read_slice(place, name), "path": None} if place else cell

    @property
    def remote(self) -> bool:
        """Whether images are read over the network whenever they are needed."""
        if SLICES not in self.table.column_names or not len(self):
            return False
        place = self.table[0][SLICES]
        return place is not None and is_remote(place["file"])

    def select(self, name: str, index_N: NDArray[np.int64]) -> Split:
        """A new split of the images at these positions; images keep their keys."""
        index = torch.from_numpy(index_N)
        origin_N = index if self.origin_N is None else self.origin_N[index]
        table, labels_N = self.table.select(index_N), self.labels_N[index]
        return replace(
            self,
            name=name,
            table=table,
            labels_N=labels_N,
            origin=self.origin or self.name,
            origin_N=origin_N,
        )

    def _key(self, row: dict[str, object], index: int) -> str:
        if self.key_column:
            return str(row[self.key_column])
        return f"{self.origin or self.name}[{index if self.origin_N is None else int(self.origin_N[index])}]"


@dataclass(frozen=True)
class Data:
    """A data set: its splits and their classes.

    Args:
        splits: splits by name; "train", "val", "test", "calibration" and "left-out", where they exist.
        class_names: names of the classes, in label order; all splits share them.
        path: the path or name that the data set was opened from.
        source_names: names of the classes in the source, in label order; not ``class_names`` if a file of
            class names replaces them.

    Example:
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 2})
        >>> test = Split("test", rows, torch.tensor([0, 1]), ("ant", "bee"), "image", None)
        >>> data = Data({"test": test}, test.class_names, "insects")
        >>> {name: len(split) for name, split in data.splits.items()}
        {'test': 2}
    """

    splits: dict[str, Split]
    class_names: tuple[str, ...]
    path: str
    source_names: tuple[str, ...] = ()


def held_out(labels_N: Tensor, fraction: float, seed: int) -> NDArray[np.int64]:
    """Choose the images of every class that are held out of training.

    k = ⌊fraction · n + ½⌋ of the n images of class c are held out. If fraction > 0 and n ≥ 2, k is at least 1
    and at most n − 1; from a class with one image, none is held out. The images are those at the first k
    places of the permutation that NumPy's PCG64([seed, c]) draws, so the result depends on (seed, labels)
    only.

    Args:
        labels_N: class positions (int64).
        fraction: share of each class, in [0, 1).
        seed: non-negative integer.

    Returns:
        Positions of the held-out images, in ascending order.

    Example:
        >>> index_N = held_out(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), fraction=0.25, seed=0)
        >>> len(index_N), [int(index) // 4 for index in index_N]
        (2, [0, 1])
    """
    labels = labels_N.numpy()
    selected = [np.empty(0, dtype=np.int64)]
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        count = 0 if fraction == 0 else max(1, int(fraction * len(members) + 0.5))
        rank = np.random.Generator(np.random.PCG64([seed, label])).permutation(len(members))
        selected.append(members[rank[: min(count, len(members) - 1)]])
    return np.sort(np.concatenate(selected))


def folds_of(labels_N: Tensor, folds: int) -> Tensor:
    """Assign each image to one of ``folds`` stratified folds, without randomness.

    Images are sorted by class (stable), then assigned to folds 0, 1, …, folds − 1, 0, … in turn. The numbers
    of images of a class in two folds differ by at most one.

    Args:
        labels_N: class positions (int64).
        folds: number of folds, at least 1.

    Returns:
        Fold of each image (N, int64).

    Example:
        >>> folds_of(torch.tensor([0, 1, 0, 1, 0, 1]), 3).tolist()
        [0, 0, 1, 1, 2, 2]
    """
    order_N = labels_N.argsort(stable=True)
    fold_N = torch.empty_like(labels_N)
    fold_N[order_N] = torch.arange(len(labels_N)) % folds
    return fold_N


def evenly_spaced(count: int, most: int) -> Tensor:
    """At most ``most`` positions in [0, count), evenly spaced from the first to the last one.

    Used to measure on a sample of a split: neighboring images often have the same class, so the first images
    would be a biased sample.

    Returns:
        min(count, most) positions (int64), in ascending order.

    Example:
        >>> evenly_spaced(9, most=3).tolist(), evenly_spaced(2, most=3).tolist()
        ([0, 4, 8], [0, 1])
    """
    number = min(count, most)
    # Whole numbers: float32 cannot tell positions above 2²⁴ apart.
    return torch.arange(number) * (count - 1) // max(number - 1, 1)
