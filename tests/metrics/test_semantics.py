"""Semantics of wrong classes against loops, closed forms, scipy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from richkd.core.errors import DataError
from richkd.data.hierarchy import Hierarchy, known_hierarchy
from richkd.metrics.intervals import Interval
from richkd.metrics.semantics import class_means, consistency, mantel, measure_semantics, others
from tests.fixtures import refusal

TREE = Hierarchy(("a", "b", "c"), (0, 0, 0, 1, 1, 2))
CIFAR = Hierarchy(tuple(map(str, range(20))), tuple(i // 5 for i in range(100)))


SAME = torch.tensor([[float(a == b) for a in TREE.superclass_of_C] for b in TREE.superclass_of_C]).double()


def estimate(interval: Interval | None) -> float | None:
    return None if interval is None else interval.estimate


def random_case(
    images: int, classes: int, seed: int, spread: float = 2.0
) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits_NC = spread * torch.randn(images, classes, generator=random, dtype=torch.float64)
    return logits_NC.softmax(dim=1), torch.randint(classes, (images,), generator=random)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(0, 999))
def test_figures_equal_loops_and_scikit_learn(images: int, seed: int) -> None:
    probs_NC, labels_N = random_case(images, 6, seed)
    result = measure_semantics(probs_NC, labels_N, TREE)
    aurocs, masses, chances, distances = [], [], [], []
    for p_C, y in zip(probs_NC.tolist(), labels_N.tolist(), strict=True):
        rest = [j for j in range(6) if j != y]
        relatives = [TREE.superclass_of_C[j] == TREE.superclass_of_C[y] for j in rest]
        if any(relatives):
            aurocs.append(roc_auc_score(relatives, [p_C[j] for j in rest]))
            masses.append(sum(p_C[j] for j, near in zip(rest, relatives, strict=True) if near) / (1 - p_C[y]))
            chances.append(sum(relatives) / 5)
        guess = int(np.argmax(p_C))
        distances.append(
            0 if guess == y else 1 if TREE.superclass_of_C[guess] == TREE.superclass_of_C[y] else 2
        )
    if not aurocs:
        return
    assert estimate(result.superclass_auroc) == pytest.approx(np.mean(aurocs))
    assert estimate(result.superclass_mass) == pytest.approx(np.mean(masses))
    assert result.chance_mass == pytest.approx(np.mean(chances))
    assert estimate(result.distance) == pytest.approx(np.mean(distances))
    wrong = [d for d in distances if d]
    assert estimate(result.mistake_severity) == (pytest.approx(np.mean(wrong)) if wrong else None)
    assert result.distance.low <= result.distance.estimate <= result.distance.high
    seen = sorted(set(labels_N.tolist()))
    means_CC = class_means(others(probs_NC, labels_N), labels_N)
    expected = mantel(means_CC[seen][:, seen], SAME[seen][:, seen], seed=0) if len(seen) > 2 else None
    assert result.correlation == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 999))
def test_consistency_equals_scipy(images: int, seed: int) -> None:
    probs_NC, labels_N = random_case(images, 5, seed)
    wrong_NC = others(probs_NC, labels_N)
    divergences = []
    for q_C, y in zip(wrong_NC, labels_N, strict=True):
        mean_C = wrong_NC[labels_N == y].mean(0)
        divergences.append(jensenshannon(q_C.numpy(), mean_C.numpy()) ** 2)
    assert consistency(probs_NC, labels_N) == pytest.approx(1 - np.mean(divergences) / math.log(2), abs=1e-9)


def test_anchors_of_random_logits_and_of_ones_that_know_the_superclass() -> None:
    random = torch.Generator().manual_seed(0)
    logits_NC = torch.randn(10_000, 100, generator=random, dtype=torch.float64)
    labels_N = torch.arange(10_000) % 100
    above_C = torch.tensor(CIFAR.superclass_of_C)
    plain = measure_semantics(logits_NC.softmax(1), labels_N, CIFAR)
    assert estimate(plain.superclass_auroc) == pytest.approx(0.5, abs=0.005)
    assert estimate(plain.superclass_mass) == pytest.approx(4 / 99, abs=0.001)
    assert plain.chance_mass == pytest.approx(4 / 99)
    knowing_NC = logits_NC + (above_C[labels_N, None] == above_C).double()
    for temperature in (0.5, 1.0, 4.0):
        result = measure_semantics((knowing_NC / temperature).softmax(1), labels_N, CIFAR)
        # P(a + 1 > b) for two standard normals is Φ(1/√2) = 0.7602.
        assert estimate(result.superclass_auroc) == pytest.approx(0.7602, abs=0.003)


def test_saturated_images_and_perfect_answers() -> None:
    probs_NC = torch.eye(6, dtype=torch.float64)
    labels_N = torch.arange(6)
    result = measure_semantics(probs_NC, labels_N, TREE)
    assert result.mistake_severity is None
    assert estimate(result.distance) == 0
    assert estimate(result.superclass_auroc) == 0.5
    assert estimate(result.superclass_mass) == pytest.approx(result.chance_mass)
    assert estimate(result.consistency) == pytest.approx(1)


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 9), st.integers(0, 99))
def test_rho_is_scipys(classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = (random.integers(0, 6, (classes, classes)).astype(float) for _ in range(2))
    upper = np.triu_indices(classes, 1)
    a_sym, b_sym = ((x + x.T)[upper] / 2 for x in (a, b))
    if len(set(a_sym)) < 2 or len(set(b_sym)) < 2:
        return
    result = mantel(torch.from_numpy(a), torch.from_numpy(b), seed=0, permutations=19)
    assert result.rho == pytest.approx(spearmanr(a_sym, b_sym).statistic)
    assert 1 / 20 <= result.p <= 1


def test_mantel_finds_what_is_there_and_nothing_else() -> None:
    random = torch.Generator().manual_seed(1)
    same = torch.tensor([[float(a // 4 == b // 4) for a in range(20)] for b in range(20)])
    noise = torch.rand(20, 20, generator=random)
    assert mantel(same + 0.5 * noise, same, seed=0).p == pytest.approx(1 / 1000)
    ps = [
        mantel(
            torch.rand(12, 12, generator=random),
            torch.rand(12, 12, generator=random),
            seed=s,
            permutations=99,
        ).p
        for s in range(60)
    ]
    assert 0.35 < float(np.mean(ps)) < 0.65
    assert "two matrices" in str(refusal(mantel, torch.ones(3, 3), torch.ones(4, 4), seed=0))


def test_permutations_that_change_nothing_count_as_large() -> None:
    # Of the 24 orders of two pairs, 8 keep the pairs together.
    same = torch.tensor([[float(a // 2 == b // 2) for a in range(4)] for b in range(4)])
    results = [mantel(same, same, seed=seed) for seed in range(4)]
    assert [result.rho for result in results] == pytest.approx([1.0] * 4)
    # The share of 999 orders deviates by 0.015.
    assert [result.p for result in results] == pytest.approx([1 / 3] * 4, abs=0.06)
    assert len({result.p for result in results}) > 1
    assert mantel(same, same, seed=2) == results[2]


def test_means_of_classes_without_images_are_zero() -> None:
    means_CC = class_means(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([0, 0]))
    assert means_CC.tolist() == [[0.0, 0.5, 0.5], [0, 0, 0], [0, 0, 0]]


def test_hierarchies_that_say_nothing_are_refused() -> None:
    probs_NC, labels_N = random_case(4, 6, 0)
    for tree in (Hierarchy(("all",), (0,) * 6), Hierarchy(tuple("abcdef"), tuple(range(6)))):
        assert isinstance(refusal(measure_semantics, probs_NC, labels_N, tree), DataError)
    assert "6 in the model" in str(
        refusal(measure_semantics, probs_NC, labels_N, Hierarchy(("a", "b"), (0, 0, 1)))
    )


def test_cifars_hierarchy_is_built_in() -> None:
    from richkd.data.cifar100 import SUPERCLASSES

    names = sorted(name for listed in SUPERCLASSES.values() for name in listed)
    assert len(set(names)) == 100
    result = known_hierarchy([name.replace("_", " ") for name in names])
    assert result is not None
    assert sorted(result.superclass_of_C) == sorted(list(range(20)) * 5)
    assert result.names()[names.index("tractor")] == "vehicles_2"
    assert known_hierarchy(names[:-1]) is None


def test_classes_without_images_change_no_correlation() -> None:
    random = torch.Generator().manual_seed(0)
    classes, images = 12, 600
    groups = [c // 3 for c in range(classes)]
    related_CC = torch.tensor([[float(a == b) for b in groups] for a in groups])
    labels_N = torch.randint(0, 6, (images,), generator=random)
    logits_NC = torch.randn(images, classes, generator=random) + 2 * related_CC[labels_N]
    tree = Hierarchy(("a", "b", "c", "d"), tuple(groups))
    q_NC = others(logits_NC.double().softmax(1), labels_N)
    means_KK = torch.stack([q_NC[labels_N == c].mean(0) for c in range(6)])[:, :6]
    expected = mantel(means_KK, related_CC[:6, :6], seed=0)
    correlation = measure_semantics(logits_NC.softmax(1), labels_N, tree).correlation
    assert correlation is not None
    assert correlation.rho == pytest.approx(expected.rho, abs=1e-5)
    few_N = labels_N < 2
    assert measure_semantics(logits_NC.softmax(1)[few_N], labels_N[few_N], tree).correlation is None


@pytest.mark.parametrize("top", [100.0, 700.0, 720.0, 740.0])
def test_the_rest_of_a_certain_answer_is_a_distribution(top: float) -> None:
    probs_1C = torch.tensor([[top, 0.0, -0.5, -1.0]], dtype=torch.float64).softmax(1)
    q_1C = others(probs_1C, torch.tensor([0]))
    assert float(q_1C.sum()) == pytest.approx(1)
    assert float(q_1C[0, 0]) == 0
