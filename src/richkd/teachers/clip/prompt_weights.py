"""Measure, select and weight prompt templates on held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from richkd.core.errors import ClipError, DataError, nearest
from richkd.core.user_files import parse_file
from richkd.data.split import folds_of
from richkd.fusion.fit import argmin_lbfgs
from richkd.fusion.select import FIT_FOLDS
from richkd.metrics.multipliers import PRIOR_IMAGES

# Largest difference between 1 and the sum of weights in a file, which may be rounded.
SUM_TOLERANCE = 1e-3
# Smallest decrease of the NLL in nats for which another template is added.
LEAST_GAIN = 1e-4
# Numbers of images with which the selection of templates and the fitted weights hardly change any more.
CHOICE_IMAGES, FIT_IMAGES = 1000, 2500


@dataclass(frozen=True)
class PromptSet:
    """Prompt templates with their class embeddings.

    A class with class-specific prompts has the same embedding for all templates, so weights do not change it.

    Attributes:
        templates: the P templates.
        embeddings_PCD: for each template, the unit-norm embedding of each class.

    Example:
        >>> prompts = PromptSet(("a {}", "the {}"), torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        >>> [round(x, 4) for x in prompts.class_embeddings(torch.tensor([0.75, 0.25]))[0].tolist()]
        [0.9487, 0.3162]
    """

    templates: tuple[str, ...]
    embeddings_PCD: Tensor

    def class_embeddings(self, weights_P: Tensor) -> Tensor:
        """Class embeddings normalized(Σ_p w_p · e_pc) (C, D); with equal weights, the mean of the prompts."""
        summed_CD = torch.einsum("p,pcd->cd", weights_P.to(self.embeddings_PCD), self.embeddings_PCD)
        return functional.normalize(summed_CD, dim=1)

    def double(self) -> PromptSet:
        """The same templates with embeddings in float64."""
        return PromptSet(self.templates, self.embeddings_PCD.double())


@dataclass(frozen=True)
class PromptTable:
    """Accuracies of prompt templates on held-out images, as fractions in [0, 1]; see `measure_prompts`.

    Attributes:
        rows: each template with its accuracy.
        best: the selected templates.
        best_top1: cross-fitted accuracy of selected templates: each image is classified with the templates
            that were selected without its fold.
        all_top1: accuracy of the mean of all templates.

    Example:
        >>> table = PromptTable((("a {}", 0.5), ("the {}", 0.4)), ("a {}",), best_top1=0.5, all_top1=0.45)
        >>> table.best
        ('a {}',)
    """

    rows: tuple[tuple[str, float], ...]
    best: tuple[str, ...]
    best_top1: float
    all_top1: float


def equal_weights(count: int) -> Tensor:
    """Weights 1/P of P templates (float64).

    Example:
        >>> equal_weights(4).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    return torch.full((count,), 1 / count, dtype=torch.float64)


def measure_prompts(
    prompts: PromptSet, feats_ND: Tensor, labels_N: Tensor, logit_scale: float
) -> PromptTable:
    """Measure the accuracy of each template, of all templates, and of the greedily selected ones.

    Args:
        prompts: the templates with their embeddings.
        feats_ND: unit-norm image features of held-out images.
        labels_N: class positions (int64).
        logit_scale: the logit scale of CLIP, for the loss of `choose_templates`.

    Example:
        >>> prompts = PromptSet(("a {}", "not a {}"), torch.stack([torch.eye(2), torch.eye(2).flip(0)]))
        >>> labels_N = torch.arange(20) % 2
        >>> table = measure_prompts(prompts, torch.eye(2)[labels_N], labels_N, logit_scale=10.0)
        >>> table.rows, table.best, table.best_top1
        ((('a {}', 1.0), ('not a {}', 0.0)), ('a {}',), 1.0)
    """
    feats_ND = feats_ND.to(prompts.embeddings_PCD)
    single_top1 = [_top1(feats_ND @ embeds_CD.T, labels_N) for embeds_CD in prompts.embeddings_PCD]
    mean_CD = prompts.class_embeddings(equal_weights(len(single_top1)))
    correct_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for out_N in _left_out(labels_N):
        selected = choose_templates(prompts, feats_ND[~out_N], labels_N[~out_N], logit_scale)
        embeds_CD = prompts.class_embeddings(_set_weights(selected, len(single_top1)))
        correct_N[out_N] = (feats_ND[out_N] @ embeds_CD.T).argmax(dim=1) == labels_N[out_N]
    best = choose_templates(prompts, feats_ND, labels_N, logit_scale)
    return PromptTable(
        tuple(zip(prompts.templates, single_top1, strict=True)),
        tuple(prompts.templates[place] for place in best),
        float(correct_N.double().mean()),
        _top1(feats_ND @ mean_CD.T, labels_N),
    )


def choose_templates(
    prompts: PromptSet, feats_ND: Tensor, labels_N: Tensor, logit_scale: float
) -> tuple[int, ...]:
    """Select templates greedily: add the one that lowers the NLL most, until the gain is below `LEAST_GAIN`.

    Uses at most `CHOICE_IMAGES` images, evenly spaced over the classes.

    Args:
        prompts: the templates with their embeddings.
        feats_ND: unit-norm image features.
        labels_N: class positions (int64).
        logit_scale: the logit scale of CLIP.

    Returns:
        Positions of the selected templates, in the order in which they were added.

    Example:
        >>> prompts = PromptSet(("a {}", "not a {}"), torch.stack([torch.eye(2), torch.eye(2).flip(0)]))
        >>> choose_templates(prompts, torch.eye(2), torch.tensor([0, 1]), logit_scale=10.0)
        (0,)
    """
    sample_N = _spaced_by_class(labels_N, CHOICE_IMAGES)
    feats_ND, labels_N = feats_ND[sample_N], labels_N[sample_N]
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
    """Fit weights (P, float64) on the simplex on held-out images, with a prior around equal weights.

    Minimizes ``NLL − (k/N) Σ_p log(w_p) / P`` with k = `PRIOR_IMAGES`, w = softmax(θ), by L-BFGS in float64
    from equal weights, on at most `FIT_IMAGES` images.

    Args:
        prompts: the templates with their embeddings.
        feats_ND: unit-norm image features.
        labels_N: class positions (int64).
        logit_scale: the logit scale of CLIP.

    Example:
        >>> prompts = PromptSet(("a {}", "not a {}"), torch.stack([torch.eye(2), torch.eye(2).flip(0)]))
        >>> labels_N = torch.arange(200) % 2
        >>> weights_P = fit_prompt_weights(prompts, torch.eye(2)[labels_N], labels_N, logit_scale=10.0)
        >>> float(weights_P[0]) > 0.6, round(float(weights_P.sum()), 6)
        (True, 1.0)
    """
    sample_N = _spaced_by_class(labels_N, FIT_IMAGES)
    feats_ND, labels_N, exact = feats_ND[sample_N].double(), labels_N[sample_N], prompts.double()

    strength = PRIOR_IMAGES / len(labels_N)

    def loss(theta_P: Tensor) -> Tensor:
        nll = _nll(exact, feats_ND, labels_N, logit_scale, theta_P.softmax(0))
        return nll - strength * theta_P.log_softmax(0).mean()

    start_P = torch.zeros(len(prompts.templates), dtype=torch.float64)
    return argmin_lbfgs(loss, start_P).softmax(0)


def cross_fitted_nll(
    prompts: PromptSet, feats_ND: Tensor, labels_N: Tensor, logit_scale: float
) -> tuple[float, float]:
    """NLL in nats of fitted weights and of equal weights.

    The NLL of fitted weights is cross-fitted: the weights for an image are fitted without its fold.

    Args:
        prompts: the templates with their embeddings.
        feats_ND: unit-norm image features.
        labels_N: class positions (int64).
        logit_scale: the logit scale of CLIP.

    Raises:
        DataError: there is one image, or none.

    Example:
        >>> prompts = PromptSet(("a {}", "not a {}"), torch.stack([torch.eye(2), torch.eye(2).flip(0)]))
        >>> labels_N = torch.arange(20) % 2
        >>> fitted, equal = cross_fitted_nll(prompts, torch.eye(2)[labels_N], labels_N, logit_scale=10.0)
        >>> fitted < equal
        True
    """
    if len(labels_N) < 2:
        raise DataError(
            "Fitted prompt weights need two held-out images or more",
            got=f"{len(labels_N)}",
            fix="give more held-out images, or use --clip.prompt_weights equal.",
        )
    exact, feats_ND, total = prompts.double(), feats_ND.double(), 0.0
    for out_N in _left_out(labels_N):
        weights_P = fit_prompt_weights(prompts, feats_ND[~out_N], labels_N[~out_N], logit_scale)
        nll = _nll(exact, feats_ND[out_N], labels_N[out_N], logit_scale, weights_P)
        total += float(nll) * int(out_N.sum())
    equal = equal_weights(len(prompts.templates))
    return total / len(labels_N), float(_nll(exact, feats_ND, labels_N, logit_scale, equal))


def read_prompt_weights(path: str | Path, templates: Sequence[str]) -> Tensor:
    """Read the weight of each template (P, float64) from a YAML or JSON file ``{template: weight}``.

    Args:
        path: the file.
        templates: the templates of the run.

    Raises:
        ClipError: the file cannot be read, a template is unknown or missing, a weight is negative or not a
            number, or the weights do not sum to one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "weights.yaml"
        ...     size = path.write_text("{'a {}': 0.75, 'the {}': 0.25}", encoding="utf-8")
        ...     read_prompt_weights(path, ("the {}", "a {}")).tolist()
        [0.25, 0.75]
    """
    content = parse_file(Path(path), ClipError, "The prompt weights", "{template: weight}")
    if not isinstance(content, dict) or not content:
        raise ClipError(
            f"{path} must map templates to weights",
            got=repr(content)[:80],
            fix="write lines such as 'a photo of a {}': 0.5.",
        )
    for template in content:
        if template not in templates:
            raise ClipError(
                f"{path} must contain only templates of the run",
                got=repr(template),
                fix=nearest(str(template), templates, "Copy them from the file of --clip.prompts."),
            )
    missing = [template for template in templates if template not in content]
    if missing:
        raise ClipError(
            f"{path} must contain a weight for every template of the run",
            got=f"{len(missing)} without a weight, first {missing[0]!r}",
            fix="set the weight of unused templates to 0.",
        )
    weights = [content[template] for template in templates]
    numbers = [float(w) for w in weights if isinstance(w, (int, float)) and not isinstance(w, bool)]
    # The comparison is negated so that NaN is rejected, too.
    if len(numbers) < len(weights) or not all(w >= 0 for w in numbers):
        raise ClipError(
            f"Weights in {path} must be numbers of zero or more",
            got=repr(weights)[:80],
            fix="correct these weights.",
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


def _left_out(labels_N: Tensor) -> Iterator[Tensor]:
    """Which images (N, bool) each fold leaves out; without folds that have none or all of them."""
    fold_N = folds_of(labels_N, FIT_FOLDS)
    for fold in range(FIT_FOLDS):
        out_N = fold_N == fold
        if out_N.any() and not out_N.all():
            yield out_N


def _top1(logits_NC: Tensor, labels_N: Tensor) -> float:
    return float((logits_NC.argmax(dim=1) == labels_N).double().mean())


def _set_weights(selected: Sequence[int], count: int) -> Tensor:
    weights_P = torch.zeros(count, dtype=torch.float64)
    weights_P[list(selected)] = 1 / len(selected)
    return weights_P


def _spaced_by_class(labels_N: Tensor, most: int) -> Tensor:
    """Positions of at most ``most`` images, evenly spaced in the images sorted by class."""
    by_class_N = labels_N.argsort(stable=True)
    return by_class_N[:: -(-len(labels_N) // most)]
