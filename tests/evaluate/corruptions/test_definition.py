"""The registry of corruptions: its entries, their constants, and what a new entry changes."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from richkd.config.choices import CORRUPTIONS
from richkd.core.errors import ConfigError
from richkd.evaluate.corruptions import corrupt as module
from richkd.evaluate.corruptions.definition import Corruption, Kind, each, register_corruption
from richkd.evaluate.corruptions.severity import SEVERITIES, constants, interpolated
from richkd.evaluate.robustness import mce
from richkd.evaluate.subjects import selected_corruptions

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "validation": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
TEST = (*GROUPS["noise"], *GROUPS["blur"], *GROUPS["weather"], *GROUPS["digital"])
ROWS = each(1, 1, 1, 1, 1)


def test_names_and_their_order_are_those_of_the_benchmark() -> None:
    assert list(module.GROUPS.items()) == list(GROUPS.items())
    assert module.TEST == TEST
    assert len(CORRUPTIONS) == 19
    assert set(CORRUPTIONS) == {*TEST, *GROUPS["validation"]}


@pytest.mark.parametrize("name", [*TEST, *GROUPS["validation"]])
def test_an_entry_has_constants_for_its_function(name: str) -> None:
    entry: Corruption = CORRUPTIONS[name]
    assert entry.apply.__name__ == name
    assert CORRUPTIONS.entry(name).summary
    arguments = len(inspect.signature(entry.apply).parameters) - entry.kind.inputs
    for rows in (entry.small, entry.large):
        assert len(rows) == 5
        assert {len(row) for row in rows} == {arguments}


@pytest.mark.parametrize("rows", [ROWS[:4], (*ROWS[:4], (1.0, 2.0)), ((1.0, 2.0),) * 5])
def test_constants_need_one_row_for_each_severity(rows: tuple[tuple[float, ...], ...]) -> None:
    def scaled(image_B3HW: Tensor, factor: float) -> Tensor:
        return image_B3HW * factor

    with pytest.raises(ConfigError, match="needs 5 rows of constants for each size, of length 1"):
        Corruption(scaled, ROWS, rows, "digital", Kind.FIXED)


@pytest.fixture
def darker() -> Iterator[str]:
    """A corruption of a group that is neither for testing nor for validation."""

    @register_corruption(
        "darker", "halves all values", group="light", kind=Kind.FIXED, small=ROWS, large=ROWS
    )
    def darker(image_B3HW: Tensor, power: float) -> Tensor:
        return image_B3HW * 0.5**power

    yield "darker"
    del CORRUPTIONS._entries["darker"]


def test_a_new_group_can_be_applied_but_is_not_in_the_benchmark(darker: str) -> None:
    pixels_BHWC = torch.full((2, 8, 8, 3), 100, dtype=torch.uint8)
    assert set(module.corrupt(pixels_BHWC, darker, 1).flatten().tolist()) == {50}
    assert module.GROUPS == GROUPS
    assert module.TEST == TEST
    assert darker not in selected_corruptions(test=True, validation=True)
    cells = {"fog": (0.2,) * 5}
    assert mce(cells | {darker: (0.9,) * 5}, {"fog": (0.4,) * 5, darker: (0.1,) * 5}) == pytest.approx(0.5)
    assert mce({darker: (0.9,) * 5}, {darker: (0.1,) * 5}) is None


def test_a_new_corruption_of_a_test_group_follows_the_others() -> None:
    @register_corruption("grain", "does nothing", group="noise", kind=Kind.FIXED, small=ROWS, large=ROWS)
    def grain(image_B3HW: Tensor, strength: float) -> Tensor:
        return image_B3HW

    try:
        assert module.GROUPS["noise"] == (*GROUPS["noise"], "grain")
    finally:
        del CORRUPTIONS._entries["grain"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "from richkd.config.choices import CORRUPTIONS; list(CORRUPTIONS)",
        "import richkd.evaluate.corruptions.weather",
        "import richkd.evaluate.corruptions.stores",
    ],
)
def test_the_order_does_not_depend_on_what_is_imported_first(first: str) -> None:
    code = f"{first}; from richkd.evaluate.corruptions.corrupt import GROUPS; print(GROUPS)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(GROUPS)


def test_constants_are_interpolated_only_between_the_two_sizes() -> None:
    assert interpolated((1.0,), (3.0,), 32) == interpolated((1.0,), (3.0,), 8) == (1.0,)
    assert interpolated((1.0,), (3.0,), 224) == interpolated((1.0,), (3.0,), 448) == (3.0,)
    for severity in SEVERITIES:
        assert constants("snow", severity, 32) == CORRUPTIONS["snow"].small[severity - 1]


@pytest.mark.parametrize("severity", [-1, 0, 6])
def test_constants_of_an_unknown_severity_are_an_error(severity: int) -> None:
    with pytest.raises(ConfigError, match="1, 2, 3, 4 or 5"):
        constants("fog", severity, 32)
