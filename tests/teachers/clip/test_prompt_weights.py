"""Templates on held-out images: accuracies, greedy sets and weights against slow versions, and bad files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from richkd.core.errors import ClipError, DataError
from richkd.data.split import folds_of
from richkd.fusion.select import FIT_FOLDS
from richkd.metrics.multipliers import PRIOR_IMAGES
from richkd.teachers.clip.prompt_weights import (
    PromptSet,
    choose_templates,
    cross_fitted_nll,
    equal_weights,
    fit_prompt_weights,
    measure_prompts,
    read_prompt_weights,
)
from tests.fixtures import refusal

CLASSES, WIDTH, SCALE = 5, 16, 10.0
NAMES = ("a {}", "the {}", "one {}")


def world_of(noises: tuple[float, ...], images: int = 200, seed: int = 0) -> tuple[PromptSet, Tensor, Tensor]:
    """Images around directions of their classes, and templates that know these as badly as ``noises`` say."""
    random = torch.Generator().manual_seed(seed)
    truth_CD = functional.normalize(torch.randn(CLASSES, WIDTH, generator=random), dim=1)
    labels_N = torch.arange(images) % CLASSES
    feats_ND = functional.normalize(
        truth_CD[labels_N] + 0.35 * torch.randn(images, WIDTH, generator=random), dim=1
    )
    embeds = [
        functional.normalize(truth_CD + noise * torch.randn(CLASSES, WIDTH, generator=random), dim=1)
        for noise in noises
    ]
    templates = tuple(f"{number} {{}}" for number in range(len(noises)))
    return PromptSet(templates, torch.stack(embeds)), feats_ND, labels_N


def nll(prompts: PromptSet, feats_ND: Tensor, labels_N: Tensor, weights: list[float]) -> float:
    """By its definition: class by class, image by image."""
    logits = torch.zeros(len(feats_ND), CLASSES, dtype=torch.float64)
    for c in range(CLASSES):
        embed_D = sum(w * e_D for w, e_D in zip(weights, prompts.embeddings_PCD[:, c].double(), strict=True))
        for n, feat_D in enumerate(feats_ND.double()):
            logits[n, c] = SCALE * (feat_D @ embed_D) / embed_D.norm()
    return float(-logits.log_softmax(1)[torch.arange(len(labels_N)), labels_N].mean())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_class_embeddings_are_normalized_weighted_means(seed: int, noises: list[float]) -> None:
    prompts, _, _ = world_of(tuple(noises), 5, seed)
    weights_P = torch.rand(len(noises), generator=torch.Generator().manual_seed(seed)) + 0.1
    embeds_CD = prompts.class_embeddings(weights_P)
    for c in range(CLASSES):
        mean_D = (weights_P[:, None] * prompts.embeddings_PCD[:, c]).sum(0)
        assert torch.allclose(embeds_CD[c], mean_D / mean_D.norm(), atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 999), st.lists(st.floats(0, 1.5), min_size=1, max_size=4))
def test_fitted_weights_are_on_the_simplex_and_never_worse_than_equal_ones(
    seed: int, noises: list[float]
) -> None:
    prompts, feats_ND, labels_N = world_of(tuple(noises), 60, seed)
    weights_P = fit_prompt_weights(prompts, feats_ND, labels_N, SCALE)
    assert float(weights_P.sum()) == pytest.approx(1)
    assert bool((weights_P >= 0).all())
    fitted = nll(prompts, feats_ND, labels_N, weights_P.tolist())
    assert fitted <= nll(prompts, feats_ND, labels_N, equal_weights(len(noises)).tolist()) + 1e-9


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 999), st.lists(st.floats(0, 1.5), min_size=1, max_size=4), st.sampled_from([1, 2, 10]))
@example(146, [1.0, 1.0, 1.0, 0.0], 1)
def test_a_few_images_move_the_weights_only_as_far_as_the_prior_lets_them(
    seed: int, noises: list[float], count: int
) -> None:
    prompts, feats_ND, labels_N = world_of(tuple(noises), 60, seed)
    few = feats_ND[:count], labels_N[:count]
    weights_P, equal_P = fit_prompt_weights(prompts, *few, SCALE), equal_weights(len(noises))
    # The minimum is not above the value at equal weights: KL(equal ‖ fitted) ≤ N/k · (what the NLL gains).
    divergence = float((equal_P * (equal_P / weights_P).log()).sum())
    gain = nll(prompts, *few, equal_P.tolist()) - nll(prompts, *few, weights_P.tolist())
    assert divergence <= count / PRIOR_IMAGES * gain + 1e-9
    # At the minimum, the slopes of NLL and prior cancel for each θ in w = softmax(θ).
    for place, weight in enumerate(weights_P.tolist()):
        steps_P = 1e-4 * torch.eye(len(noises), dtype=torch.float64)[place]
        up, down = ((weights_P.log() + sign * steps_P).softmax(0).tolist() for sign in (1, -1))
        slope = (nll(prompts, *few, up) - nll(prompts, *few, down)) / 2e-4
        assert slope == pytest.approx(PRIOR_IMAGES / count * (1 / len(noises) - weight), abs=1e-4)


def test_with_many_images_no_template_alone_is_better_than_fitted_weights() -> None:
    prompts, feats_ND, labels_N = world_of((0.2, 0.8, 1.2), 3000, 0)
    fitted = nll(prompts, feats_ND, labels_N, fit_prompt_weights(prompts, feats_ND, labels_N, SCALE).tolist())
    for place in range(3):
        assert fitted <= nll(prompts, feats_ND, labels_N, [float(place == p) for p in range(3)]) + 0.01


def test_a_useless_template_is_left_out_and_weighs_little() -> None:
    prompts, feats_ND, labels_N = world_of((0.1, 3.0, 0.1))
    assert 1 not in choose_templates(prompts, feats_ND, labels_N, SCALE)
    weights_P = fit_prompt_weights(prompts, feats_ND, labels_N, SCALE)
    assert float(weights_P[1]) < 0.1
    fitted, equal = cross_fitted_nll(prompts, feats_ND, labels_N, SCALE)
    assert fitted < equal
    assert equal == pytest.approx(nll(prompts, feats_ND, labels_N, [1 / 3] * 3))


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_greedy_choice_equals_the_loop(seed: int) -> None:
    prompts, feats_ND, labels_N = world_of((0.3, 0.4, 0.5, 0.6), 100, seed)
    selected: list[int] = []
    least = float("inf")
    while True:
        losses = {
            p: nll(prompts, feats_ND, labels_N, [float(q in (*selected, p)) for q in range(4)])
            for p in range(4)
            if p not in selected
        }
        best = min(losses, key=losses.__getitem__, default=None)
        if best is None or losses[best] > least - 1e-4:
            break
        least = losses[best]
        selected.append(best)
    assert list(choose_templates(prompts, feats_ND, labels_N, SCALE)) == selected
    assert len(selected) > 1


def test_a_table_counts_right_answers() -> None:
    prompts, feats_ND, labels_N = world_of((0.2, 1.0))
    table = measure_prompts(prompts, feats_ND, labels_N, SCALE)
    for (template, top1), expected, embeds_CD in zip(
        table.rows, prompts.templates, prompts.embeddings_PCD, strict=True
    ):
        right = [int((f_D @ embeds_CD.T).argmax()) == y for f_D, y in zip(feats_ND, labels_N, strict=True)]
        assert template == expected
        assert top1 == pytest.approx(sum(right) / 200)
    assert set(table.best) <= set(prompts.templates)
    assert table.rows[0][1] > table.rows[1][1]
    # The better one alone is the best set in every fold, and so judged as it is alone.
    assert table.best_top1 == pytest.approx(table.rows[0][1])


def test_templates_and_weights_are_judged_on_images_that_did_not_choose_them() -> None:
    # Few images and many templates of equal noise: which of them fit best is chance.
    prompts, feats_ND, labels_N = world_of((1.0,) * 8, 30, 6)
    fold_N = folds_of(labels_N, FIT_FOLDS)
    right, total = 0, 0.0
    for fold in range(FIT_FOLDS):
        out_N = fold_N == fold
        selected = choose_templates(prompts, feats_ND[~out_N], labels_N[~out_N], SCALE)
        weights = [float(place in selected) for place in range(8)]
        embeds_CD = prompts.class_embeddings(torch.tensor(weights))
        right += int(((feats_ND[out_N] @ embeds_CD.T).argmax(1) == labels_N[out_N]).sum())
        fitted_P = fit_prompt_weights(prompts, feats_ND[~out_N], labels_N[~out_N], SCALE)
        total += nll(prompts, feats_ND[out_N], labels_N[out_N], fitted_P.tolist()) * int(out_N.sum())
    table = measure_prompts(prompts, feats_ND, labels_N, SCALE)
    assert table.best_top1 == pytest.approx(right / 30)
    in_sample = prompts.class_embeddings(torch.tensor([float(t in table.best) for t in prompts.templates]))
    assert table.best_top1 < ((feats_ND @ in_sample.T).argmax(1) == labels_N).double().mean()
    fitted, _ = cross_fitted_nll(prompts, feats_ND, labels_N, SCALE)
    assert fitted == pytest.approx(total / 30, rel=1e-6)
    everything_P = fit_prompt_weights(prompts, feats_ND, labels_N, SCALE)
    assert fitted > nll(prompts, feats_ND, labels_N, everything_P.tolist()) + 1e-3


def test_some_of_many_images_are_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every fourth image is of class 0, the only one that the first template knows.
    labels_N = torch.arange(200) % 4
    knows_first = torch.eye(4)[[0, 2, 3, 1]]
    knows_others = functional.normalize(torch.eye(4) + 0.3 * torch.eye(4)[[1, 1, 2, 3]], dim=1)
    prompts = PromptSet(("a {}", "the {}"), torch.stack([knows_first, knows_others]))
    for name in ("CHOICE_IMAGES", "FIT_IMAGES"):
        monkeypatch.setattr(f"richkd.teachers.clip.prompt_weights.{name}", 50)
    assert choose_templates(prompts, torch.eye(4)[labels_N], labels_N, SCALE)[0] == 1
    weights_P = fit_prompt_weights(prompts, torch.eye(4)[labels_N], labels_N, SCALE)
    assert weights_P[1] > 0.6


def test_weights_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "weights.yaml"
    file.write_text("'the {}': 0.25\n'a {}': 0.75\n'one {}': 0\n", encoding="utf-8")
    assert read_prompt_weights(file, NAMES).tolist() == [0.75, 0.25, 0]
    assert read_prompt_weights(str(file), NAMES).tolist() == [0.75, 0.25, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("'a {}': 0.5\n'the {}': 0.5\n'one {}': 0.5", "must sum to one"),
        ("'a {}': 1.5\n'the {}': -0.5\n'one {}': 0", "zero or more"),
        ("'a {}': .nan\n'the {}': 0.5\n'one {}': 0.5", "zero or more"),
        ("'a {}': yes\n'the {}': 0.5\n'one {}': 0.5", "zero or more"),
        ("'a {}': 1", "2 without a weight, first 'the {}'"),
        ("'a {}': 0.5\n'thy {}': 0.5", "Did you mean 'the {}'"),
        ("'a {}': 1\n'a {}': 1", "appears twice"),
        ("- a", "must map templates to weights"),
        ("", "must map templates to weights"),
        ("a: [", "not valid YAML"),
    ],
)
def test_files_of_weights_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "weights.yaml"
    file.write_text(text, encoding="utf-8")
    error = refusal(read_prompt_weights, file, NAMES)
    assert isinstance(error, ClipError)
    assert words in str(error)
    assert "weights.yaml" in str(error)


@pytest.mark.parametrize("images", [2, 3, 4, 6])
def test_cross_fitting_needs_no_image_in_every_fold(images: int) -> None:
    prompts, feats_ND, _ = world_of((0.0, 0.1), images)
    # One class, so that folds are empty.
    fitted, equal = cross_fitted_nll(prompts, feats_ND, torch.zeros(images, dtype=torch.int64), SCALE)
    assert math.isfinite(fitted)
    assert math.isfinite(equal)


@pytest.mark.parametrize("images", [0, 1])
def test_one_image_is_too_few_to_cross_fit(images: int) -> None:
    prompts, feats_ND, labels_N = world_of((0.0, 0.1), 5)
    error = refusal(cross_fitted_nll, prompts, feats_ND[:images], labels_N[:images], SCALE)
    assert isinstance(error, DataError)
    assert "two held-out images" in error.rule
