"""What teachers of folds may start from: a full teacher's recipe, but no weights that saw their folds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from richkd.config.model_name import parse_model_name
from richkd.config.resumed import recorded_inputs
from richkd.config.schema import Config, ModelConfig
from richkd.core.checksums import hash_file
from richkd.core.errors import CheckpointError, ClassError, ConfigError, DataError
from richkd.core.home import expanded
from richkd.core.logs import Log
from richkd.core.presence import resolved
from richkd.core.structured import read_json
from richkd.core.tensor_files import read_tensors
from richkd.data.classes import check_same_classes
from richkd.data.digests import changed_images, decoded, digests_of
from richkd.data.split import Data
from richkd.models.saved import CONFIG, WEIGHTS, check_saved
from richkd.pipeline.assemble import build_student
from richkd.pipeline.seen_images import run_around
from richkd.training.inputs import labels_digest, note_on_comparison


def refuse_other_data(data: Data, full: Path, log: Log) -> None:
    """Check that a full teacher was trained on the training images that are divided into folds.

    Args:
        data: the data set, without a fold that is left out.
        full: the run folder of the full teacher.
        log: receives a warning if the run has no record of its images.

    Raises:
        ModelError: its student is damaged.
        ClassError: it has other classes, or another number of them.
        DataError: it was trained on other images, or with other labels.
    """
    check_saved(full / "student")
    names = _class_names(full)
    if names is not None and len(names) != len(data.class_names):
        raise ClassError(
            f"--from {full} must have the classes of {data.path}",
            got=f"a teacher of {len(names)} classes for data with {len(data.class_names)}",
            fix="name a teacher that was trained on these data, or leave out --data.",
        )
    if names is not None:
        check_same_classes(data.class_names, names, where=f"--from {full}")
    difference = _difference(data, full)
    if difference is None:
        log(
            f"warning: {full} has no record of its images, so they are not compared with those of {data.path}"
        )
    elif difference:
        raise DataError(
            f"--from {full} must have been trained on the training images of {data.path}, which are divided "
            "into folds",
            got=difference,
            fix="leave out the settings of the data and the seed, or first train a full teacher with them.",
        )


def refuse_leaking_start(config: Config, data: Data, full: Path | None) -> None:
    """Refuse starting weights that were trained on images of the folds, whose labels they remember.

    They are found by the run folder that they lie in, whose record names its training images. Copies of the
    full teacher are found by their content.

    Args:
        config: the settings of the teachers of folds.
        data: the data set, without a fold that is left out.
        full: the run folder of the full teacher, if it is known.

    Raises:
        ConfigError: the weights were trained on images of the folds.
    """
    for setting, file in _starts(config.student):
        run = run_around(file)
        if run is not None and ((full is not None and run == resolved(full)) or _saw(run, data)):
            raise _leak(f"{setting} {file}, of the run {run}, which was trained on these images")
        if full is not None and _is_copy(file, full):
            raise _leak(f"{setting} {file}, whose content is that of a file in {full}")
    if full is not None and _has_weights_of(config, data, full):
        raise _leak(f"student.name {config.student.name} with the weights of {full / 'student'}")


def _leak(got: str) -> ConfigError:
    return ConfigError(
        "Teachers of folds must not start from weights that were trained on the images that they leave out: "
        "such weights have learned the labels of these images, and targets that are meant to be out of fold "
        "would contain them",
        got=got,
        fix="start from what the full teacher started from: --from RUN without --model, --weights, "
        "--student.name and --student.weights.",
    )


def _starts(student: ModelConfig) -> Iterator[tuple[str, Path]]:
    """Files of weights that the settings of a student name, each with its setting."""
    name = parse_model_name(student.name)
    if name.kind == "local-dir":
        yield "student.name", name.path / WEIGHTS
    if student.weights is not None:
        yield "student.weights", expanded(student.weights)


def _saw(run: Path, data: Data) -> bool:
    """Whether a run was trained on a training image of these data."""
    recorded = recorded_inputs(run)
    try:
        then_N, hashed = decoded(recorded["splits"]["train"]), bool(recorded["hashed"])
    except (LookupError, TypeError, ValueError):
        # A run without a record of its images is suspected.
        return True
    return bool(np.isin(digests_of(data.splits["train"], hashed=hashed), then_N).any())


def _is_copy(file: Path, full: Path) -> bool:
    originals = [*(full / "student").glob("*.safetensors"), *(full / "checkpoints").glob("*.ckpt")]
    sizes = {original: original.stat().st_size for original in originals}
    if not file.is_file() or file.stat().st_size not in sizes.values():
        return False
    digest = hash_file(file)
    return any(digest == hash_file(o) for o, size in sizes.items() if size == file.stat().st_size)


def _has_weights_of(config: Config, data: Data, full: Path) -> bool:
    """Whether most matrices of the untrained network are those of the full teacher.

    Training changes every matrix that has a gradient; vectors such as biases can stay zero.
    """
    start = build_student(config, data).model.state_dict()
    trained, _ = read_tensors(full / "student" / WEIGHTS)
    same = [
        torch.equal(tensor.cpu(), trained[name])
        for name, tensor in start.items()
        if tensor.ndim > 1 and name in trained and tensor.dtype == trained[name].dtype
    ]
    return sum(same) > len(same) / 2


def _class_names(full: Path) -> list[str] | None:
    try:
        names = read_json(full / "student" / CONFIG)["label_names"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _difference(data: Data, full: Path) -> str | None:
    """How the training images differ from those of a run; "" if not at all, None if it has no record."""
    recorded, training = recorded_inputs(full), data.splits["train"]
    if "splits" not in recorded:
        return None
    try:
        then, hashed = recorded["splits"]["train"], bool(recorded["hashed"])
        then_N, labels = decoded(then), then["labels"]
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"inputs.json of --from {full} must be as the run wrote it",
            got=f"{type(error).__name__}: {error}",
            fix="restore it, or remove it to skip the comparison of images.",
        ) from None
    text = changed_images(training, then_N, digests_of(training, hashed=hashed))
    if text:
        return text + note_on_comparison(hashed)
    return "" if labels == labels_digest(training) else "other labels of train"
