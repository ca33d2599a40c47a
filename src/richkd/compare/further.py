"""Figures of a run beyond accuracy and calibration: probabilities of wrong classes, and corrupted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from richkd.compare.logits import StoredLogits
from richkd.data.hierarchy import Hierarchy, superclasses_of
from richkd.metrics.seeds import DIFFERENCE, FRACTION, OverSeeds, Range, summarize_seeds
from richkd.metrics.semantics import superclass_auroc


@dataclass(frozen=True)
class Further:
    """Further figures of a run.

    Attributes:
        superclass_auroc: how well the probabilities of an image's wrong classes distinguish those of its
            superclass from others; None without superclasses.
        corrupted_error: mean error rate on corrupted test images; None if it was not measured.
    """

    superclass_auroc: float | None = None
    corrupted_error: float | None = None


NOTHING = Further()


def further_figures(
    logits: Mapping[str, StoredLogits], hierarchy: Path | None, corrupted: Mapping[str, float]
) -> dict[str, Further]:
    """The further figures of each run, by its name.

    Args:
        logits: test logits of finished runs.
        hierarchy: the file of superclasses; None for those that are built in, if these are the classes.
        corrupted: mean error rates on corrupted images, by run.

    Raises:
        ClassError: the file cannot be read, or does not have the classes of a run.
    """
    known: dict[tuple[str, ...], Hierarchy | None] = {}
    result = {}
    for name, output in logits.items():
        if output.classes not in known:
            known[output.classes] = superclasses_of(output.classes, hierarchy)
        tree = known[output.classes]
        probs_NC = output.logits_NC.double().softmax(dim=1)
        auroc = None if tree is None else superclass_auroc(probs_NC, output.labels_N, tree)
        result[name] = Further(auroc, corrupted.get(name))
    return result


def over_known(values: Sequence[float | None], possible: Range = FRACTION) -> OverSeeds | None:
    """A figure over seeds; None if a run does not have it.

    Args:
        values: the figure of each run.
        possible: the values that it can have.

    Example:
        >>> over_known([0.5, None]) is None, over_known([0.5, 0.7]).mean
        (True, 0.6)
    """
    known = [value for value in values if value is not None]
    return summarize_seeds(known, possible=possible) if known and len(known) == len(values) else None


def corrupted_difference(ours: Mapping[int, Further], theirs: Mapping[int, Further]) -> OverSeeds | None:
    """Difference of the errors on corrupted images, by seed; None without common seeds.

    Example:
        >>> difference = corrupted_difference({0: Further(None, 0.5)}, {0: Further(None, 0.4)})
        >>> round(difference.mean, 6)
        0.1
    """
    pairs = [
        (ours[seed].corrupted_error, theirs[seed].corrupted_error) for seed in sorted(ours.keys() & theirs)
    ]
    return over_known([None if a is None or b is None else a - b for a, b in pairs], DIFFERENCE)
