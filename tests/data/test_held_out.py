"""The split that fusion and temperatures are fitted on."""

from __future__ import annotations

import pytest

from richkd.data.held_out import held_out_split


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "val", "test"], "val"),
        (["train", "val", "test", "calibration"], "calibration"),
        (["test", "calibration"], "calibration"),
        (["train", "test"], None),
        ([], None),
    ],
)
def test_calibration_is_preferred_to_validation(splits: list[str], expected: str | None) -> None:
    assert held_out_split(splits) == expected
    assert held_out_split(dict.fromkeys(splits)) == expected
    # An iterator can be read only once.
    assert held_out_split(iter(splits)) == expected
