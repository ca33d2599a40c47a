"""What each prompt template is worth on held-out images, the best set of them, and fitted weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from richkd.core.errors import ClipError, nearest
from richkd.core.user_files import parse_file
from richkd.data.split import folds_of
from richkd.fusion.fit import argmin_lbfgs
from richkd.fusion.select import FOLDS

# Weights of a file may be rounded.
SUM_TOLERANCE = 1e-3
# A further template has to gain so many nats, or the set is complete.
LEAST_GAIN = 1e-4
# Images beyond which a choice of templates hardly changes, and weights hardly move.
CHOICE_IMAGES, FIT_IMAGES = 1000, 2500


@dataclass(frozen=True)
class PromptSet:
    """Templates, and the unit-norm embedding (P, C, D) of each for each class.

    A class with prompts of its own has its one embedding at every template, so that no weight moves it.
    """

    templates: tuple[str, ...]
    embeddings_PCD: Tensor

    def class_embeddings(self, weights_P: Tensor) -> Tensor:
        """``normalized(Σ_p w_p · e_pc)`` (C, D): equal weights give the usual mean of prompts."""
        summed_CD = torch.einsum("p,pcd->cd", weights_P.to(self.embeddings_PCD), self.embeddings_PCD)
        return functional.normalize(summed_CD, dim=1)

    def double(self) -> PromptSet:
        return PromptSet(self.templates, self.embeddings_PCD.double())


@dataclass(frozen=True)
class PromptTable:
    """How often each template alone is right, and the best set of them.

    ``best_top1`` is cross-fitted: each image is judged by the set that was chosen without its fold.
    """

    rows: tuple[tuple[str, float], ...]
    best: tuple[str, ...]
    best_top1: float
    all_top1: float


def equal_weights(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=torch.float64)


def prompt_table(prompts: PromptSet, feats_ND: Tensor, labels_N: Tensor, logit_scale: float) -> PromptTable:
    """Each template's accuracy on held-out images, all together, and the set that greedy choice ends with.

    Args:
        prompts: the templates with their embeddings.
        feats_ND: unit-norm image features of images that nothing was fitted on.
        labels_N: their classes.
        logit_scale: the CLIP's own, which losses are computed at.
    """
    feats_ND = feats_ND.to(prompts.embeddings_PCD)
    alone = [_top1(feats_ND @ embeds_CD.T, labels_N) for embeds_CD in prompts.embeddings_PCD]
    together_CD = prompts.class_embeddings(equal_weights(len(alone)))
    fold_N, right = folds_of(labels_N, FOLDS), torch.zeros(len(labels_N), dtype=torch.bool)
    for fold in range(FOLDS):
        out_N = fold_N == fold
        if out_N.any() and not out_N.all():
            selected = choose_templates(prompts, feats_ND[~out_N], labels_N[~out_N], logit_scale)
            embeds_CD = prompts.class_embeddings(_of_set(selected, len(alone)))
            right[out_N] = (feats_ND[out_N] @ embeds_CD.T).argmax(dim=1) == labels_N[out_N]
    best = choose_templates(prompts, feats_ND, labels_N, logit_scale)
    return PromptTable(
        tuple(zip(prompts.templates, alone, strict=True)),
        tuple(prompts.templates[place] for place in best),
        float(right.double().mean()),
        _top1(feats_ND @ together_CD.T, labels_N),
    )


def choose_templates(
    prompts: PromptSet, feats_ND: Tensor, labels_N: Tensor, logit_scale: float
) -> tuple[int, ...]:
    """Positions of templates, each added because it lowers the NLL most, until none lowers it.

    Looks at `CHOICE_IMAGES` at most, evenly spread over the classes.
    """
    some = _spread(labels_N, CHOICE_IMAGES)
    feats_ND, labels_N = feats_ND[some], labels_N[some]
    cosines_PNC = torch.einsum("nd,pcd->pnc", feats_ND, prompts.embeddings_PCD)
    selected: list[int] = []
    summed_NC, summed_CD = torch.zeros_like(cosines_PNC[0]), torch.zeros_like(prompts.embeddings_PCD[0])
    least = float("inf")
    while len(selected) < len(prompts.templates):
        losses = {}
        for place in set(range(len(prompts.templates))) - set(selected):
            norms_C = (summed_CD + prompts.embeddings_PCD[place]).norm(dim=1)
            logits_NC = logit_scale * (summed_NC + cosines_PNC[place]) / norms_C
            losses[place] = float(functional.cross_entropy(logits_NC, labels_N))
        best = min(losses, key=lambda place: (losses[place], place))
        if losses[best] > least - LEAST_GAIN:
            break
        least = losses[best]
        selected.append(best)
        summed_NC, summed_CD = summed_NC + cosines_PNC[best], summed_CD + prompts.embeddings_PCD[best]
    return tuple(selected)


def fit_prompt_weights(prompts: PromptSet, feats_ND: Tensor, labels_N: Tensor, logit_scale: float) -> Tensor:
    """Weights (P) on the simplex with the least NLL on held-out images; never worse there than equal ones.

    ``w = softmax(θ)``, from equal weights by L-BFGS in float64, on at most `FIT_IMAGES` images.
    """
    some = _spread(labels_N, FIT_IMAGES)
    feats_ND, labels_N, exact = feats_ND[some].double(), labels_N[some], prompts.double()

    def loss(theta_P: Tensor) -> Tensor:
        return _nll(exact, feats_ND, labels_N, logit_scale, theta_P.softmax(0))

    count = len(prompts.templates)
    candidates = [
        argmin_lbfgs(loss, torch.zeros(count, dtype=torch.float64)).softmax(0),
        equal_weights(count),
    ]
    return min(candidates, key=lambda w_P: float(_nll(exact, feats_ND, labels_N, logit_scale, w_P)))


def cross_fitted_nll(
    prompts: PromptSet, feats_ND: Tensor, labels_N: Tensor, logit_scale: float
) -> tuple[float, float]:
    """NLL of fitted weights, each image judged by a fit without its fold, and of equal weights."""
    fold_N, total = folds_of(labels_N, FOLDS), 0.0
    exact, feats_ND = prompts.double(), feats_ND.double()
    for fold in range(FOLDS):
        out_N = fold_N == fold
        weights_P = fit_prompt_weights(prompts, feats_ND[~out_N], labels_N[~out_N], logit_scale)
        nll = _nll(exact, feats_ND[out_N], labels_N[out_N], logit_scale, weights_P)
        total += float(nll) * int(out_N.sum())
    equal = equal_weights(len(prompts.templates))
    return total / len(labels_N), float(_nll(exact, feats_ND, labels_N, logit_scale, equal))


def read_prompt_weights(path: Path, templates: Sequence[str]) -> Tensor:
    """Weights (P) from a YAML or JSON file ``{template: weight}``, which names every template once.

    Raises:
        ClipError: the file cannot be read; a template is unknown or lacks; a weight is negative or no
            number; they do not sum to one.
    """
    result = parse_file(path, ClipError, "The prompt weights", "{template: weight}")
    if not isinstance(result, dict) or not result:
        raise ClipError(f"{path} must map templates to weights", got=repr(result)[:80], fix="'a {}': 0.5")
    for template in result:
        if template not in templates:
            raise ClipError(
                f"{path} weighs a template that the run does not use",
                got=repr(template),
                fix=nearest(str(template), templates),
            )
    missing = [template for template in templates if template not in result]
    if missing:
        raise ClipError(
            f"{path} must weigh every template of the run",
            got=f"{len(missing)} without a weight, first {missing[0]!r}",
            fix="give 0 to those that are not to count.",
        )
    weights = [result[template] for template in templates]
    numbers = [float(w) for w in weights if isinstance(w, (int, float)) and not isinstance(w, bool)]
    # Written so that NaN fails too.
    if len(numbers) < len(weights) or not all(w >= 0 for w in numbers):
        raise ClipError(
            f"Weights in {path} must be numbers of zero or more", got=repr(weights)[:80], fix="correct them."
        )
    if not abs(sum(numbers) - 1) <= SUM_TOLERANCE:
        raise ClipError(
            f"Weights in {path} must sum to one", got=f"{sum(numbers):.6g}", fix="divide each by their sum."
        )
    return torch.tensor(numbers, dtype=torch.float64) / sum(numbers)


def _nll(
    prompts: PromptSet, feats_ND: Tensor, labels_N: Tensor, logit_scale: float, weights_P: Tensor
) -> Tensor:
    return functional.cross_entropy(logit_scale * feats_ND @ prompts.class_embeddings(weights_P).T, labels_N)


def _top1(logits_NC: Tensor, labels_N: Tensor) -> float:
    return float((logits_NC.argmax(dim=1) == labels_N).double().mean())


def _of_set(selected: Sequence[int], count: int) -> Tensor:
    weights_P = torch.zeros(count, dtype=torch.float64)
    weights_P[list(selected)] = 1 / len(selected)
    return weights_P


def _spread(labels_N: Tensor, most: int) -> Tensor:
    """Positions of at most so many images, at even distances among those sorted by class."""
    by_class_N = labels_N.argsort(stable=True)
    return by_class_N[:: -(-len(labels_N) // most)]
