"""Held-out shares, folds and evenly spaced samples: which images they contain, and what they depend on."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.data.split import Split, evenly_spaced, folds_of, held_out


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=120),
    st.floats(0, 0.99),
    st.integers(0, 2**32),
)
def test_held_out_is_stratified_and_leaves_every_class_in_train(
    labels: list[int], fraction: float, seed: int
) -> None:
    selected = held_out(torch.tensor(labels), fraction, seed).tolist()
    assert selected == sorted(set(selected))
    assert set(selected) <= set(range(len(labels)))
    out = Counter(labels[index] for index in selected)
    for label, count in Counter(labels).items():
        assert out[label] <= count - 1
        if fraction == 0:
            assert out[label] == 0
        elif count >= 2:
            assert out[label] >= 1
            assert abs(out[label] - fraction * count) <= 1
    assert selected == held_out(torch.tensor(labels), fraction, seed).tolist()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 9))
def test_held_out_images_of_a_class_depend_on_no_other_class(seed: int, others: int) -> None:
    alone = held_out(torch.zeros(20, dtype=torch.int64), 0.3, seed)
    mixed = held_out(torch.tensor([0] * 20 + [1] * others), 0.3, seed)
    assert alone.tolist() == mixed[mixed < 20].tolist()
    # A larger share only adds images.
    assert set(alone.tolist()) < set(held_out(torch.zeros(20, dtype=torch.int64), 0.6, seed).tolist())


@pytest.mark.parametrize(
    ("images", "fraction", "expected"),
    [
        (5, 0.5, 3),  # ⌊2.5 + ½⌋
        (7, 0.2, 1),
        (8, 0.2, 2),  # 1.6
        (10, 0.04, 1),  # at least one
        (2, 0.9, 1),  # one is left
        (3, 0.99, 2),
        (1, 0.5, 0),
        (9, 0.0, 0),
    ],
)
def test_as_many_images_of_a_class_are_held_out_as_stated(
    images: int, fraction: float, expected: int
) -> None:
    labels_N = torch.tensor([0] * images + [1] * images)
    selected = held_out(labels_N, fraction, 3)
    assert [int((selected < images).sum()), int((selected >= images).sum())] == [expected] * 2


def test_images_of_a_part_of_a_part_keep_their_keys() -> None:
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 6})
    labels_N = torch.tensor([0, 1, 0, 1, 0, 1])
    whole = Split("train", rows, labels_N, ("ant", "bee"), "image", None)
    part = whole.select("rest", np.array([5, 3, 1, 0])).select("fold", np.array([3, 1]))
    assert (part.name, part.origin, part.keys()) == ("fold", "train", ["train[0]", "train[3]"])
    assert part.labels_N.tolist() == [0, 1]


def test_held_out_follows_its_stated_permutation_and_the_seed() -> None:
    labels = torch.tensor([3, 1, 3, 1, 3, 3, 1, 3])
    expected = []
    for label, count in ((1, 1), (3, 2)):
        members = [i for i, y in enumerate(labels.tolist()) if y == label]
        order = np.random.Generator(np.random.PCG64([5, label])).permutation(len(members))
        expected += [members[place] for place in order[:count]]
    assert held_out(labels, 0.4, 5).tolist() == sorted(expected)
    assert len({tuple(held_out(labels, 0.4, seed)) for seed in range(20)}) > 5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 5), min_size=1, max_size=60), st.integers(1, 8))
def test_folds_divide_each_class_evenly(labels: list[int], folds: int) -> None:
    fold_N = folds_of(torch.tensor(labels), folds).tolist()
    assert all(0 <= fold < folds for fold in fold_N)
    for label in set(labels):
        counts = [0] * folds
        for fold, other in zip(fold_N, labels, strict=True):
            counts[fold] += other == label
        assert max(counts) - min(counts) <= 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 600))
def test_evenly_spaced_positions_cover_the_whole_range(count: int, most: int) -> None:
    positions_N = evenly_spaced(count, most)
    positions = positions_N.tolist()
    gaps = max(1, len(positions) - 1)
    assert positions == [math.floor(Fraction(place * (count - 1), gaps)) for place in range(len(positions))]
    assert positions == sorted(set(positions))
    assert len(positions) == min(count, most)
    assert positions[0] == 0
    if len(positions) > 1:
        assert positions[-1] == count - 1
        steps = np.diff(positions)
        assert steps.max() - steps.min() <= 1


def test_evenly_spaced_positions_are_exact_above_the_digits_of_float32() -> None:
    for count in (2**24 + 4, 20_480_000):
        assert int(evenly_spaced(count, 256)[-1]) == count - 1


@pytest.mark.parametrize(("count", "most"), [(0, 5), (5, 0)])
def test_evenly_spaced_of_no_images_is_empty(count: int, most: int) -> None:
    assert evenly_spaced(count, most).tolist() == []
