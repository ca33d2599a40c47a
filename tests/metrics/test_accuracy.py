"""Metrics against torchmetrics, scipy, numpy and closed forms, and the refusals that others lack."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from richkd.core.errors import ConfigError, DataError, NonFiniteError, RichKDError
from richkd.metrics.accuracy import accuracy, agreement, brier, measure, near_chance, nll
from richkd.metrics.calibration import ece, fit_temperature

cases = st.tuples(st.integers(1, 200), st.integers(2, 12), st.floats(0.01, 50), st.integers(0, 9999))


def random_case(images: int, classes: int, scale: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that know something of the labels, and the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.randint(classes, (images,), generator=generator)
    noise_NC = torch.randn(images, classes, generator=generator, dtype=torch.float64)
    return scale * (noise_NC + torch.eye(classes, dtype=torch.float64)[labels_N]), labels_N


@settings(max_examples=40, deadline=None)
@given(cases)
def test_metrics_equal_other_libraries(case: tuple[int, int, float, int]) -> None:
    logits_NC, labels_N = random_case(*case)
    classes = case[1]
    for k in {1, min(5, classes)}:
        expected = tm.multiclass_accuracy(logits_NC, labels_N, classes, average="micro", top_k=k).item()
        assert accuracy(logits_NC, labels_N, k) == pytest.approx(expected, rel=1e-6)

    log_probs = special.log_softmax(logits_NC.numpy(), axis=1)
    assert nll(logits_NC, labels_N) == pytest.approx(
        -log_probs[np.arange(len(labels_N)), labels_N.numpy()].mean(), rel=1e-9, abs=1e-12
    )
    probs = np.exp(log_probs)
    squared = ((probs - np.eye(classes)[labels_N.numpy()]) ** 2).sum(1).mean()
    assert brier(torch.from_numpy(probs), labels_N) == pytest.approx(squared, rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(cases, st.integers(1, 25))
def test_ece_equals_torchmetrics(case: tuple[int, int, float, int], bins: int) -> None:
    logits_NC, labels_N = random_case(*case)
    classes = case[1]
    # torchmetrics rounds to float32 and drops a confidence of one from its last bin: stay off the edges.
    probs_NC = 0.999 * logits_NC.softmax(1) + 0.001 / classes
    to_edge_N = (probs_NC.amax(1) * bins - (probs_NC.amax(1) * bins).round()).abs()
    assume(bool((to_edge_N > 1e-5).all()))
    expected = tm.multiclass_calibration_error(probs_NC, labels_N, classes, n_bins=bins).item()
    assert ece(probs_NC, labels_N, bins) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(cases, st.integers(1, 20))
def test_ece_equals_the_loop(case: tuple[int, int, float, int], bins: int) -> None:
    logits_NC, labels_N = random_case(*case)
    probs_NC = logits_NC.softmax(1)
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    edges = np.linspace(0, 1, bins + 1)
    for row, label in zip(probs_NC.tolist(), labels_N.tolist(), strict=True):
        inside = [b for b in range(bins) if edges[b] <= max(row) < edges[b + 1] or max(row) == 1.0]
        members[inside[-1]].append((max(row), row.index(max(row)) == label))
    expected = 0.0
    for members_of_bin in members:
        if members_of_bin:
            confidence = sum(c for c, _ in members_of_bin) / len(members_of_bin)
            right = sum(hit for _, hit in members_of_bin) / len(members_of_bin)
            expected += len(members_of_bin) / len(labels_N) * abs(right - confidence)
    assert ece(probs_NC, labels_N, bins) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("images", "noise"), [(10_000, 0.0121), (1_000, 0.0381)])
def test_ece_of_a_perfectly_calibrated_predictor(images: int, noise: float) -> None:
    # What is left is sampling noise: Σ_b √(2/π · n_b · mean of p(1−p))/N. One draw varies by a fifth of it,
    # so 60 are averaged.
    generator, values = torch.Generator().manual_seed(0), []
    for _ in range(60):
        confidence_N = 0.1 + 0.9 * torch.rand(images, generator=generator, dtype=torch.float64)
        right_N = torch.rand(images, generator=generator, dtype=torch.float64) < confidence_N
        probs_NC = ((1 - confidence_N[:, None]) / 19).repeat(1, 20)
        probs_NC[:, 0] = confidence_N
        values.append(ece(probs_NC, torch.where(right_N, 0, 1)))
    assert np.mean(values) == pytest.approx(noise, rel=0.08)


def test_a_confidence_of_one_belongs_to_the_last_bin() -> None:
    probs_NC, labels_N = torch.eye(2)[[0, 0, 0, 0]], torch.tensor([0, 0, 0, 1])
    assert ece(probs_NC, labels_N) == pytest.approx(0.25)
    assert ece(probs_NC, labels_N, bins=1) == pytest.approx(0.25)


def test_a_confidence_on_an_edge_belongs_to_the_bin_above() -> None:
    # 0.5 (right) and 0.6 (wrong) share the upper of two bins: |1 + 0 − 1.1|/2; in two bins it would be 0.55.
    probs_NC = torch.tensor([[0.5, 0.5], [0.6, 0.4]], dtype=torch.float64)
    assert ece(probs_NC, torch.tensor([0, 1]), bins=2) == pytest.approx(0.05)


def test_float32_logits_are_measured_in_float64() -> None:
    # 1 − p = 1e-10 is nothing to float32.
    logits_NC = torch.tensor([[0.0, -10 * math.log(10)]])
    assert nll(logits_NC, torch.tensor([0])) == pytest.approx(1e-10, rel=1e-5)


def test_closed_forms() -> None:
    labels_N = torch.tensor([0, 1, 2, 3])
    uniform = measure(torch.zeros(4, 4), labels_N)
    # Ties go to the lowest class, so a constant predictor is right on class 0 alone.
    assert uniform.top1 == 0.25
    assert uniform.top5 == 1.0
    assert uniform.nll == pytest.approx(math.log(4), rel=1e-12)
    assert uniform.brier == pytest.approx(0.75, rel=1e-12)
    assert uniform.ece == pytest.approx(0.0, abs=1e-12)
    certain = measure(1000 * torch.eye(4), labels_N)
    assert (certain.top1, certain.nll, certain.brier, certain.ece, certain.n) == (1.0, 0.0, 0.0, 0.0, 4)
    assert measure(1000 * torch.eye(4), labels_N.flip(0)).brier == pytest.approx(2.0)


def test_measure_gathers_the_metrics_at_its_temperature() -> None:
    logits_NC, labels_N = random_case(300, 10, 6.0, 1)
    measured = measure(logits_NC.float(), labels_N, temperature=2.5)
    scaled_NC = logits_NC.float().double() / 2.5
    assert json.loads(json.dumps(measured.to_dict())) == pytest.approx(
        {
            "top1": accuracy(logits_NC, labels_N),
            "top5": accuracy(logits_NC, labels_N, 5),
            "nll": nll(scaled_NC, labels_N),
            "ece": ece(scaled_NC.softmax(1), labels_N),
            "brier": brier(scaled_NC.softmax(1), labels_N),
            "n": 300,
        },
        rel=1e-12,
    )
    assert measured.top1 < measured.top5 < 1


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(30, 200), st.integers(2, 8), st.floats(0.05, 60), st.integers(0, 9999)))
def test_fitted_temperature_is_the_minimizer(case: tuple[int, int, float, int]) -> None:
    logits_NC, labels_N = random_case(*case)
    fitted = fit_temperature(logits_NC, labels_N)
    z, y = logits_NC.numpy(), labels_N.numpy()

    def loss(log_t: float) -> float:
        nll = -float(special.log_softmax(z / math.exp(log_t), axis=1)[np.arange(len(y)), y].mean())
        return nll + 16 / len(y) * (math.sqrt(1 + log_t**2) - 1)

    start = min(np.linspace(-6, 6, 200), key=loss)
    result = optimize.minimize_scalar(
        loss, bounds=(start - 0.1, start + 0.1), method="bounded", options={"xatol": 1e-10}
    )
    assert loss(math.log(fitted)) <= result.fun + 1e-12
    # A minimum is flat: its own place is known only to the square root of rounding.
    assert fitted == pytest.approx(math.exp(result.x), rel=1e-4)


def test_with_many_images_scaling_the_logits_scales_their_temperature() -> None:
    logits_NC, labels_N = random_case(50_000, 5, 2.0, 0)
    fitted = fit_temperature(logits_NC, labels_N)
    assert fit_temperature(7 * logits_NC, labels_N) == pytest.approx(7 * fitted, rel=0.01)


def test_a_few_images_leave_the_temperature_near_one() -> None:
    """Without a prior, T is 0 if all images are right, and infinite if all are wrong."""
    labels_N = torch.arange(8)
    for margin in (1.0, 4.0, 20.0):
        assert 0.5 < fit_temperature(margin * torch.eye(8), labels_N) <= 1.0
    assert 1.0 < fit_temperature(-torch.eye(8), labels_N) < 1.5
    assert fit_temperature(torch.full((8, 8), 3.0), labels_N) == 1.0


def test_many_images_decide_for_themselves() -> None:
    # Logits of the size of cosines, to which no factor was applied, and logits that are far too large.
    labels_N = torch.arange(8).repeat(5000)
    right_N = torch.arange(len(labels_N)) % 10 > 0  # nine of ten are right: softmax(z / T) = 0.9
    guess_N = torch.where(right_N, labels_N, (labels_N + 1) % 8)
    exact = math.log(0.9 / (0.1 / 7))
    for margin in (0.01, 300.0):
        logits_NC = margin * torch.eye(8)[guess_N]
        nll_at_one = nll(logits_NC * exact / margin, labels_N)
        assert nll(logits_NC / fit_temperature(logits_NC, labels_N), labels_N) < nll_at_one + 1e-3


def test_agreement() -> None:
    a_NC, b_NC = torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]
    assert agreement(a_NC, 5 * b_NC) == 0.5
    assert agreement(a_NC, a_NC.bfloat16()) == 1.0
    with pytest.raises(DataError, match=r"\(4, 4\) and \(3, 4\)"):
        agreement(a_NC, b_NC[:3])


@pytest.mark.parametrize("metric", [ece, brier])
@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([[9.0, -3.0], [1.0, 2.0]], "look like logits"),
        ([[0.31, 0.22], [0.18, 0.29]], "look like cosines"),
        ([[0.31, -0.22], [0.18, 0.29]], "look like cosines"),
        ([[0.6, 0.6], [0.5, 0.5]], "row sums from 1 to 1.2"),
        ([[1.2, -0.2], [0.5, 0.5]], "look like logits"),
    ],
)
def test_rows_that_are_no_distributions_are_refused(
    metric: object, scores: list[list[float]], words: str
) -> None:
    with pytest.raises(RichKDError, match=words):
        metric(torch.tensor(scores), torch.tensor([0, 1]))  # type: ignore[operator]


@pytest.mark.parametrize("metric", [accuracy, nll, brier, ece, fit_temperature, measure])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(metric: object, bad: float) -> None:
    scores_NC = torch.full((3, 2), 0.5)
    scores_NC[1, 0] = bad
    with pytest.raises(NonFiniteError, match="1 of 3 images, first for image 1"):
        metric(scores_NC, torch.tensor([0, 1, 1]))  # type: ignore[operator]


@pytest.mark.parametrize("metric", [accuracy, nll, brier, ece, fit_temperature, measure])
def test_labels_and_shapes_are_checked(metric: object) -> None:
    scores_NC = torch.full((3, 2), 0.5)
    for labels, words in (
        ([0, 1], "one label for each image"),
        ([0, 1, 2], "from 0 to 1"),
        ([-1, 0, 0], "-1"),
    ):
        with pytest.raises(DataError, match=words):
            metric(scores_NC, torch.tensor(labels))  # type: ignore[operator]
    with pytest.raises(DataError, match="matrix"):
        metric(scores_NC[:0], torch.tensor([]))  # type: ignore[operator]


def test_arguments_are_checked() -> None:
    logits_NC, labels_N = torch.eye(2), torch.arange(2)
    with pytest.raises(ConfigError, match="'k'"):
        accuracy(logits_NC, labels_N, 0)
    with pytest.raises(ConfigError, match="'bins'"):
        ece(logits_NC, labels_N, 0)
    with pytest.raises(ConfigError, match="'temperature'"):
        measure(logits_NC, labels_N, 0.0)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("images", [5, 36, 450, 10_000])
def test_a_perfect_model_is_not_near_chance_and_one_at_chance_is(classes: int, images: int) -> None:
    assert not near_chance(1.0, classes, images)
    assert near_chance(1 / classes, classes, images)
    assert near_chance(0.0, classes, images)


def test_the_limit_of_near_chance_is_two_standard_errors_or_a_twentieth() -> None:
    # 36 images of 3 classes: √(1/3 · 2/3 / 36) = 0.0786 is more than 0.05 · 2/3 = 0.0333.
    assert near_chance(1 / 3 + 0.157, 3, 36)
    assert not near_chance(1 / 3 + 0.158, 3, 36)
    # 10,000 images: two standard errors are 0.0094, and a twentieth of the distance to 1 counts.
    assert near_chance(1 / 3 + 0.0333, 3, 10_000)
    assert not near_chance(1 / 3 + 0.0334, 3, 10_000)
    # With two classes, a few correct images prove nothing: four in a row have a probability of 1/16.
    assert near_chance(1.0, 2, 4)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 200), st.integers(1, 5000))
def test_most_guessing_models_are_near_chance(classes: int, images: int) -> None:
    correct = np.arange(images + 1)
    flagged = np.array([near_chance(k / images, classes, images) for k in correct])
    # Cantelli's inequality: at most 1 / (1 + 2²) of a distribution is 2 standard deviations above its mean.
    assert stats.binom.pmf(correct[flagged], images, 1 / classes).sum() >= 0.8
    # With many images the binomial is nearly normal, of which 2.3 % are above.
    if images / classes > 50:
        assert stats.binom.pmf(correct[flagged], images, 1 / classes).sum() >= 0.96
    # All accuracies up to the limit are flagged, and none above it.
    assert not np.diff(flagged.astype(int)).clip(0).any()


@pytest.mark.parametrize(("classes", "images"), [(0, 10), (10, 0)])
def test_chance_needs_a_class_and_an_image(classes: int, images: int) -> None:
    with pytest.raises(ConfigError, match="at least one class and one image"):
        near_chance(0.5, classes, images)
