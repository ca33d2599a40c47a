"""The order of training images is a function of (seed, epoch); evaluation uses all images in order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.core.errors import DataError
from richkd.data.order import TrainingOrder, in_order

sizes = st.tuples(st.integers(2, 60), st.integers(2, 70))
seeds = st.integers(0, 2**62)


@settings(max_examples=60, deadline=None)
@given(sizes, seeds, st.integers(0, 500))
def test_an_epoch_is_a_permutation_cut_into_full_batches(
    shape: tuple[int, int], seed: int, epoch: int
) -> None:
    images, batch_size = shape
    order = TrainingOrder(images, batch_size, seed)
    groups = order.epoch(epoch)
    full = min(images, batch_size)
    assert [len(group) for group in groups] == [full] * (images // full)
    assert len(groups) == order.steps >= 1
    used = torch.cat(groups).tolist()
    assert len(set(used)) == len(used) > images - full
    assert set(used) <= set(range(images))
    again = TrainingOrder(images, batch_size, seed).epoch(epoch)
    assert all(torch.equal(a, b) for a, b in zip(groups, again, strict=True))


@settings(max_examples=40, deadline=None)
@given(sizes, seeds, st.data())
def test_an_epoch_can_be_resumed_at_any_step(shape: tuple[int, int], seed: int, data: st.DataObject) -> None:
    order = TrainingOrder(*shape, seed)
    whole = order.epoch(3)
    first = data.draw(st.integers(0, order.steps))
    tail = order.epoch(3, first)
    assert len(tail) == order.steps - first
    assert all(torch.equal(a, b) for a, b in zip(whole[first:], tail, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(2, 16), st.floats(0.01, 0.99), seeds)
def test_unlabeled_images_have_their_share_of_each_batch(
    labeled: int, unlabeled: int, batch_size: int, share: float, seed: int
) -> None:
    order = TrainingOrder(labeled + unlabeled, batch_size, seed, unlabeled=unlabeled, share=share)
    groups = order.epoch(2)
    assert len(groups) == order.steps >= 1
    wanted = min(max(1, round(share * order.full_batch)), order.full_batch - 1)
    of_each = (min(labeled, order.full_batch - wanted), min(unlabeled, wanted))
    seen: list[list[int]] = [[], []]
    for group in groups:
        kinds = [group[group < labeled].tolist(), group[group >= labeled].tolist()]
        assert tuple(map(len, kinds)) == of_each
        # A memory bank must not be updated twice for one image in a step.
        assert all(len(set(kind)) == len(kind) for kind in kinds)
        seen = [a + b for a, b in zip(seen, kinds, strict=True)]
    # All images of a kind are used about equally often, and those of the longer kind once.
    for kind, count, size in zip(seen, (labeled, unlabeled), of_each, strict=True):
        times = [kind.count(i) for i in set(kind)]
        rounds = -(-order.steps // (count // size))
        assert max(times) <= rounds
        assert len(set(kind)) >= min(len(kind), count - count % size)
    assert order.steps == max(labeled // of_each[0], unlabeled // of_each[1])


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 11), seeds)
def test_unlabeled_images_may_be_anywhere(places: list[int], labeled: int, seed: int) -> None:
    by_kind_N = torch.tensor(places)
    behind = TrainingOrder(12, 4, seed, unlabeled=12 - labeled, share=0.5)
    among = TrainingOrder(12, 4, seed, unlabeled=12 - labeled, share=0.5, by_kind_N=by_kind_N)
    assert among.steps == behind.steps
    assert among.images_of_epoch == behind.images_of_epoch == sum(map(len, behind.epoch(3)))
    for one, other in zip(behind.epoch(3, 1), among.epoch(3, 1), strict=True):
        assert other.tolist() == [places[place] for place in one.tolist()]
    # Without a share, kinds do not matter.
    plain, mixed = TrainingOrder(12, 5, seed), TrainingOrder(12, 5, seed, by_kind_N=by_kind_N)
    assert all(torch.equal(a, b) for a, b in zip(plain.epoch(1), mixed.epoch(1), strict=True))
    assert mixed.images_of_epoch == 12


def test_labeled_and_unlabeled_images_are_at_random_places_of_a_batch() -> None:
    order = TrainingOrder(400, 20, 0, unlabeled=200, share=0.5)
    labeled = torch.stack([group < 200 for group in order.epoch(0)]).double()
    # Neighbors are the pairs of mixup: of 20 batches of 10 pairs, 10/19 are of both kinds; deviation 0.035.
    mixed = (labeled[:, 0::2] != labeled[:, 1::2]).double().mean()
    assert 0.4 < float(mixed) < 0.65
    assert not torch.equal(labeled[0], labeled[1])


def test_without_a_share_all_images_are_permuted_together() -> None:
    plain, mixed = TrainingOrder(30, 8, 3).epoch(1), TrainingOrder(30, 8, 3, unlabeled=20).epoch(1)
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))


def test_epochs_and_seeds_differ() -> None:
    orders = [torch.cat(TrainingOrder(100, 10, seed).epoch(epoch)) for seed in (0, 1) for epoch in (0, 1)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # Two independent permutations agree at one position on average, with standard deviation 1.
            assert (one == other).sum() < 10


def test_remaining_images_are_used_in_other_epochs() -> None:
    order = TrainingOrder(10, 4, 0)
    seen = {index for epoch in range(20) for group in order.epoch(epoch) for index in group.tolist()}
    assert seen == set(range(10))


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    order = TrainingOrder(5, 64, 0)
    assert order.full_batch == 5
    assert order.steps == 1
    (group,) = order.epoch(0)
    assert sorted(group.tolist()) == [0, 1, 2, 3, 4]


def test_one_image_is_not_enough() -> None:
    with pytest.raises(DataError, match="at least two images\nGot: 1\nFix: "):
        TrainingOrder(1, 64, 0)


def test_evaluation_uses_all_images_in_order() -> None:
    groups = in_order(10, 4)
    assert [group.tolist() for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [group.tolist() for group in in_order(8, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
