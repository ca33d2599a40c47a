"""The cells of the table."""

from __future__ import annotations

import re

import pytest

from richkd.compare.pages import NUMBER
from richkd.compare.table import _millions


@pytest.mark.parametrize(
    ("number", "text"),
    [(3_640_000_000, "3,640"), (999_600_000, "1,000"), (999_000_000, "999"), (82_300, "0.0823")],
)
def test_large_numbers_are_read_as_they_are_written(number: int, text: str) -> None:
    assert _millions(number) == text
    (digits,) = [m.group() for m in re.finditer(NUMBER, text)]
    assert float(digits.replace(",", "")) == pytest.approx(number / 1e6, rel=5e-3)
