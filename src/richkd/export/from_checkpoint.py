"""The student in a checkpoint of a run, for runs that are not finished or whose best epoch is wanted.

A checkpoint holds tensors by name. Which network they belong to is in ``student.json`` in the same folder, in
the form of a student's ``config.json``, so that neither data nor teachers are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from richkd.core.checkpoint_file import UNREADABLE, Checkpoint, previous_of, read_checkpoint
from richkd.core.checksums import SUMS, check_hashes
from richkd.core.errors import CheckpointError
from richkd.core.presence import is_dir, is_file, stat_error
from richkd.core.structured import read_json, read_yaml
from richkd.core.visible import counted
from richkd.models.build import Network

Which = Literal["best", "last"]
DESCRIPTION, FOLDER, SUFFIX = "student.json", "checkpoints", ".ckpt"


def describe_network(network: Network, class_names: Sequence[str], steps_per_epoch: int) -> dict[str, Any]:
    """The content of ``student.json``."""
    return {
        "architecture": network.blueprint.architecture,
        "label_names": list(class_names),
        "pretrained_cfg": pretrained_cfg_of(network),
        "model_args": dict(network.blueprint.args),
        "steps_per_epoch": steps_per_epoch,
    }


def pretrained_cfg_of(network: Network) -> dict[str, Any]:
    """How a network's images are prepared, as the ``pretrained_cfg`` of timm.

    Example:
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8", size=16), 2, role="student")
        >>> cfg = pretrained_cfg_of(network)
        >>> cfg["input_size"], cfg["interpolation"], cfg["crop_mode"]
        ((3, 16, 16), 'bicubic', 'center')
    """
    framing = network.framing
    return {
        "input_size": (3, network.size, network.size),
        "mean": tuple(network.mean),
        "std": tuple(network.std),
        "interpolation": framing.interpolation,
        "crop_pct": framing.crop_pct,
        "crop_mode": framing.crop_mode,
    }


def find_checkpoint(model: Path, which: Which | None) -> Path | None:
    """The checkpoint that a model means; None for the folder of a student.

    Args:
        model: a checkpoint, a run folder, or the folder ``student/`` in it.
        which: the checkpoint of a run; None for its student, or its last checkpoint if it has no student.

    Raises:
        CheckpointError: there is no such checkpoint.

    Example:
        >>> find_checkpoint(Path("runs/small/checkpoints/best.ckpt"), None).name
        'best.ckpt'
    """
    if model.suffix == SUFFIX and not is_dir(model):
        if which is not None:
            raise CheckpointError(
                f"--checkpoint {which} needs the folder of a run",
                got=f"the checkpoint {model}",
                fix="give one of both.",
            )
        return model
    run = model.parent if which and model.name == "student" and is_dir(model.parent / FOLDER) else model
    # A student that may not be looked at is not replaced by a checkpoint.
    students = [run / place / "config.json" for place in (".", "student")]
    complete = any(is_file(file) or stat_error(file) for file in students)
    unfinished = not complete and (is_dir(run / FOLDER) or is_file(run / "config.yaml"))
    if which is None and not unfinished:
        return None
    path = run / FOLDER / f"{which or 'last'}{SUFFIX}"
    if not any(is_file(file) for file in (path, previous_of(path))):
        raise _no_checkpoint(run, which)
    return path


def read_student_checkpoint(path: Path) -> tuple[dict[str, Any], Checkpoint, Path, str]:
    """The description of a network, the checkpoint with its tensors, its file, and a text that describes it.

    If the file is missing or damaged, the checkpoint before it is read.

    Raises:
        CheckpointError: no checkpoint, or no description of its network, can be read, or the description is
            not as it was written.
    """
    run, name = path.parent.parent, f"{path.parent.name}/{DESCRIPTION}"
    check_hashes(run, (name,), CheckpointError, fix=f"restore it; to accept a change, remove {run / SUMS}.")
    try:
        description = read_json(path.parent / DESCRIPTION)
        if (steps := int(description["steps_per_epoch"])) < 1:
            raise ValueError(f"{steps} steps in an epoch")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path.parent / DESCRIPTION} must describe the network of the checkpoints",
            got=f"{type(error).__name__}: {error}",
            fix="give a checkpoint in the folder checkpoints/ of a run.",
        ) from None
    problems = []
    for file in (path, previous_of(path)):
        try:
            checkpoint = read_checkpoint(file)
        except UNREADABLE as error:
            problems.append(f"{file.name}: {error}")
            continue
        step = int(checkpoint.scalars["step"])
        epochs, rest = divmod(step, steps)
        done = f"after epoch {epochs}" + (f" and {rest} of {steps} steps" if rest else "")
        return description, checkpoint, file, f"{file}, {done} (step {step})"
    raise CheckpointError(
        f"The checkpoint {path} must be readable", got="; ".join(problems), fix="give another checkpoint."
    )


def note_of_longer_run(run: Path) -> str | None:
    """What is to be known of the student of a finished run that is being lengthened; None for others.

    Example:
        >>> note_of_longer_run(Path("nowhere")) is None
        True
    """
    try:
        made = read_json(run / "summary.json")["epochs"]
        planned = read_yaml(run / "config.yaml")["train"]["epochs"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if made == planned:
        return None
    resumed = f"the run is being resumed for {planned} (--checkpoint last)"
    return f"{run / 'student'}, after {counted(made, 'epoch')}; {resumed}"


def _no_checkpoint(run: Path, which: Which | None) -> CheckpointError:
    if (reason := stat_error(run / FOLDER / DESCRIPTION)) is not None:
        return CheckpointError(
            f"The checkpoints in {run / FOLDER} must be readable",
            got=reason,
            fix="check the path and its permissions.",
        )
    existing = sorted(file.stem for file in (run / FOLDER).glob(f"*{SUFFIX}")) if is_dir(run) else []
    if which == "best" and existing:
        return CheckpointError(
            f"The run {run} has no best checkpoint, because no validation was done yet",
            got=", ".join(existing),
            fix="use --checkpoint last.",
        )
    if is_file(run / "student" / "config.json"):
        return CheckpointError(
            f"The run {run} has no checkpoint any more", got="a student", fix="omit --checkpoint."
        )
    if not is_dir(run / FOLDER) and not is_file(run / "config.yaml"):
        return CheckpointError(
            f"--checkpoint {which} needs the folder of a run; {run} is not one",
            got="no checkpoints/ in it",
            fix="give the --out folder of a run.",
        )
    return CheckpointError(
        f"The run {run} has no checkpoint yet",
        got=", ".join(existing) or "no file in checkpoints/",
        fix="wait for the end of the first epoch, or use --train.save_every in the next run.",
    )
