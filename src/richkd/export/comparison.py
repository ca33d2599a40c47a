"""Compare an artifact with its student, picture by picture, and refuse one that differs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from richkd.core.errors import ModelError
from richkd.export.artifact import Artifact, Classifier
from richkd.export.pictures import Pictures, generated_pictures
from richkd.export.student import BATCH
from richkd.metrics.accuracy import Metrics, agreement, measure
from richkd.metrics.checks import Figures

# A smaller probability has no finite logarithm.
LEAST = 1e-38


@dataclass(frozen=True)
class ArtifactComparison(Figures):
    """How closely an artifact follows its student; made by `compare_with_student`.

    Attributes:
        images: number of pictures.
        source: where they are from.
        agreement: share of the pictures with the same most probable class, in [0, 1].
        max_difference: largest difference of a probability.
        mean_difference: mean difference of a probability, over pictures and classes.
        student: accuracy, likelihood and calibration error of the student; None without labels.
        artifact: those of the artifact; None without labels.
    """

    images: int
    source: str
    agreement: float
    max_difference: float
    mean_difference: float
    student: Metrics | None = None
    artifact: Metrics | None = None


def compare_with_student(student: Classifier, artifact: Classifier, pictures: Pictures) -> ArtifactComparison:
    """Compare the probabilities of an artifact with those of its student on the same pictures.

    Raises:
        DataError: a picture cannot be read.
        NonFiniteError: outputs are NaN or infinite.
        ModelError: the artifact fails.
    """
    ours_NC, theirs_NC = probabilities_of([student, artifact], pictures)
    difference_NC = (ours_NC.double() - theirs_NC.double()).abs()
    ours, theirs = (_metrics(probs_NC, pictures.labels_N) for probs_NC in (ours_NC, theirs_NC))
    return ArtifactComparison(
        len(pictures),
        pictures.source,
        agreement(ours_NC, theirs_NC),
        float(difference_NC.max()),
        float(difference_NC.mean()),
        ours,
        theirs,
    )


def probabilities_of(models: list[Classifier], pictures: Pictures) -> list[Tensor]:
    """Probabilities (N, C) of each model; every picture is decoded once."""
    parts: list[list[Tensor]] = [[] for _ in models]
    for images in pictures.parts(BATCH):
        for model, results in zip(models, parts, strict=True):
            results.append(model.probabilities(images))
    return [torch.cat(results) for results in parts]


def refuse_difference(
    student: Classifier, artifact: Artifact, comparison: ArtifactComparison, tolerance: float
) -> None:
    """Refuse an artifact whose probabilities differ from the student's by more than a tolerance.

    Besides the comparison on pictures, generated ones of several sizes, and three of the same size in one
    batch, are compared: the files of a data set often have one size, and are read one at a time.

    Raises:
        ModelError: the difference, and where it was found.
    """
    differences = {f"on {comparison.source}": comparison.max_difference}
    generated = generated_pictures()
    sizes = compare_with_student(student, artifact, generated)
    differences[f"on {sizes.source} of several sizes"] = sizes.max_difference
    differences["in a batch of three"] = batch_difference(artifact)
    worst = max(differences, key=lambda where: differences[where])
    # NaN is no number that is at most the tolerance.
    if not differences[worst] <= tolerance:
        raise ModelError(
            f"Probabilities of the artifact must be within {tolerance:g} of the student's (--tolerance)",
            got=f"a difference of {differences[worst]:.2g} {worst}; nothing was written",
            fix="export to another format, or accept the difference with a larger --tolerance.",
        )


def refuse_batch(artifact: Artifact, tolerance: float) -> None:
    """Refuse a quantized artifact that cannot compute a batch; its accuracy is measured elsewhere.

    Raises:
        ModelError: probabilities in a batch differ from those of single pictures.
    """
    if not (difference := batch_difference(artifact)) <= tolerance:
        raise ModelError(
            f"Probabilities in a batch must be within {tolerance:g} of those of each picture (--tolerance)",
            got=f"a difference of {difference:.2g}; nothing was written",
            fix="export without --int8.",
        )


def batch_difference(artifact: Artifact) -> float:
    """The difference between three pictures of one size in one batch, and each of them alone."""
    same = [image.resize((40, 30)) for image in next(generated_pictures().parts(3))]
    alone = torch.cat([artifact.probabilities([image]) for image in same])
    return float((artifact.probabilities(same) - alone).abs().max())


def _metrics(probs_NC: Tensor, labels_N: Tensor | None) -> Metrics | None:
    if labels_N is None:
        return None
    return measure(probs_NC.clamp(min=LEAST).log(), labels_N)
