"""Probabilities and percentages are told from logits, however they are rounded; logits never are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torch import Tensor

from richkd.core.errors import CacheError
from richkd.data.sources import open_data
from richkd.metrics.probabilities import recognized
from richkd.pipeline.import_outputs import import_outputs
from tests.fixtures import World, keys_of, make_outputs, refusal

DTYPES = [torch.float16, torch.float64]


def logits(classes: int, spread: float = 3.0, rows: int = 50, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("spread", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("total", [1, 100])
@pytest.mark.parametrize("decimals", [None, 2, 3, 4])
def test_probabilities_are_recognized(
    dtype: torch.dtype, classes: int, spread: float, total: int, decimals: int | None
) -> None:
    shares_NC = total * logits(classes, spread).softmax(dim=1)
    if decimals is not None:
        shares_NC = shares_NC.round(decimals=decimals)
    if float(shares_NC.sum(dim=1).mean()) < 0.6 * total:
        pytest.skip("most of the mass is rounded to zeros")
    assert str(recognized(shares_NC.to(dtype))).startswith("probabilities" if total == 1 else "percentages")


def test_percentages_without_decimals_are_recognized() -> None:
    shares_NC = (100 * logits(10).softmax(dim=1)).round()
    assert not torch.equal(shares_NC.sum(dim=1), torch.full((50,), 100.0, dtype=torch.float64))
    assert recognized(shares_NC) == "percentages with 0 decimals"


def test_one_hot_rows_are_recognized() -> None:
    assert recognized(torch.eye(4)) == "probabilities"
    assert recognized(100 * torch.eye(4)) == "percentages"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("spread", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("decimals", [None, 1, 2, 3])
def test_logits_are_not_refused(
    dtype: torch.dtype, classes: int, spread: float, decimals: int | None
) -> None:
    raw_NC = logits(classes, spread)
    for numbers_NC in (
        raw_NC,
        raw_NC.relu(),
        raw_NC.abs(),
        raw_NC - raw_NC.min(),
        raw_NC.log_softmax(dim=1),
        -raw_NC.log_softmax(dim=1),
        raw_NC - raw_NC.min(dim=1, keepdim=True).values,
    ):
        rounded_NC = numbers_NC if decimals is None else numbers_NC.round(decimals=decimals)
        assert recognized(rounded_NC.to(dtype)) is None


def test_degenerate_logits_are_not_refused() -> None:
    assert recognized(torch.zeros(5, 3)) is None
    assert recognized(torch.zeros(5, 1000)) is None
    assert recognized(torch.empty(0, 3)) is None
    assert recognized(torch.full((5, 3), 7.0)) is None


@budget(max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(2, 4))
def test_rounding_to_any_decimals_never_hides_probabilities(seed: int, classes: int, decimals: int) -> None:
    shares_NC = logits(classes, rows=5, seed=seed).softmax(dim=1).round(decimals=decimals)
    assert recognized(shares_NC.float()) is not None


@pytest.mark.parametrize(
    ("total", "decimals", "words"),
    [
        (1, 2, "probabilities"),
        (100, 1, "percentages"),
        (100, None, "percentages"),
        (1, None, "probabilities"),
    ],
)
def test_a_file_of_probabilities_is_refused_with_what_to_save(
    world: World, tmp_path: Path, total: int, decimals: int | None, words: str
) -> None:
    file = tmp_path / "outputs.npz"
    shares_NC = total * logits(3, rows=len(keys_of(world.images))).softmax(dim=1)
    if decimals is not None:
        shares_NC = shares_NC.round(decimals=decimals)
    make_outputs(file, world.images, logits=shares_NC.float().numpy())
    config = world.config(tmp_path / "run", method__name="kd", cache__dir=str(tmp_path / "cache"))
    error = refusal(import_outputs, file, config)
    assert isinstance(error, CacheError)
    assert str(error.got).startswith(words)
    assert "np.log(" in str(error.fix)
    assert ("P / 100" in str(error.fix)) == (total == 100)
    # What the message says to save is accepted.
    numbers = np.log(np.maximum(shares_NC.numpy() / total, 1e-6)).astype(np.float32)
    make_outputs(file, world.images, logits=numbers)
    assert {len(cache) for cache in import_outputs(file, config)} == {
        len(split) for split in open_data(config.data, 0).splits.values()
    }
