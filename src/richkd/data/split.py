"""What an opened data set is: splits of still encoded images, with one list of class names for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from richkd.data.images import decode_cell


@dataclass(frozen=True)
class Split:
    """The labeled, still encoded images of one split.

    ``rows`` has an image column whose cells hold the bytes or the path of a file; ``labels_N`` (int64) holds
    positions in ``class_names``, or `UNLABELED`. ``origin`` and ``origin_N`` say which rows of which split
    of the source these are, so that an image keeps its key whatever share of a split is held out.
    """

    name: str
    rows: datasets.Dataset
    labels_N: Tensor
    class_names: tuple[str, ...]
    image_column: str
    key_column: str | None
    origin: str | None = None
    origin_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels_N)

    def key(self, index: int) -> str:
        """An image's name: its key column's value, else its split and row in the source, as ``train[17]``.

        In a folder the key is the file's path relative to that folder.
        """
        return self._key(self.rows.select_columns([self.key_column])[index] if self.key_column else {}, index)

    def keys(self) -> list[str]:
        """The keys of all images, in order."""
        if self.key_column:
            return [str(value) for value in self.rows.select_columns([self.key_column])[:][self.key_column]]
        return [self.key(index) for index in range(len(self))]

    def read(self, index: int) -> Image.Image:
        """Decode one image to 8-bit RGB.

        Raises:
            DataError: naming the image that cannot be read.
        """
        row = self.rows[index]
        return decode_cell(row[self.image_column], name=self._key(row, index))

    def cells(self, start: int, stop: int) -> Iterator[tuple[str, dict[str, bytes | str | None]]]:
        """Keys and encoded images from ``start`` up to ``stop``: faster together than one by one."""
        columns = self.rows[start:stop]
        for offset, cell in enumerate(columns[self.image_column]):
            row = {self.key_column: columns[self.key_column][offset]} if self.key_column else {}
            yield self._key(row, start + offset), cell

    def _key(self, row: dict[str, object], index: int) -> str:
        if self.key_column:
            return str(row[self.key_column])
        return f"{self.origin or self.name}[{index if self.origin_N is None else int(self.origin_N[index])}]"

    def select(self, name: str, index_N: NDArray[np.int64]) -> Split:
        index = torch.from_numpy(index_N)
        origin_N = index if self.origin_N is None else self.origin_N[index]
        rows, labels_N = self.rows.select(index_N), self.labels_N[index]
        return replace(
            self, name=name, rows=rows, labels_N=labels_N, origin=self.origin or self.name, origin_N=origin_N
        )


@dataclass(frozen=True)
class Data:
    """A data set: its splits ("train", "val", "test", "calibration", where present) and their classes."""

    splits: dict[str, Split]
    class_names: tuple[str, ...]
    path: str


def held_out(labels_N: Tensor, fraction: float, seed: int) -> NDArray[np.int64]:
    """Indices, in rising order, of the share of every class that is kept out of training.

    Of the n images of class c, k = fraction · n (rounded; at least 1 and at most n − 1 where n ≥ 2 and
    fraction > 0, else 0) are kept out: those at the first k places of the permutation that NumPy's
    PCG64([seed, c]) draws. So the outcome is a function of (seed, labels) alone.
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
    """A fold for each image (N), every class dealt out to all folds in turn, without randomness."""
    order_N = labels_N.argsort(stable=True)
    fold_N = torch.empty_like(labels_N)
    fold_N[order_N] = torch.arange(len(labels_N)) % folds
    return fold_N
