"""The choice of a mixing: right where the truth is known, cautious where data are few."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from richkd.data.split import folds_of
from richkd.fusion.fit import fit_log_pool, nll_of
from richkd.fusion.mixing import LogPool
from richkd.fusion.select import choose, cross_fitted, fit_best_teacher
from tests.fusion.test_fit import KINDS, labeled, log_probs, mean_nll, teacher

NAMES = ("teacher", "CLIP")


def complementary(images: int, seed: int) -> tuple[list[Tensor], Tensor]:
    """Two teachers of independent errors, so that their product is right more often than either."""
    labels_N, generator = labeled(images, 5, seed)
    logs = []
    for _ in range(2):
        noise_NC = torch.randn(images, 5, generator=generator)
        logs.append((1.5 * functional.one_hot(labels_N, 5) + noise_NC).log_softmax(1))
    return logs, labels_N


def test_complementary_teachers_are_pooled() -> None:
    logs, labels_N = complementary(1000, 0)
    choice = choose(logs, labels_N, NAMES)
    assert choice.name == "log-pool"
    assert isinstance(choice.mixing, LogPool)
    assert choice.mixing.weights == pytest.approx(fit_log_pool(logs, labels_N).weights)
    assert [c.name for c in choice.candidates][1:] == ["log-pool", "linear", "gate", "per-class"]
    best = min(choice.candidates, key=lambda c: c.nll)
    assert best.behind == 0
    assert choice.candidates[0].behind > 5 * choice.candidates[0].error


def test_a_useless_teacher_is_left_out() -> None:
    labels_N, generator = labeled(400, 5, 1)
    logs = log_probs(["skilled", "chance"], labels_N, 5, generator)
    choice = choose(logs, labels_N, NAMES)
    assert choice.name == "teacher alone"
    assert choice.mixing.weights[1] == 0  # type: ignore[attr-defined]
    choice = choose(logs[::-1], labels_N, NAMES)
    assert choice.name == "CLIP alone"


def test_few_images_fall_back_to_the_best_teacher() -> None:
    logs, labels_N = complementary(12, 3)
    assert choose(logs, labels_N, NAMES).name.endswith("alone")
    # Too few for folds at all.
    assert choose([log_NC[:4] for log_NC in logs], labels_N[:4], NAMES).name.endswith("alone")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3), st.integers(20, 60), st.integers(0, 9999))
def test_the_choice_is_never_worse_than_its_best_part(kinds: list[str], images: int, seed: int) -> None:
    labels_N, generator = labeled(images, 4, seed)
    logs = [teacher(kind, labels_N, 4, generator).log_softmax(1) for kind in kinds]
    choice = choose(logs, labels_N, kinds)
    reached = mean_nll(choice.mixing, logs, labels_N)
    assert reached <= mean_nll(fit_best_teacher(logs, labels_N), logs, labels_N) + 1e-9


def test_cross_fitting_never_looks_at_what_it_predicts() -> None:
    logs, labels_N = complementary(50, 4)
    fold_N = folds_of(labels_N, 5)
    fused_NC = cross_fitted(fit_log_pool, logs, labels_N)
    for fold in range(5):
        out_N = fold_N == fold
        mixing = fit_log_pool([log_NC[~out_N] for log_NC in logs], labels_N[~out_N])
        expected_NC = mixing([log_NC[out_N].double() for log_NC in logs])
        torch.testing.assert_close(fused_NC[out_N], expected_NC)
    # Fitted and judged on the same images, the pool looks better than it is.
    honest = nll_of(LogPool((1.0,)), [fused_NC], labels_N).mean()
    assert honest > mean_nll(fit_log_pool(logs, labels_N), logs, labels_N)


def test_folds_share_every_class() -> None:
    labels_N = torch.tensor([2, 0, 2, 0, 1, 2, 0, 2, 1, 2])
    fold_N = folds_of(labels_N, 2)
    for label, counts in ((0, (1, 2)), (1, (1, 1)), (2, (2, 3))):
        assert sorted(torch.bincount(fold_N[labels_N == label], minlength=2).tolist()) == sorted(counts)


def test_of_many_images_some_cross_fit_and_all_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    logs, labels_N = complementary(1000, 0)
    of_all = choose(logs, labels_N, NAMES)
    torch.testing.assert_close(of_all.logits_NC, cross_fitted(fit_log_pool, logs, labels_N))
    monkeypatch.setattr("richkd.fusion.select.FIT_IMAGES", 200)
    of_some = choose(logs, labels_N, NAMES)
    assert of_some.name == of_all.name
    assert of_some.mixing == of_all.mixing
    assert not torch.equal(of_some.logits_NC, of_all.logits_NC)
    for some, whole in zip(of_some.candidates, of_all.candidates, strict=True):
        # A fit to fewer images is worse on others, by about its parameters over its images in nats.
        assert -0.005 < some.nll - whole.nll < 0.1
