"""Reliability and calibration errors against loops and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torchmetrics.functional.classification as tm
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.metrics.calibration import adaptive_ece, ece, measure_reliability
from tests.metrics.test_confidence import Case, random_case, tied_cases
from tests.reference import evaluation as reference


@settings(max_examples=40, deadline=None)
@given(tied_cases(60), st.integers(1, 20))
def test_reliability_equals_the_loop(case: Case, bins: int) -> None:
    measured = measure_reliability(*case, bins=bins)
    members = reference.bins_of(reference.outcomes(*case), bins)
    assert measured.count == tuple(len(images) for images in members)
    assert measured.edges == pytest.approx([b / bins for b in range(bins + 1)])
    gaps = []
    for images, right, confidence in zip(members, measured.accuracy, measured.confidence, strict=True):
        if not images:
            assert right is confidence is None
            continue
        assert right == pytest.approx(sum(hit for _, hit in images) / len(images))
        assert confidence == pytest.approx(sum(c for c, _ in images) / len(images))
        gaps.append(abs(right - confidence))
    assert measured.mce == pytest.approx(max(gaps))
    assert measured.ece == pytest.approx(ece(*case, bins=bins), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(tied_cases(40), st.integers(1, 12))
def test_adaptive_ece_equals_the_loop(case: Case, bins: int) -> None:
    expected = reference.adaptive_ece(reference.outcomes(*case), bins)
    assert adaptive_ece(*case, bins=bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_errors_equal_other_libraries() -> None:
    probs_NC, labels_N = random_case(3000, 3, scale=3.0)
    # torchmetrics rounds to float32; no confidence of this draw is that close to an edge.
    expected = tm.multiclass_calibration_error(probs_NC, labels_N, 5, n_bins=15, norm="max").item()
    assert measure_reliability(probs_NC, labels_N).mce == pytest.approx(expected, rel=1e-5)
    confidence, right = probs_NC.amax(1).numpy(), (probs_NC.argmax(1) == labels_N).numpy()
    bins = np.split(np.argsort(confidence), 15)
    by_numpy = np.mean([abs(right[members].mean() - confidence[members].mean()) for members in bins])
    assert adaptive_ece(probs_NC, labels_N) == pytest.approx(by_numpy, rel=1e-12)
