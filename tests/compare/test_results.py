"""Figures of a comparison against slow versions, and the files that show them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from richkd.compare.costs import RunCost
from richkd.compare.logits import StoredLogits
from richkd.compare.pages import print_tables, write_pages
from richkd.compare.pareto import are_best, charts_of
from richkd.compare.results import CellFigures, figures_of
from richkd.compare.runs import Cell, PlannedRun
from richkd.config.schema import Config
from richkd.core.terminal import Terminal
from tests.fixtures import refusal

SEEDS, IMAGES, CLASSES = (0, 1, 2), 40, 4
NASTY = "<b>|[x](y) \\input{a} =1+1 & ±"
CONFIG = Config.model_validate({"data": {"path": "."}, "student": {"name": "resnet18"}})


def planned(method: str, seed: int, pair: str = "") -> PlannedRun:
    cell = Cell(pair, "", 3)
    return PlannedRun(f"{method}-{pair}-{seed}", method, None, cell, seed, CONFIG)


def outputs(runs: list[PlannedRun]) -> dict[str, StoredLogits]:
    random = np.random.default_rng(0)
    labels_N = torch.from_numpy(random.integers(CLASSES, size=IMAGES))
    result = {}
    for place, run in enumerate(runs):
        logits_NC = 2 * torch.eye(CLASSES)[labels_N] + torch.from_numpy(random.normal(size=(IMAGES, CLASSES)))
        result[run.name] = StoredLogits(
            logits_NC.float(), labels_N, 1 + place / 4, "images", "keys", "weights"
        )
    return result


def compared(
    methods: tuple[str, ...], baseline: str, pairs: tuple[str, ...] = ("",)
) -> tuple[CellFigures, ...]:
    runs = [planned(method, seed, pair) for pair in pairs for method in methods for seed in SEEDS]
    return figures_of(runs, outputs(runs), {}, baseline, {run.name: "3 epochs" for run in runs})


def costs_of(cells: tuple[CellFigures, ...]) -> dict[str, RunCost]:
    names = [run.name for cell in cells for method in cell.methods for run in method.runs]
    return {name: RunCost(1000 + place, 2000, 0.5, 1.5) for place, name in enumerate(names)}


NAMES = ("top1", "nll", "ece", "half_error")


def slow(output: StoredLogits) -> tuple[float, ...]:
    probabilities = np.exp(output.logits_NC.double().numpy() / output.temperature)
    probabilities /= probabilities.sum(1, keepdims=True)
    rows = [
        (row.argmax() == label, -np.log(row[label]))
        for row, label in zip(probabilities, output.labels_N, strict=True)
    ]
    top1, nll = np.mean(np.array(rows, dtype=float), axis=0)
    confidence = probabilities.max(1)
    right = np.array([row[0] for row in rows])
    bins = np.ceil(confidence * 15) - 1
    gaps = [
        (bins == place).mean() * abs(confidence[bins == place].mean() - right[bins == place].mean())
        for place in set(bins)
    ]
    half = np.argsort(-confidence)[: len(rows) // 2]
    return float(top1), float(nll), float(sum(gaps)), float(1 - right[half].mean())


def t_interval(values: list[float], least: float, greatest: float) -> list[float]:
    """The interval between the least and the greatest value that the metric can have."""
    ends = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return [float(end) for end in np.clip(ends, least, greatest)]


def test_figures_over_seeds_equal_those_of_scipy() -> None:
    runs = [planned(method, seed) for method in ("kd", "ce") for seed in SEEDS]
    logits = outputs(runs)
    (cell,) = figures_of(runs, logits, {}, "kd", {})
    values = {run.name: slow(logits[run.name]) for run in runs}
    kd, ce = cell.methods
    assert kd.difference is None
    for place, name in enumerate(NAMES):
        ours, theirs = ([values[f"{m}--{seed}"][place] for seed in SEEDS] for m in ("ce", "kd"))
        figures = getattr(ce, name)
        assert figures.mean == pytest.approx(np.mean(ours))
        assert figures.sd == pytest.approx(np.std(ours, ddof=1))
        greatest = math.inf if name == "nll" else 1
        assert [figures.low, figures.high] == pytest.approx(t_interval(ours, 0, greatest))
        if name in NAMES[2:]:
            continue
        paired = getattr(ce.difference, name)
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        assert [paired.low, paired.high] == pytest.approx(t_interval(differences, -greatest, greatest))
        images = getattr(ce.difference, f"{name}_images")
        assert images.estimate == pytest.approx(np.mean(differences))
        assert images.low <= images.estimate <= images.high


def test_mcnemar_counts_images_of_each_seed() -> None:
    runs = [planned(method, seed) for method in ("kd", "ce") for seed in SEEDS]
    logits = outputs(runs)
    (cell,) = figures_of(runs, logits, {}, "kd", {})
    difference = cell.methods[1].difference
    assert difference is not None
    for seed, test in zip(SEEDS, difference.mcnemar, strict=True):
        a, b = (logits[f"{m}--{seed}"] for m in ("kd", "ce"))
        right_a, right_b = (x.logits_NC.argmax(1) == x.labels_N for x in (a, b))
        assert test.only_a == sum(bool(x and not y) for x, y in zip(right_a, right_b, strict=True))
        pairs = test.only_a + test.only_b
        assert test.exact == pytest.approx(stats.binomtest(test.only_a, pairs).pvalue if pairs else 1)


def test_failed_runs_are_left_out_of_pairs() -> None:
    runs = [planned(method, seed) for method in ("kd", "ce") for seed in SEEDS]
    logits = outputs(runs)
    del logits["kd--1"], logits["ce--2"]
    failed = {"kd--1": "no memory", "ce--2": "NaN"}
    (cell,) = figures_of(runs, logits, failed, "kd", {})
    kd, ce = cell.methods
    assert (kd.failed, ce.failed) == ({1: "no memory"}, {2: "NaN"})
    assert ce.difference is not None
    assert (ce.difference.seeds, ce.difference.top1.n, ce.difference.top1.sd) == ((0,), 1, None)
    assert ce.top1 is not None
    assert ce.top1.n == 2
    for name in [name for name in logits if name.startswith("kd")]:
        del logits[name]
    (cell,) = figures_of(runs, logits, failed, "kd", {})
    assert (cell.methods[0].top1, cell.methods[1].difference) == (None, None)


def test_other_images_in_a_cell_are_refused() -> None:
    runs = [planned("kd", seed) for seed in SEEDS]
    logits = outputs(runs)
    for name in ("keys", "images"):
        changed = {**logits[runs[2].name].__dict__, name: "other"}
        error = refusal(figures_of, runs, {**logits, runs[2].name: StoredLogits(**changed)}, {}, "kd", {})
        assert "same test images" in str(error)
        assert runs[2].name in str(error)


def test_the_files_show_names_as_they_are(tmp_path: Path) -> None:
    cells = compared(("kd", NASTY), "kd", ("a", "<i>"))
    costs = costs_of(cells)
    page = write_pages("<plan>", cells, costs, tmp_path).read_text()
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;|[x](y)" in page
    assert "Content-Security-Policy" in page
    assert page.count("<svg") >= 3
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert r"\<b" not in (tmp_path / "compare.md").read_text()
    assert r"&lt;b&gt;\|\[x\]\(y)" in (tmp_path / "compare.md").read_text()
    tex = (tmp_path / "compare.tex").read_text()
    for name in ("compare.html", "compare.md", "compare.tex"):
        assert (tmp_path / name).read_text().count("wrong in most confident 50") == 2, name
    assert r"\input{" not in tex
    assert r"\textbackslash{}input\{a\} =1+1 \&" in tex
    rows = list(csv.DictReader(io.StringIO((tmp_path / "compare.csv").read_text())))
    assert [row["method"] for row in rows] == ["kd", NASTY] * 2
    assert {row["seeds"] for row in rows} == {"3"}
    assert all(None not in row and None not in row.values() for row in rows)
    loaded = json.loads((tmp_path / "compare.json").read_text())
    assert loaded["cells"][1]["cell"]["pair"] == "<i>"
    assert [float(row["top1"]) for row in rows] == [
        m["top1"]["mean"] for c in loaded["cells"] for m in c["methods"]
    ]
    differences = [
        m["difference"]["nll"]["high"] for c in loaded["cells"] for m in c["methods"] if m["difference"]
    ]
    assert [float(row["nll_difference_high"]) for row in rows if row["nll_difference_high"]] == differences


def test_tables_on_the_terminal_name_failures(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [planned("kd", seed) for seed in SEEDS]
    logits = outputs(runs)
    del logits["kd--1"]
    cells = figures_of(runs, logits, {"kd--1": "no memory"}, "kd", {})
    print_tables(cells, costs_of(cells), Terminal(width=250))
    text = capsys.readouterr().out
    assert "2 of 3" in text
    assert "no result: kd, seed 1 (3 epochs): no memory" in text


def test_the_pareto_front_equals_its_definition() -> None:
    random = np.random.default_rng(3)
    points = [(float(x), float(y)) for x, y in random.integers(6, size=(30, 2))]
    slow_front = [all(not ((x <= a and y > b) or (x < a and y >= b)) for x, y in points) for a, b in points]
    assert are_best(points) == slow_front


def test_charts_need_several_students() -> None:
    one, two = compared(("kd",), "kd"), compared(("kd",), "kd", ("a", "b"))
    assert charts_of(one, costs_of(one)) == ()
    assert [chart.cost for chart in charts_of(two, costs_of(two))] == [
        "parameters, M",
        "latency, ms an image",
        "training time, s",
    ]
