"""Find images that two splits share, which is a leak between training and test data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from richkd.core.errors import ImageError, Problems
from richkd.core.processes import gather_objects, share_of
from richkd.data.formats.scan import first_few
from richkd.data.images import map_images
from richkd.data.split import Split


class Duplicate(NamedTuple):
    """One picture that two splits share: its keys in the first split, and its keys in the second split.

    Example:
        >>> str(Duplicate(("a.png", "b.png", "c.png"), ("t/a.png",)))
        'a.png and 2 more = t/a.png'
    """

    first: tuple[str, ...]
    second: tuple[str, ...]

    def __str__(self) -> str:
        names = ((keys[0], len(keys) - 1) for keys in self)
        return " = ".join(f"{name} and {more:,} more" if more else name for name, more in names)


def duplicates(a: Split, b: Split, workers: int = 2) -> list[Duplicate]:
    """Find images that occur in two splits, in time that is linear in their sizes.

    Two images are equal if the 128-bit BLAKE2b hashes of their sizes and decoded RGB bytes are equal.

    Args:
        a: the first split.
        b: the second split.
        workers: number of threads.

    Returns:
        The shared pictures, each with all its keys, in the order of ``a``.

    Raises:
        ImageError: some images of ``a`` or ``b`` cannot be read; the message names those of both.

    Example:
        >>> import datasets, numpy as np
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> train = as_split(rows, "train", "example")
        >>> duplicates(train, train.select("test", np.array([1])))
        [Duplicate(first=('train[1]',), second=('train[1]',))]
    """
    problems = Problems(ImageError)
    digests = [problems.attempt(_digests, split, workers) or [] for split in (a, b)]
    problems.refuse_all()
    shared = shared_positions(*digests)
    if not shared:
        return []
    a_keys, b_keys = a.keys(), b.keys()
    return [Duplicate(tuple(a_keys[i] for i in x), tuple(b_keys[j] for j in y)) for x, y in shared]


def shared_positions(a: Sequence[bytes], b: Sequence[bytes]) -> list[tuple[list[int], list[int]]]:
    """The positions of each value that two lists share, in the order of the first list.

    Example:
        >>> shared_positions([b"x", b"y", b"x"], [b"z", b"x", b"x"])
        [([0, 2], [1, 2])]
    """
    first, second = _positions(a), _positions(b)
    return [(places, second[value]) for value, places in first.items() if value in second]


def summary(shared: Sequence[Duplicate]) -> str:
    """The first shared pictures, and how many there are if some have several copies in a split.

    Example:
        >>> summary([Duplicate(("a", "b"), ("c",)), Duplicate(("d",), ("e",))])
        '2 pictures: a and 1 more = c, d = e'
        >>> summary([Duplicate(("d",), ("e",))])
        'd = e'
    """
    several = any(len(keys) > 1 for one in shared for keys in one)
    return f"{len(shared):,} pictures: " * several + first_few([str(one) for one in shared])


def _positions(values: Sequence[bytes]) -> dict[bytes, list[int]]:
    places: dict[bytes, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    return places


def _digests(split: Split, workers: int) -> list[bytes]:
    def digest(index: int, image: Image.Image) -> bytes:
        size = f"{image.width}x{image.height}:".encode()
        return hashlib.blake2b(size + image.tobytes(), digest_size=16).digest()

    share, _ = share_of(len(split))
    digests = gather_objects(list(map_images(split, digest, workers=workers, share=share)))
    return [one for of_process in digests for one in of_process]
