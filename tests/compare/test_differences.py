"""Charts of differences: what their rows say, their axes, and how the page draws them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from richkd.compare.differences import difference_charts, ticks
from richkd.compare.logits import StoredLogits
from richkd.compare.pages import write_pages
from richkd.compare.results import figures_of
from tests.compare.test_results import SEEDS, compared, costs_of, planned


def test_rows_have_the_differences_of_the_cell_in_points_and_nats() -> None:
    (cell,) = compared(("kd", "ce", "dkd"), "kd")
    top1, nll = difference_charts(cell)
    by_name = {method.name: method for method in cell.methods}
    for chart, metric, unit in ((top1, "top1", 100), (nll, "nll", 1)):
        assert {row.method for row in chart.rows} == {"ce", "dkd"}
        for row in chart.rows:
            values, base = (
                {run.seed: getattr(run, metric) for run in by_name[n].runs} for n in (row.method, "kd")
            )
            assert row.runs == pytest.approx([unit * (values[seed] - base[seed]) for seed in SEEDS])
            assert row.mean == pytest.approx(sum(row.runs) / len(SEEDS))
            difference = by_name[row.method].difference
            assert difference is not None
            images = getattr(difference, f"{metric}_images")
            assert row.images == pytest.approx((unit * images.low, unit * images.high))


def test_the_best_is_first_and_a_certain_difference_has_a_sign() -> None:
    random = np.random.default_rng(1)
    labels_N = torch.from_numpy(random.integers(4, size=200))
    # The same noise for all, so that "twin" differs from the baseline by nothing but a little.
    noise_NC = torch.from_numpy(random.normal(size=(200, 4)))
    little_NC = torch.from_numpy(0.05 * random.normal(size=(200, 4)))
    truth_NC = torch.eye(4, dtype=torch.float64)[labels_N]
    logits = {
        "bad": noise_NC,
        "kd": 1.5 * truth_NC + noise_NC,
        "twin": 1.5 * truth_NC + noise_NC + little_NC,
        "good": 4 * truth_NC + noise_NC,
    }
    runs = [planned(method, seed) for method in logits for seed in SEEDS]
    stored = {
        run.name: StoredLogits(logits[run.method].float(), labels_N, 1.0, "images", "keys", "weights")
        for run in runs
    }
    (cell,) = figures_of(runs, stored, {}, "kd", {})
    for chart in difference_charts(cell):
        assert [(row.method, row.kind) for row in chart.rows] == [
            ("good", "better"),
            ("twin", "unclear"),
            ("bad", "worse"),
        ]


def test_the_axis_holds_zero_and_all_that_was_measured_and_cuts_only_the_interval_over_seeds() -> None:
    (cell,) = compared(("kd", "ce", "dkd"), "kd")
    for chart in difference_charts(cell):
        assert 0.0 in chart.ticks
        for row in chart.rows:
            assert all(chart.low < value < chart.high for value in (row.mean, *row.images, *row.runs))
            assert row.seeds is not None
            assert chart.low <= row.seeds[0] <= row.mean <= row.seeds[1] <= chart.high


def test_a_baseline_alone_has_no_chart() -> None:
    (cell,) = compared(("kd",), "kd")
    assert difference_charts(cell) == ()


@given(st.floats(-1e4, -1e-4), st.floats(1e-4, 1e4))
def test_ticks_are_equal_steps_that_fill_the_range(low: float, high: float) -> None:
    values = ticks(low, high)
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert 4 <= len(values) <= 11
    assert 0.0 in values
    assert low - 1e-9 <= values[0]
    assert values[-1] <= high + 1e-9
    assert max(steps) == pytest.approx(min(steps), rel=1e-6)
    digit = float(f"{steps[0]:.6e}".split("e")[0])
    assert min(abs(digit - one) for one in (1, 2, 5, 10)) < 1e-4
    assert max(values[0] - low, high - values[-1]) < steps[0] * (1 + 1e-6)


def test_the_page_draws_each_row_where_its_numbers_are(tmp_path: Path) -> None:
    cells = compared(("kd", "ce"), "kd")
    page = write_pages("plan.yaml", cells, costs_of(cells), tmp_path).read_text()
    (chart, _) = difference_charts(cells[0])
    drawing = page[page.index(f'aria-label="{chart.title}"') :].split("</svg>")[0]
    (row,) = chart.rows
    places = [float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', drawing)]
    expected = [150 + 390 * (value - chart.low) / (chart.high - chart.low) for value in (*row.runs, row.mean)]
    assert places == pytest.approx(expected, abs=0.06)
    assert f"{row.mean:+.2f}" in drawing
