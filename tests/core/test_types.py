"""Records: what is selected, moved and joined stays together, whatever order images are asked for in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from richkd.core.types import UNLABELED, Batch, LossTerms, Output, Target

IMAGES, CLASSES = 7, 4
META = torch.device("meta")


def make_batch(images: int = IMAGES, split: str | None = "train") -> Batch:
    """A batch in which index, pixels and label all follow from an image's position."""
    places_B = torch.arange(images)
    pixels_BHWC = places_B[:, None, None, None].expand(images, 2, 2, 3).to(torch.uint8)
    return Batch(split, places_B + 100, pixels_BHWC, places_B % 3)


def make_output(images: int = IMAGES, seed: int = 0, dtype: torch.dtype = torch.float32) -> Output:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(images, *shape, generator=random).to(dtype)

    return Output(normal(CLASSES), normal(5), (normal(3, 4, 4), normal(6, 2, 2)))


def make_target(seed: int = 0, *, weighted: bool = True) -> Target:
    weight_B = torch.linspace(0, 1, IMAGES) if weighted else None
    teachers = (make_output(seed=seed), make_output(seed=seed + 1))
    return Target(make_output(seed=seed + 2).logits_BC, teachers, (0.7, 0.3), weight_B)


places = st.lists(st.integers(0, IMAGES - 1), max_size=2 * IMAGES)


@settings(max_examples=40, deadline=None)
@given(places)
def test_selected_images_keep_index_pixels_and_label_together(selected: list[int]) -> None:
    part = make_batch().at(torch.tensor(selected, dtype=torch.int64))
    assert len(part) == len(selected)
    assert part.split == "train"
    assert part.index_B.tolist() == [100 + place for place in selected]
    assert part.pixels_BHWC.shape == (len(selected), 2, 2, 3)
    assert part.pixels_BHWC[:, 1, 0, 2].tolist() == selected
    assert part.labels_B.tolist() == [place % 3 for place in selected]


def test_pixels_that_no_split_holds_stay_so() -> None:
    batch = make_batch(split=None)
    assert batch.at(torch.tensor([1])).split is None
    assert batch.to(torch.device("cpu")).split is None
    assert all(part.split is None for part in batch.split_at([1, len(batch) - 1]))


def test_only_positions_stay_on_the_cpu_when_a_batch_moves() -> None:
    moved = make_batch().to(META)
    assert moved.pixels_BHWC.device == moved.labels_B.device == META
    assert moved.index_B.device == torch.device("cpu")
    assert moved.index_B.tolist() == [100 + place for place in range(IMAGES)]
    assert len(moved) == IMAGES
    # Positions are given on the CPU wherever the pixels are.
    part = moved.at(torch.tensor([3, 1]))
    assert part.index_B.tolist() == [103, 101]
    assert part.pixels_BHWC.device == part.labels_B.device == META
    assert part.pixels_BHWC.shape == (2, 2, 2, 3)


def test_moving_leaves_the_original_where_it_was() -> None:
    batch = make_batch()
    batch.to(META)
    assert batch.pixels_BHWC.device == torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_pieces_have_their_sizes_and_every_image_once_in_order(sizes: list[int]) -> None:
    batch = make_batch(sum(sizes))
    parts = batch.split_at(sizes)
    assert [len(part) for part in parts] == sizes
    for name in ("index_B", "pixels_BHWC", "labels_B"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(batch, name)), name


@settings(max_examples=30, deadline=None)
@given(places)
def test_selected_rows_of_an_output_are_rows_of_all_its_parts(selected: list[int]) -> None:
    output, places_B = make_output(), torch.tensor(selected, dtype=torch.int64)
    part = output.at(places_B)
    assert torch.equal(part.logits_BC, output.logits_BC[places_B])
    assert torch.equal(part.feats_BF, output.feats_BF[places_B])
    assert [tuple(map_BFHW.shape) for map_BFHW in part.maps] == [
        (len(selected), 3, 4, 4),
        (len(selected), 6, 2, 2),
    ]
    assert all(torch.equal(a, b[places_B]) for a, b in zip(part.maps, output.maps, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12))
def test_joined_chunks_are_the_whole(images: int, count: int) -> None:
    whole = make_output(images)
    parts = [whole.at(places_B) for places_B in torch.arange(images).chunk(count)]
    joined = Output.cat(parts)
    assert torch.equal(joined.logits_BC, whole.logits_BC)
    assert torch.equal(joined.feats_BF, whole.feats_BF)
    assert len(joined.maps) == 2
    assert all(torch.equal(a, b) for a, b in zip(joined.maps, whole.maps, strict=True))


def test_outputs_with_and_without_maps_do_not_join() -> None:
    whole = make_output()
    with pytest.raises(ValueError, match="shorter"):
        Output.cat([whole, replace(whole, maps=())])
    assert Output.cat([replace(whole, maps=())] * 2).maps == ()


def test_an_output_moves_with_its_maps_and_comes_back_as_float32_without_them() -> None:
    output = make_output(dtype=torch.bfloat16)
    moved = output.to(META)
    assert all(t.device == META for t in (moved.logits_BC, moved.feats_BF, *moved.maps))
    assert [t.shape for t in moved.maps] == [t.shape for t in output.maps]
    back = output.cpu()
    assert back.maps == ()
    assert back.logits_BC.dtype == back.feats_BF.dtype == torch.float32
    assert torch.equal(back.logits_BC, output.logits_BC.float())
    assert torch.equal(back.feats_BF, output.feats_BF.float())


@settings(max_examples=30, deadline=None)
@given(places, st.booleans())
def test_a_target_is_selected_with_all_its_teachers_and_weights(selected: list[int], weighted: bool) -> None:
    target, places_B = make_target(weighted=weighted), torch.tensor(selected, dtype=torch.int64)
    part = target.at(places_B)
    assert torch.equal(part.logits_BC, target.logits_BC[places_B])
    assert part.feature_weights == target.feature_weights
    for after, before in zip(part.teachers, target.teachers, strict=True):
        assert torch.equal(after.logits_BC, before.logits_BC[places_B])
        assert torch.equal(after.feats_BF, before.feats_BF[places_B])
        assert all(torch.equal(a, b[places_B]) for a, b in zip(after.maps, before.maps, strict=True))
    if target.weight_B is None:
        assert part.weight_B is None
    else:
        assert part.weight_B is not None
        assert torch.equal(part.weight_B, target.weight_B[places_B])


def test_the_total_of_loss_terms_is_their_sum_and_keeps_gradient_and_dtype() -> None:
    first = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    terms = LossTerms({"ce": first, "kd": torch.tensor(2.25, dtype=torch.float64)})
    assert terms.total.item() == 3.75
    assert terms.total.dtype == torch.float64
    assert terms.total.shape == ()
    terms.total.backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    assert first.grad.item() == 1
    assert terms.memory == {}
    assert LossTerms({"kd": torch.tensor(0.5)}).total.item() == 0.5


def test_the_mark_of_an_unlabeled_image_is_no_class() -> None:
    assert UNLABELED < 0
