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
from tests.fusion.test_fit import log_probs, mean_nll
from tests.metrics.test_multipliers import KINDS, labeled, teacher

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
    names = [candidate.name for candidate in choice.candidates]
    assert names == ["log-pool", names[1], "linear", "gate", "per-class"]
    assert names[1] in ("teacher alone", "CLIP alone")
    assert choice.candidates[1].nll > choice.threshold


def test_a_harmful_teacher_is_left_out() -> None:
    """A pool keeps a little of it while images are few, and the best teacher alone is clearly better."""
    labels_N, generator = labeled(100, 5, 1)
    logs = log_probs(["perfect", "opposite"], labels_N, 5, generator)
    logs[1] = (10 * logs[1]).log_softmax(1)
    choice = choose(logs, labels_N, NAMES)
    assert choice.name == "teacher alone"
    assert choice.mixing.weights[1] == 0  # type: ignore[attr-defined]
    assert choose(logs[::-1], labels_N, NAMES).name == "CLIP alone"


def test_a_useless_teacher_changes_nothing() -> None:
    labels_N, generator = labeled(400, 5, 1)
    logs = log_probs(["skilled", "tiny"], labels_N, 5, generator)
    choice = choose(logs, labels_N, NAMES)
    alone = fit_best_teacher(logs, labels_N)
    assert mean_nll(choice.mixing, logs, labels_N) <= mean_nll(alone, logs, labels_N) + 1e-3


@pytest.mark.parametrize("images", [1, 4, 12, 49])
def test_of_few_images_none_is_used_to_choose(images: int) -> None:
    logs, labels_N = complementary(images, 3)
    choice = choose(logs, labels_N, NAMES, (0.7, 0.3))
    assert [candidate.name for candidate in choice.candidates] == ["log-pool"]
    assert choice.mixing.weights == pytest.approx((0.7, 0.3), rel=1.0)  # type: ignore[attr-defined]
    assert choose(logs[:1], labels_N, NAMES[:1]).name == "teacher alone"


def test_one_threshold_decides_for_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate is not selected because its own difference is uncertain.

    The pool is nearly the best on each image. The gate is much worse on one image and equal on the others, so
    its paired difference is as large as its own standard error.
    """
    count = 200
    labels_N = torch.arange(count) % 2
    losses = {
        "log-pool": torch.full((count,), 0.0084),
        "linear": torch.full((count,), 0.0083),
        "gate": torch.full((count,), 0.0080),
    }
    losses["gate"][0] += 0.54
    fits = {name: (lambda *_, name=name: Fixed(name)) for name in losses}

    class Fixed:
        def __init__(self, name: str) -> None:
            self.name, self.weights = name, (0.5, 0.5)

        def __call__(self, logs: list[Tensor]) -> Tensor:
            return torch.zeros(len(logs[0]), 2)

    def losses_of(fit: object, *_: object) -> Tensor:
        name = next((name for name, known in fits.items() if known is fit), "alone")
        loss_N = losses.get(name, torch.full((count,), 0.5)).double()
        right_N2 = torch.stack([-loss_N, (-loss_N).exp().neg().log1p()], dim=1)
        return torch.where((labels_N == 0)[:, None], right_N2, right_N2.flip(1))

    monkeypatch.setattr("richkd.fusion.select.candidates", lambda: fits)
    monkeypatch.setattr("richkd.fusion.select.cross_fitted", losses_of)
    logs, _ = complementary(count, 0)
    choice = choose([log_NC[:, :2].log_softmax(1) for log_NC in logs], labels_N, NAMES)
    by_name = {candidate.name: candidate for candidate in choice.candidates}
    assert by_name["gate"].nll == pytest.approx(0.0107, abs=1e-4)
    assert choice.name == "log-pool"
    least = min(choice.candidates, key=lambda candidate: candidate.nll)
    assert choice.threshold == pytest.approx(least.nll + least.error)
    assert by_name["log-pool"].nll <= choice.threshold


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(KINDS), min_size=2, max_size=3), st.integers(50, 90), st.integers(0, 9999))
def test_the_choice_is_the_first_below_the_threshold(kinds: list[str], images: int, seed: int) -> None:
    labels_N, generator = labeled(images, 4, seed)
    logs = [teacher(kind, labels_N, 4, generator).log_softmax(1) for kind in kinds]
    choice = choose(logs, labels_N, kinds)
    below = [candidate.name for candidate in choice.candidates if candidate.nll <= choice.threshold]
    assert choice.name == below[0]


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


def test_shares_are_the_centers_of_all_fits() -> None:
    logs, labels_N = complementary(49, 3)
    choice = choose(logs, labels_N, NAMES, (0.95, 0.05))
    exact = [log_NC.double() for log_NC in logs]
    expected = fit_log_pool(exact, labels_N, (0.95, 0.05))
    assert isinstance(choice.mixing, LogPool)
    assert choice.mixing.weights == pytest.approx(expected.weights, rel=1e-6)
    assert choice.mixing.weights != pytest.approx(fit_log_pool(exact, labels_N).weights, rel=0.05)
    of_folds = cross_fitted(fit_log_pool, logs, labels_N, (0.95, 0.05))
    torch.testing.assert_close(choice.logits_NC, of_folds)
    assert not torch.allclose(of_folds, cross_fitted(fit_log_pool, logs, labels_N), atol=0.05)


def test_the_numbers_of_images_from_which_fits_and_choices_are_made() -> None:
    logs, labels_N = complementary(50, 3)
    assert len(choose(logs, labels_N, NAMES).candidates) == 5
    logs, labels_N = complementary(10, 3)
    sum_NC = 0.5 * (logs[0] + logs[1]).double()
    # Two images in each of five folds are enough for a fit, nine are not.
    assert not torch.allclose(cross_fitted(fit_log_pool, logs, labels_N), sum_NC)
    nine = [log_NC[:9] for log_NC in logs]
    torch.testing.assert_close(cross_fitted(fit_log_pool, nine, labels_N[:9]), sum_NC[:9])


def test_some_of_many_images_have_the_classes_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    # Classes alternate, so that every second image in the order of the split would be of one class.
    labels_N = torch.arange(400) % 2
    logs = [torch.zeros(400, 2), torch.zeros(400, 2)]
    counts = []

    def fit(part: list[Tensor], part_N: Tensor, shares: object = None) -> LogPool:
        assert all(len(log_NC) == len(part_N) for log_NC in part)
        counts.append(torch.bincount(part_N, minlength=2).tolist())
        return LogPool((0.5, 0.5))

    monkeypatch.setattr("richkd.fusion.select.FIT_IMAGES", 160)
    cross_fitted(fit, logs, labels_N)
    assert len(counts) == 5
    for first, second in counts:
        assert 100 < first + second <= 160
        assert abs(first - second) <= 2


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
