"""What an evaluation is about: images, models and options, all opened and checked before any computation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from richkd.config.schema import EvaluateConfig
from richkd.core.device import pick_device
from richkd.core.errors import ConfigError, DataError, Problems, nearest
from richkd.core.presence import is_dir
from richkd.core.visible import counted
from richkd.data.columns import Columns
from richkd.data.digests import digests_of
from richkd.data.hierarchy import Hierarchy, superclasses_of
from richkd.data.sources import columns_of, open_data
from richkd.data.split import Data, Split
from richkd.evaluate.artifacts import ArtifactPredictor, open_artifact
from richkd.evaluate.corruptions.corrupt import GROUPS, TEST
from richkd.evaluate.corruptions.stores import published_stores
from richkd.evaluate.given_models import GivenModel, given_models
from richkd.evaluate.models import open_network, open_teachers
from richkd.evaluate.predictors import NetworkPredictor, Predictor
from richkd.evaluate.shift import open_shift
from richkd.export.format import format_of
from richkd.export.from_checkpoint import Which
from richkd.export.own_data import as_trained, run_of
from richkd.export.places import folder_of
from richkd.pipeline.assemble import Parts
from richkd.pipeline.seen_images import Seen, seen_by


@dataclass(frozen=True)
class Subjects:
    """The images and the models of an evaluation; made by `open_subjects`.

    Attributes:
        data: the data set.
        split: the images on which the models are evaluated.
        networks: the given models.
        predictors: ``networks``, then the teachers.
        parts: the parts of the first run if its teachers are evaluated, else None.
        hierarchy: superclasses; None if there are none.
        shifts: shifted images by name.
        device: where the networks are.
    """

    data: Data
    split: Split
    networks: list[NetworkPredictor | ArtifactPredictor]
    predictors: list[Predictor]
    parts: Parts | None
    hierarchy: Hierarchy | None
    shifts: dict[str, Split]
    device: torch.device


def open_subjects(
    models: Sequence[str],
    data: str,
    config: EvaluateConfig,
    weights: str | Path | None = None,
    checkpoint: Which | None = None,
) -> Subjects:
    """Open everything that an evaluation needs.

    Args:
        models: folders of students or runs, artifacts, and networks as NAME=CHECKPOINT.
        data: folder, list, parquet files, tar files or hub name of the images.
        config: what is measured.
        weights: checkpoint of the only model, which is then the name of a network.
        checkpoint: the checkpoint of runs to evaluate, instead of their students.

    Raises:
        RichKDError: the data cannot be opened; or all other problems together: a split, model, teacher,
            hierarchy, folder of shifted images or published file that does not exist or does not fit, or a
            model that was trained or fitted on some of the images.
    """
    given = given_models(models, weights)
    if checkpoint is not None and all(one.weights is not None for one in given):
        raise ConfigError(
            f"--checkpoint {checkpoint} needs the folder of a run",
            got=", ".join(map(str, models)),
            fix="omit it for networks with a file of weights.",
        )
    first, device = given[0].model, pick_device(config.device)
    problems = Problems()
    result = problems.attempt(_open_images, first, data, config)
    if result is None:
        # Classes cannot be compared without the data; missing folders are found anyway.
        _open_shifts(problems, config, None, Columns(label=config.label_column))
        problems.refuse_all()
    assert result is not None
    opened, columns = result
    split = problems.attempt(_split_of, opened, data, config.split)
    networks = [problems.attempt(_open_model, one, opened, data, device, checkpoint) for one in given]
    teachers = problems.attempt(_open_teachers, first, data, device) if config.teachers else None
    hierarchy = problems.attempt(superclasses_of, opened.class_names, config.hierarchy)
    shifts = _open_shifts(problems, config, opened, columns)
    if split is not None:
        for one, network in zip(given, networks, strict=True):
            if network is not None:
                problems.attempt(_refuse_seen, one, split, shifts)
    if config.cifar_c is not None and split is not None:
        for name in corruptions_of(config):
            problems.attempt(published_stores, config.cifar_c, name, split)
    opened_networks = [network for network in networks if network is not None]
    predictors: list[Predictor] = [*opened_networks, *([] if teachers is None else [teachers[0]])]
    problems.attempt(_refuse_equal_names, [name for one in predictors for name in one.names])
    problems.refuse_all()
    assert split is not None
    parts = None if teachers is None else teachers[1]
    return Subjects(opened, split, opened_networks, predictors, parts, hierarchy, shifts, device)


def _open_shifts(
    problems: Problems, config: EvaluateConfig, data: Data | None, columns: Columns
) -> dict[str, Split]:
    class_names, source_names = (None, ()) if data is None else (data.class_names, data.source_names)
    opened = {
        name: problems.attempt(open_shift, path, class_names, columns, source_names)
        for name, path in config.shift.items()
    }
    return {name: split for name, split in opened.items() if split is not None}


def _open_teachers(model: str, data: str, device: torch.device) -> tuple[Predictor, Parts]:
    return open_teachers(run_of(folder_of(model)), data, device)


def _open_model(
    given: GivenModel, opened: Data, data: str, device: torch.device, checkpoint: Which | None
) -> NetworkPredictor | ArtifactPredictor:
    model, weights = given.model, given.weights
    if weights is not None or format_of(model) is None or is_dir(model):
        predictor = open_network(model, weights, opened, data, device, checkpoint=checkpoint)
        return replace(predictor, name=given.name)
    if checkpoint is not None:
        raise ConfigError(
            f"--checkpoint {checkpoint} needs the folder of a run",
            got=f"the artifact {model}",
            fix="evaluate the artifact without it.",
        )
    return open_artifact(model, opened, data)


def corruptions_of(config: EvaluateConfig) -> tuple[str, ...]:
    """Names of the corruptions that the settings ask for; published files are of the 15 test corruptions.

    Example:
        >>> len(corruptions_of(EvaluateConfig())), len(corruptions_of(EvaluateConfig(corruptions=True)))
        (0, 15)
    """
    names = selected_corruptions(test=config.corruptions, validation=config.validation_corruptions)
    return names or (TEST if config.cifar_c is not None else ())


def selected_corruptions(*, test: bool, validation: bool) -> tuple[str, ...]:
    """Names of the 15 test corruptions, of the 4 validation corruptions (reserved for tuning), or of both.

    Example:
        >>> len(selected_corruptions(test=True, validation=False))
        15
        >>> len(selected_corruptions(test=False, validation=True))
        4
    """
    return (*(TEST if test else ()), *(GROUPS["validation"] if validation else ()))


def _open_images(model: str, data: str, config: EvaluateConfig) -> tuple[Data, Columns]:
    """The data, and the columns that their settings name."""
    settings, seed = as_trained(folder_of(model), data)
    names = ("label_column", "nested_classes", "test_calibration_fraction")
    changes = {name: getattr(config, name) for name in names}
    changes = {name: value for name, value in changes.items() if value is not None}
    settings = settings.model_copy(update=changes)
    return open_data(settings, seed), columns_of(settings)


def _split_of(opened: Data, data: str, name: str) -> Split:
    if name not in opened.splits:
        raise DataError(
            f"{data} has no split '{name}'",
            got=f"splits {', '.join(opened.splits)}",
            fix=nearest(name, opened.splits, f"They are {', '.join(opened.splits)}."),
        )
    return opened.splits[name]


def _refuse_seen(given: GivenModel, split: Split, shifts: Mapping[str, Split]) -> None:
    """Refuse a model whose run has some of the images in another split: it was trained or fitted on them."""
    model = given.name
    seen = seen_by(given.weights or folder_of(given.model))
    if seen is None:
        return
    fix = (
        "evaluate each alone; or train both with the same --seed and settings of the data, or with data that "
        "have a test split of their own."
    )
    _refuse_images(model, seen, split, seen.other_than(split), split.name, fix)
    # Shifted images may be images of the evaluated split, or of the test split.
    learned = [name for name in seen.splits if name not in (split.name, "test")]
    for name, images in shifts.items():
        positions = np.flatnonzero(seen.holds(digests_of(images, hashed=True), split.name, learned))
        fix = f"give images to --shift {name} that the run was not trained or fitted on."
        _refuse_images(model, seen, images, positions, f"--shift {name}", fix)


def _refuse_images(
    model: str, seen: Seen, images: Split, positions: NDArray[np.intp], what: str, fix: str
) -> None:
    if len(positions):
        raise DataError(
            f"{model} must not be evaluated on images that it was trained or fitted on",
            got=f"{len(positions):,} of {counted(len(images), 'image')} of {what}, first "
            f"{images.key(int(positions[0]))}, are in another split of {seen.run}",
            fix=fix,
        )


def _refuse_equal_names(names: Sequence[str]) -> None:
    """Refuse a model that is called like a teacher of the first run, or like their fusion."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(
            "Models and teachers that are evaluated together must have different names",
            got=f"{', '.join(twice)} twice",
            fix="leave out --teachers, which evaluates the teachers of the first run, or rename the folder.",
        )
