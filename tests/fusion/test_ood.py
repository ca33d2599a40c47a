"""OodWeights: teachers count less on unlabeled images that are stranger to them than held-out ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.core.types import UNLABELED, Output
from richkd.fusion.fusion import Fusion
from richkd.fusion.mixing import LinearPool, LogPool
from richkd.fusion.ood import energy, fit_ood_weights
from richkd.fusion.scale import Scale

SCALES = (Scale(0.5), Scale(20.0))


def random_teachers(images: int, seed: int, classes: int = 5) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(images, classes, generator=random) * spread for spread in (4.0, 0.05)]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 20), st.floats(0.01, 0.9), st.integers(0, 999))
def test_trust_equals_the_loop(held_out: int, images: int, ood_quantile: float, seed: int) -> None:
    before, now = random_teachers(held_out, seed), random_teachers(images, seed + 1)
    trust = fit_ood_weights(SCALES, before, ood_quantile)
    known_B = torch.arange(images) % 3 == 0
    result = trust(now, known_B)
    kept = math.ceil(round(ood_quantile * held_out, 9))
    for m, scale in enumerate(SCALES):
        ranked = sorted(energy(scale, before[m]).double().tolist())
        for i, value in enumerate(energy(scale, now[m]).double().tolist()):
            stranger = sum(other <= value for other in ranked[:kept])
            expected = 1.0 if known_B[i] else min(1.0, stranger / kept)
            assert float(result[m][i]) == pytest.approx(expected)


def test_held_out_images_themselves_are_trusted_but_for_the_strangest() -> None:
    before = random_teachers(1000, 0)
    trust = fit_ood_weights(SCALES, before, 0.05)
    for trust_N in trust(before, torch.zeros(1000, dtype=torch.bool)):
        assert float((trust_N < 1).double().mean()) == pytest.approx(0.049)
        assert float(trust_N.min()) > 0


def test_a_teacher_whose_answers_are_all_alike_is_trusted() -> None:
    logits = [torch.zeros(20, 3), torch.zeros(20, 3)]
    trust = fit_ood_weights(SCALES, logits, 0.1)
    assert all(bool((t == 1).all()) for t in trust(logits, torch.zeros(20, dtype=torch.bool)))


@pytest.mark.parametrize("mixing", [LogPool((0.7, 1.1)), LinearPool((0.4, 0.6))])
def test_a_stranger_is_left_to_the_other_teacher_and_labels_are_always_trusted(
    mixing: LogPool | LinearPool,
) -> None:
    plain = Fusion(SCALES, mixing, (0.7, 0.3), "")
    doubting = Fusion(SCALES, mixing, (0.7, 0.3), "", fit_ood_weights(SCALES, random_teachers(200, 0), 0.05))
    logits = random_teachers(4, 1)
    # To the first teacher the second image is stranger than anything held out.
    logits[0][1] = -100.0
    teachers = [Output(z_BC, torch.zeros(4, 2)) for z_BC in logits]
    labeled = doubting(teachers, torch.zeros(4, dtype=torch.long))
    assert torch.allclose(labeled.logits_BC.log_softmax(1), plain.logits(logits).log_softmax(1), atol=1e-6)
    assert labeled.weight_B is not None
    assert bool((labeled.weight_B == 1).all())
    unlabeled = doubting(teachers, torch.full((4,), UNLABELED))
    if isinstance(mixing, LogPool):
        alone_C = (1.1 * 20 * logits[1][1]).log_softmax(0)
    else:
        second_C = (20 * logits[1][1]).softmax(0)
        alone_C = (0.4 / 5 + 0.6 * second_C).log()
    assert torch.allclose(unlabeled.logits_BC[1].log_softmax(0), alone_C.log_softmax(0), atol=1e-5)


def test_an_image_that_is_strange_to_all_counts_for_nothing() -> None:
    trust = fit_ood_weights(SCALES, random_teachers(200, 0), 0.05)
    fusion = Fusion(SCALES, LogPool((1.0, 1.0)), (0.5, 0.5), "", trust)
    far = [Output(torch.full((2, 5), -100.0), torch.zeros(2, 2)) for _ in SCALES]
    target = fusion(far, torch.full((2,), UNLABELED))
    assert target.weight_B is not None
    assert target.weight_B.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("quantile", "kept"), [(0.07, 7), (0.29, 29), (0.071, 8), (1.0, 100)])
def test_a_fraction_of_a_round_number_is_exact(quantile: float, kept: int) -> None:
    trust = fit_ood_weights(SCALES, random_teachers(100, 0), quantile)
    assert [len(energies) for energies in trust.lowest] == [kept] * len(SCALES)
