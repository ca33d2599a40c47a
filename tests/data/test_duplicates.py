"""Images that two splits share are found by their pixels, and many of them in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from richkd.core.errors import ImageError
from richkd.data import duplicates as module
from richkd.data.duplicates import Duplicate, duplicates, shared_positions, summary
from tests.data.test_images import encode, make_split, noise
from tests.fixtures import refusal


def test_duplicates_compares_pixels_and_sizes_not_files() -> None:
    image = Image.fromarray(noise(4, 6))
    other = Image.fromarray(noise(4, 6, seed=1))
    # The same pixel bytes in another shape are a different image.
    reshaped = Image.fromarray(noise(4, 6).reshape(6, 4, 3))
    a = make_split([encode(other), encode(image), encode(image, "BMP")])
    b = make_split([encode(reshaped), encode(image, "PNG", compress_level=0)], "test")
    assert duplicates(a, b) == [Duplicate(("train[1]", "train[2]"), ("test[1]",))]
    assert duplicates(make_split([encode(other)]), b) == []


@given(st.lists(st.sampled_from([b"a", b"b", b"c"])), st.lists(st.sampled_from([b"b", b"c", b"d"])))
def test_positions_are_those_of_all_pairs(a: list[bytes], b: list[bytes]) -> None:
    pairs = {(i, j) for i, x in enumerate(a) for j, y in enumerate(b) if x == y}
    groups = shared_positions(a, b)
    assert {(i, j) for x, y in groups for i in x for j in y} == pairs
    assert len(groups) == len(set(a) & set(b))


def test_many_copies_of_few_pictures_are_grouped_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    # 20,000 images of 40 pictures in each split have ten million pairs.
    values = [bytes([i % 40]) for i in range(20_000)]
    monkeypatch.setattr(module, "_digests", lambda split, workers: values)
    split = make_split([b""] * 20_000)
    began = time.perf_counter()
    groups = duplicates(split, split)
    text = summary(groups)
    assert time.perf_counter() - began < 2
    assert [len(one.first) for one in groups] == [500] * 40
    assert text.startswith("40 pictures: train[0] and 499 more = train[0] and 499 more, train[1] and")
    assert text.endswith("and 35 more")
    assert len(text) < 500


def test_a_summary_of_single_copies_is_short() -> None:
    assert summary([Duplicate(("a",), ("b",)), Duplicate(("c",), ("d",))]) == "a = b, c = d"


def test_unreadable_images_of_both_splits_are_reported_together() -> None:
    good = encode(Image.fromarray(noise(4, 6)))
    error = refusal(duplicates, make_split([good, b"x"]), make_split([b"y", good, good], "test"))
    assert isinstance(error, ImageError)
    assert "Every image of the train split" in str(error)
    assert "Every image of the test split" in str(error)
    assert "1 of 2 images" in str(error)
    assert "1 of 3 images" in str(error)
