"""Shares of a step: every image once, no pair divided, and the same parts for any number of processes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.data.mixup import partners_of
from richkd.data.shares import cut, images_of, part_sizes, shares_of

counts = st.integers(1, 70)


@settings(deadline=None)
@given(counts, st.integers(1, 9))
def test_pieces_are_consecutive_and_about_equal(images: int, pieces: int) -> None:
    sizes = cut(images, pieces)
    assert sum(sizes) == images
    assert len(sizes) == pieces
    # Two images of a pair, and one more where the number is odd.
    assert max(sizes) - min(sizes) <= 3


@settings(max_examples=200, deadline=None)
@given(counts, st.integers(1, 6), st.integers(1, 6))
def test_no_pair_is_divided_by_parts_or_processes(images: int, parts: int, world: int) -> None:
    partners = partners_of(images).tolist()
    index_S = torch.arange(images)
    seen: list[int] = []
    for rank in range(world):
        for share in shares_of(index_S, parts, rank, world):
            part = share.index_P[share.first : share.first + share.count].tolist()
            seen += part
            assert {partners[place] for place in part} == set(part)
            # The partners of a share are those that it finds for itself.
            assert [part[place] for place in partners_of(len(part)).tolist()] == [partners[p] for p in part]
    assert sorted(seen) == list(range(images))


@settings(deadline=None)
@given(counts, st.integers(1, 6), st.integers(1, 6))
def test_parts_do_not_depend_on_the_number_of_processes(images: int, parts: int, world: int) -> None:
    index_S = torch.arange(images) + 100
    alone = shares_of(index_S, parts)
    assert [len(share.index_P) for share in alone] == part_sizes(images, parts)
    for rank in range(world):
        shares = shares_of(index_S, parts, rank, world)
        for one, share in zip(alone, shares, strict=True):
            assert torch.equal(one.index_P, share.index_P)
            assert (one.start, one.of_step) == (share.start, share.of_step)
            assert share.weight == share.count / len(share.index_P)
        assert len(images_of(shares)) == sum(max(1, share.count) for share in shares)


def test_a_process_without_images_computes_the_first_one_as_a_stand_in() -> None:
    share = shares_of(torch.tensor([8, 9]), 1, rank=0, world=3)[0]
    assert (share.count, share.computed, share.index_B.tolist(), share.weight) == (0, 1, [8], 0.0)


@settings(deadline=None)
@given(counts)
def test_everybody_has_one_partner_and_is_partner_of_one(images: int) -> None:
    partners = partners_of(images).tolist()
    assert sorted(partners) == list(range(images))
    if images > 1:
        assert all(place != partner for place, partner in enumerate(partners))
