"""Confident rates, risk and coverage, moves and reliability: loops, closed forms and other libraries."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from richkd.core.errors import ConfigError, DataError, NonFiniteError, RichKDError
from richkd.metrics.accuracy import accuracy
from richkd.metrics.calibration import adaptive_ece, measure_reliability
from richkd.metrics.confidence import (
    COVERAGES,
    Moves,
    State,
    augrc,
    aurc,
    confident_rates_at_coverage,
    count_moves,
    measure_confident_rates,
    measure_risk_coverage,
    moves_at_coverage,
)
from tests.reference import evaluation as reference

Case = tuple[torch.Tensor, torch.Tensor]
FIGURES = [
    aurc,
    augrc,
    adaptive_ece,
    measure_risk_coverage,
    measure_reliability,
    lambda probs_NC, labels_N: measure_confident_rates(probs_NC, labels_N, 0.7),
    lambda probs_NC, labels_N: confident_rates_at_coverage(probs_NC, labels_N, 0.8),
    lambda probs_NC, labels_N: count_moves(probs_NC, probs_NC, labels_N, 0.7),
    lambda probs_NC, labels_N: moves_at_coverage(probs_NC, probs_NC, labels_N, 0.8),
]


def predictor(confidence: object, right: object) -> Case:
    """Three classes: the first has the confidence, and is the label where the model is right."""
    c_N = torch.as_tensor(confidence, dtype=torch.float64)
    probs_NC = torch.stack([c_N, (1 - c_N) / 2, (1 - c_N) / 2], dim=1)
    return probs_NC, torch.where(torch.as_tensor(right, dtype=torch.bool), 0, 1)


@st.composite
def tied_cases(draw: st.DrawFn, images: int) -> Case:
    """Few levels of confidence, so that many images are tied."""
    n = draw(st.integers(1, images))
    levels = draw(st.lists(st.integers(9, 16), min_size=n, max_size=n))
    return predictor([level / 16 for level in levels], draw(st.lists(st.booleans(), min_size=n, max_size=n)))


def random_case(images: int, seed: int, scale: float = 2.0) -> Case:
    """Probabilities without ties, and labels that they know something of."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(5, (images,), generator=generator)
    noise_NC = torch.randn(images, 5, generator=generator, dtype=torch.float64)
    return (scale * (noise_NC + torch.eye(5, dtype=torch.float64)[labels_N])).softmax(1), labels_N


@settings(max_examples=60, deadline=None)
@given(tied_cases(6))
def test_areas_are_means_over_all_orders_of_tied_images(case: Case) -> None:
    images = reference.outcomes(*case)
    assert aurc(*case) == pytest.approx(reference.over_orders(images, reference.aurc), abs=1e-12)
    assert augrc(*case) == pytest.approx(reference.over_orders(images, reference.augrc), abs=1e-12)
    curve = measure_risk_coverage(*case, points=50)
    assert curve.coverage == pytest.approx([k / len(images) for k in range(1, len(images) + 1)])
    for k, (risk, generalized) in enumerate(zip(curve.risk, curve.generalized_risk, strict=True), start=1):
        errors = reference.over_orders(images, lambda e, k=k: sum(e[:k]))  # type: ignore[misc]
        assert (risk, generalized) == pytest.approx((errors / k, errors / len(images)), abs=1e-12)
    assert (curve.aurc, curve.augrc) == (aurc(*case), augrc(*case))


@settings(max_examples=60, deadline=None)
@given(tied_cases(6), st.floats(0.01, 1))
def test_rates_at_coverage_are_means_over_all_orders_of_tied_images(case: Case, coverage: float) -> None:
    images = reference.outcomes(*case)
    covered = coverage * len(images)
    whole = min(math.floor(covered), len(images) - 1)

    def wrong(errors: list[bool]) -> float:
        return sum(errors[:whole]) + (covered - whole) * errors[whole]

    rates = confident_rates_at_coverage(*case, coverage)
    assert rates.wrong * len(images) == pytest.approx(reference.over_orders(images, wrong), abs=1e-9)
    assert rates.correct + rates.wrong == pytest.approx(coverage)
    above = sum(c > rates.threshold for c, _ in images)
    assert above <= covered + 1e-6 <= sum(c >= rates.threshold for c, _ in images) + 2e-6


@settings(max_examples=40, deadline=None)
@given(tied_cases(60), st.integers(0, 16))
def test_rates_at_a_threshold_equal_the_loop(case: Case, level: int) -> None:
    images = reference.outcomes(*case)
    rates = measure_confident_rates(*case, level / 16)
    assert rates.correct * rates.n == pytest.approx(sum(c >= level / 16 and right for c, right in images))
    assert rates.wrong * rates.n == pytest.approx(sum(c >= level / 16 and not right for c, right in images))


