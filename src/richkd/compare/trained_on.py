"""Whether first runs are trained on images that the runs with their models hold out."""

from __future__ import annotations

from collections.abc import Sequence

from richkd.compare.first import FirstRun, first_of
from richkd.compare.opened import OpenedData
from richkd.compare.problems import RunProblems
from richkd.compare.runs import PlannedRun
from richkd.core.errors import ConfigError
from richkd.core.types import UNLABELED
from richkd.data.held_out import held_out_split
from richkd.data.sources import LEFT_OUT
from richkd.data.split import Split

FIX = "give a data set with a validation split, or data.val_fraction 0 and data.test_calibration_fraction"


def check_trained_on(runs: Sequence[PlannedRun], opened: OpenedData, problems: RunProblems) -> list[str]:
    """Compare the training images of first runs with the images of the runs that have their models.

    Only runs with the same ``data.path`` are compared, because images are known by their names.

    Args:
        runs: all runs; their data and those of their first runs can be opened.
        opened: the data sets.
        problems: receives an error if a first run is trained on test images, or if out-of-fold teachers do
            not have all training images of a run.

    Returns:
        A warning for each first run that is trained on images on which other runs fit the fusion, and for
        each that is trained on labels that other runs do not have.
    """
    compared = set[tuple[str, ...]]()
    fitted, taught = dict[str, dict[str, None]](), dict[str, dict[str, None]]()
    for run in runs:
        for one in first_of(run.needs):
            key = (one.name, str(run.seed), run.config.data.model_dump_json())
            if key in compared or one.config.data.path != run.config.data.path:
                continue
            compared.add(key)
            problems.attempt(one.label, _refuse_tested, one, run, opened)
            if one.fold is None and _saw_fitted(one, run, opened):
                fitted.setdefault(one.label, {})[str(run.seed)] = None
            elif _has_more_labels(one, run, opened):
                taught.setdefault(one.label, {})[str(run.seed)] = None
        problems.attempt(run.label, _refuse_images_without_fold, run, opened)
    return [
        f"{label} is trained on images on which runs of seed {', '.join(seeds)} fit, because the seed divides"
        f" the data; {FIX}."
        for label, seeds in fitted.items()
    ] + [
        f"{label} is trained on labels that runs of seed {', '.join(seeds)} do not have; give settings of "
        "the data in base or in data."
        for label, seeds in taught.items()
    ]


def _trained(run: FirstRun, opened: OpenedData) -> set[str]:
    return set(opened.of(run.config).splits["train"].keys())


def _refuse_tested(first: FirstRun, run: PlannedRun, opened: OpenedData) -> None:
    tested = opened.of(run.config).splits[opened.evaluated].keys()
    shared = sorted(_trained(first, opened).intersection(tested))
    if shared:
        raise ConfigError(
            "A first run must not be trained on test images of the runs that have its model",
            got=f"{len(shared):,} of {len(tested):,} test images of {run.name}, first {shared[0]}",
            fix="give settings that divide the data in base or in data.",
        )


def _saw_fitted(first: FirstRun, run: PlannedRun, opened: OpenedData) -> bool:
    """Whether a first run is trained on images on which another run fits."""
    splits = opened.of(run.config).splits
    name = held_out_split(splits)
    return name is not None and bool(_trained(first, opened).intersection(splits[name].keys()))


def _has_more_labels(first: FirstRun, run: PlannedRun, opened: OpenedData) -> bool:
    """Whether a first run is trained on labels that another run does not have."""
    theirs, ours = (opened.of(config).splits["train"] for config in (first.config, run.config))
    return bool(_labeled(theirs) - _labeled(ours))


def _refuse_images_without_fold(run: PlannedRun, opened: OpenedData) -> None:
    """Refuse out-of-fold teachers that were all trained on a training image of a run."""
    folds: dict[str, list[FirstRun]] = {}
    for one in run.needs:
        if one.fold is not None and one.config.data.path == run.config.data.path:
            folds.setdefault(one.model, []).append(one)
    labeled = _labeled(opened.of(run.config).splits["train"])
    for members in folds.values():
        left_out = [key for one in members for key in _left_out(one, opened)]
        missing = sorted(labeled.difference(left_out))
        if missing:
            raise ConfigError(
                "For each labeled training image, an out-of-fold teacher must be trained without it "
                f"({members[0].label})",
                got=f"{len(missing):,} images of seed {run.seed} without such a teacher, first {missing[0]}",
                fix=f"{FIX}.",
            )


def _left_out(run: FirstRun, opened: OpenedData) -> list[str]:
    splits = opened.of(run.config).splits
    return splits[LEFT_OUT].keys() if LEFT_OUT in splits else []


def _labeled(split: Split) -> set[str]:
    labels = split.labels_N.tolist()
    return {key for key, label in zip(split.keys(), labels, strict=True) if label != UNLABELED}
