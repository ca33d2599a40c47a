"""Judging one model and comparing two: figures that agree with their own rooms, and with simple counting."""

from __future__ import annotations

import json

import pytest
import torch

from richkd.data.hierarchy import Hierarchy
from richkd.evaluate.model_report import compare, losses_of, measure_model
from richkd.metrics.accuracy import measure

NAMES = ("ant", "bee", "cow", "dog")
TREE = Hierarchy(("insect", "mammal"), (0, 0, 1, 1))


def case(images: int, seed: int, strength: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(4, (images,), generator=random)
    noise_NC = torch.randn(images, 4, generator=random)
    return strength * torch.nn.functional.one_hot(labels_N, 4).float() + noise_NC, labels_N


def test_every_figure_agrees_with_counting() -> None:
    logits_NC, labels_N = case(400, 0)
    result = measure_model("model", logits_NC, labels_N, NAMES, temperature=0.5, hierarchy=TREE)
    assert result.uncalibrated == measure(logits_NC, labels_N)
    assert result.calibrated == measure(logits_NC, labels_N, 0.5)
    right_N = logits_NC.argmax(1) == labels_N
    for name, images, top1 in result.classes:
        of_class_N = labels_N == NAMES.index(name)
        assert images == int(of_class_N.sum())
        assert top1 == pytest.approx(float(right_N[of_class_N].double().mean()))
    for key, figure in (
        ("top1", result.uncalibrated.top1),
        ("nll", result.uncalibrated.nll),
        ("calibrated nll", result.calibrated.nll),
    ):
        interval = result.intervals[key]
        assert interval.low < figure < interval.high
        assert interval.estimate == pytest.approx(figure, rel=1e-5)
    for bins, metrics in zip(result.reliability, (result.uncalibrated, result.calibrated), strict=True):
        assert bins.ece == pytest.approx(metrics.ece, abs=1e-6)
        assert sum(bins.count) == 400
    raw = (logits_NC.double().softmax(1).amax(1) >= 0.7) & right_N
    assert result.confidence.raw[0] == pytest.approx(float(raw.double().mean()))
    assert result.curve.coverage[-1] == 1
    assert result.curve.risk[-1] == pytest.approx(1 - result.uncalibrated.top1)
    for confusion in result.confusions:
        images = labels_N == NAMES.index(confusion.name)
        called = (logits_NC.argmax(1) == NAMES.index(confusion.called)) & images
        assert confusion.share == pytest.approx(int(called.sum()) / int(images.sum()))
    assert result.semantics is not None
    assert json.loads(json.dumps(result.to_dict()))["uncalibrated"]["n"] == 400


def test_a_better_model_is_found_better_and_itself_is_not() -> None:
    logits_NC, labels_N = case(500, 1)
    better_NC = logits_NC + torch.nn.functional.one_hot(labels_N, 4)
    pair = compare(("plain", logits_NC, 1.0), ("better", better_NC, 1.0), labels_N)
    assert (pair.a, pair.b) == ("plain", "better")
    assert pair.top1.low > 0
    assert pair.nll.high < 0
    assert pair.mcnemar.mid_p < 0.001
    expected = losses_of(better_NC, labels_N).mean() - losses_of(logits_NC, labels_N).mean()
    assert pair.nll.estimate == pytest.approx(float(expected))
    itself = compare(("a", logits_NC, 2.0), ("b", logits_NC, 2.0), labels_N)
    assert (itself.top1.low, itself.top1.high, itself.nll.estimate) == (0, 0, 0)
    assert itself.mcnemar.exact == 1


def test_a_temperature_moves_what_is_calibrated_alone() -> None:
    logits_NC, labels_N = case(300, 2)
    plain, cooled = (measure_model("m", logits_NC, labels_N, NAMES, temperature=t) for t in (1.0, 0.25))
    assert plain.uncalibrated == cooled.uncalibrated
    assert plain.confidence.raw == cooled.confidence.raw
    assert plain.confidence.calibrated != cooled.confidence.calibrated
    assert plain.confidence.aurc != cooled.confidence.aurc or plain.curve.risk != cooled.curve.risk
    assert plain.semantics is None