@settings(max_examples=40, deadline=None)
@given(tied_cases(80))
def test_augrc_is_auroc_and_error_rate(case: Case) -> None:
    images = reference.outcomes(*case)
    n, error = len(images), 1 - accuracy(*case)
    pairs = 0.0
    if 0 < error < 1:
        auroc = roc_auc_score([right for _, right in images], [c for c, _ in images])
        pairs = (1 - auroc) * error * (1 - error)
    assert augrc(*case) == pytest.approx(pairs + error**2 / 2 + error / (2 * n), abs=1e-12)


def test_perfect_worst_and_uninformed_rankings() -> None:
    n, errors = 1000, 200
    falling = torch.linspace(0.99, 0.5, n, dtype=torch.float64)
    right = torch.arange(n) < n - errors
    late = sum((k - (n - errors)) / k for k in range(n - errors + 1, n + 1)) / n
    assert aurc(*predictor(falling, right)) == pytest.approx(late, rel=1e-12)
    assert augrc(*predictor(falling, right)) == pytest.approx(0.2**2 / 2 + 0.2 / (2 * n), rel=1e-12)
    early = sum(min(k, errors) / k for k in range(1, n + 1)) / n
    assert aurc(*predictor(falling, right.flip(0))) == pytest.approx(early, rel=1e-12)
    tied = predictor(torch.full((n,), 0.75), right)
    assert aurc(*tied) == pytest.approx(0.2, rel=1e-12)
    assert augrc(*tied) == pytest.approx(0.2 * (n + 1) / (2 * n), rel=1e-12)
    shuffles = [torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for seed in range(100)]
    assert np.mean([aurc(*predictor(falling, right[order])) for order in shuffles]) == pytest.approx(
        0.2, abs=0.01
    )
    assert aurc(*predictor(falling, torch.ones(n))) == 0.0
    assert aurc(*predictor(falling, torch.zeros(n))) == pytest.approx(1.0, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(tied_cases(40), st.sampled_from([lambda c: 0.4 + 0.6 * c**3, lambda c: 0.5 * c + 0.35]))
def test_a_monotone_transform_of_confidence_leaves_what_depends_on_order(
    case: Case, transform: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    probs_NC, labels_N = case
    other_NC, _ = predictor(transform(probs_NC[:, 0]), labels_N == 0)
    assert measure_risk_coverage(probs_NC, labels_N) == measure_risk_coverage(other_NC, labels_N)
    for coverage in COVERAGES:
        before = confident_rates_at_coverage(probs_NC, labels_N, coverage)
        after = confident_rates_at_coverage(other_NC, labels_N, coverage)
        assert (before.correct, before.wrong) == (after.correct, after.wrong)
        table = moves_at_coverage(probs_NC, other_NC, labels_N, coverage).counts
        assert np.count_nonzero(table - np.diag(np.diag(table))) == 0


@settings(max_examples=30, deadline=None)
@given(tied_cases(40), st.randoms(use_true_random=False))
def test_the_order_of_images_changes_nothing(case: Case, random: object) -> None:
    order = list(range(len(case[1])))
    random.shuffle(order)  # type: ignore[attr-defined]
    for figure in FIGURES:
        before, after = figure(*case), figure(case[0][order], case[1][order])
        if isinstance(before, float):
            assert before == after
        else:
            np.testing.assert_equal(_rounded(before.to_dict()), _rounded(after.to_dict()))


def _rounded(value: object) -> object:
    """Sums of confidences in another order differ in the last place."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_rounded(item) for item in value]
    return round(value, 9) if isinstance(value, float) else value


def test_the_curve_has_at_most_as_many_points_as_asked() -> None:
    case = random_case(1000, 0)
    curve, full = measure_risk_coverage(*case, points=50), measure_risk_coverage(*case, points=5000)
    assert (len(curve.coverage), len(full.coverage)) == (50, 1000)
    assert (curve.coverage[0], curve.coverage[-1]) == (1 / 1000, 1.0)
    # Each point covers a whole number of images, and is a point of the curve of all images.
    risks = dict(zip(full.coverage, full.risk, strict=True))
    assert [risks.get(share) for share in curve.coverage] == list(curve.risk)
    assert curve.risk[-1] == pytest.approx(1 - accuracy(*case))
    assert curve.aurc == full.aurc == pytest.approx(np.mean(full.risk))
    assert curve.augrc == full.augrc == pytest.approx(np.mean(full.generalized_risk))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(0, 999), st.integers(0, 16))
def test_moves_equal_the_loop(images: int, seed: int, level: int) -> None:
    (a_NC, labels_N), (b_NC, _) = random_case(images, seed), random_case(images, seed + 1)
    a, b = reference.outcomes(a_NC, labels_N), reference.outcomes(b_NC, labels_N)
    counts = np.array(count_moves(a_NC, b_NC, labels_N, level / 16).counts)
    np.testing.assert_array_equal(counts, reference.moves(a, b, level / 16, level / 16))
    if level:
        covered = math.ceil(images * level / 16)
        coverage = covered / images
        cuts = [sorted((c for c, _ in model), reverse=True)[covered - 1] for model in (a, b)]
        np.testing.assert_allclose(
            moves_at_coverage(a_NC, b_NC, labels_N, coverage).counts, reference.moves(a, b, *cuts), atol=1e-9
        )


@settings(max_examples=40, deadline=None)
@given(tied_cases(30), st.integers(0, 999), st.floats(0.01, 1))
def test_moves_add_up_to_both_models_rates(case: Case, seed: int, coverage: float) -> None:
    a_NC, labels_N = case
    n = len(labels_N)
    b_NC = a_NC[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    for table, rates in (
        (
            count_moves(a_NC, b_NC, labels_N, coverage),
            lambda x: measure_confident_rates(x, labels_N, coverage),
        ),
        (
            moves_at_coverage(a_NC, b_NC, labels_N, coverage),
            lambda x: confident_rates_at_coverage(x, labels_N, coverage),
        ),
    ):
        counts = np.array(table.counts)
        assert counts.sum() == pytest.approx(n)
        assert counts.min() >= 0
        for totals, probs_NC in ((counts.sum(1), a_NC), (counts.sum(0), b_NC)):
            assert totals[State.CORRECT_CERTAIN] == pytest.approx(n * rates(probs_NC).correct, abs=1e-9)
            assert totals[State.WRONG_CERTAIN] == pytest.approx(n * rates(probs_NC).wrong, abs=1e-9)
            right = totals[State.CORRECT_CERTAIN] + totals[State.CORRECT_UNCERTAIN]
            assert right == pytest.approx(n * accuracy(probs_NC, labels_N))


def test_one_bin_and_saturated_confidence() -> None:
    case = predictor([1.0, 1.0, 1.0, 1.0], [True, True, True, False])
    measured = measure_reliability(*case)
    assert (measured.count[-1], measured.accuracy[-1], measured.confidence[-1]) == (4, 0.75, 1.0)
    assert (measured.ece, measured.mce, adaptive_ece(*case)) == (0.25, 0.25, 0.25)
    half = confident_rates_at_coverage(*case, 0.5)
    assert (half.correct, half.wrong, half.threshold) == (0.375, 0.125, 1.0)


def test_coverages_that_are_no_binary_fractions_end_at_the_right_image() -> None:
    case = predictor(torch.linspace(0.99, 0.5, 100, dtype=torch.float64), torch.ones(100))
    for percent in range(1, 101):
        rates = confident_rates_at_coverage(*case, percent / 100)
        assert rates.threshold == float(case[0][percent - 1, 0])


def test_figures_are_ready_for_json() -> None:
    for figure in FIGURES[3:]:
        written = figure(*random_case(50, 1)).to_dict()  # type: ignore[union-attr]
        assert _rounded(json.loads(json.dumps(written, allow_nan=False))) == _rounded(written)
    table = Moves(((1.0, 0.0, 0.0, 0.0),) * 4).to_dict()
    assert table["states"] == ["correct_certain", "correct_uncertain", "wrong_certain", "wrong_uncertain"]


@pytest.mark.parametrize("figure", FIGURES)
def test_bad_inputs_are_refused(figure: Callable[..., object]) -> None:
    probs_NC, labels_N = random_case(3, 0)
    with pytest.raises(RichKDError, match="look like logits"):
        figure(probs_NC.log(), labels_N)
    with pytest.raises(NonFiniteError, match="1 of 3 images, first for image 1"):
        figure(torch.where(torch.arange(3)[:, None] == 1, math.nan, probs_NC), labels_N)
    with pytest.raises(DataError, match="one label for each image"):
        figure(probs_NC, labels_N[:2])
    with pytest.raises(DataError, match="matrix of images × classes"):
        figure(probs_NC[:0], labels_N[:0])


def test_arguments_are_checked() -> None:
    case = random_case(3, 0)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="'threshold'"):
            measure_confident_rates(*case, bad)
        with pytest.raises(ConfigError, match="'coverage'"):
            moves_at_coverage(case[0], *case, bad)
    with pytest.raises(ConfigError, match="'coverage'"):
        confident_rates_at_coverage(*case, 0.0)
    with pytest.raises(ConfigError, match="'points'"):
        measure_risk_coverage(*case, points=1)
    for figure in (measure_reliability, adaptive_ece):
        with pytest.raises(ConfigError, match="'bins'"):
            figure(*case, bins=0)
    with pytest.raises(DataError, match=r"\(3, 5\) and \(2, 5\)"):
        count_moves(case[0], case[0][:2], case[1], 0.5)
