"""The settings of a finished teacher, with which the teachers of its folds are trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from richkd.config.loading import load_config
from richkd.config.resumed import SETTINGS, is_run, resumed_config
from richkd.config.schema import Config
from richkd.core.checksums import SUMS, check_hashes
from richkd.core.errors import CheckpointError, ConfigError
from richkd.core.home import expanded
from richkd.core.presence import exists, is_dir, is_file
from richkd.core.structured import read_json
from richkd.core.visible import counted

# A run is finished when it has this file, and its student.
SUMMARY, STUDENT = "summary.json", "student/config.json"
REPEAT = "`richkd teach --data DIR --model NAME --out RUN` trains one"


def recipe_of(run: Path, settings: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """The settings of a finished run of a teacher, and ``settings``, which win.

    They include the weights that the run started from (``student.weights`` or ``student.pretrained``). Its
    ``out`` is not among them. Paths may have been moved together with the run; see `resumed_config`.

    Args:
        run: the run folder.
        settings: value by dotted name.

    Raises:
        CheckpointError: there is no run, or it is not finished.
        ConfigError: the run is not one of a teacher that was trained from labels on all training images;
            or see :func:`~richkd.config.loading.load_config`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Path(folder, "teacher")
        ...     for name in ("checkpoints", "student"):
        ...         (run / name).mkdir(parents=True)
        ...     text = "{data: {path: photos}, student: {name: resnet50}, method: {name: ce}, "
        ...     size = (run / SETTINGS).write_text(text + "train: {epochs: 9}}")
        ...     size = (run / SUMMARY).write_text('{"epochs": 9}')
        ...     size = (run / STUDENT).write_text("{}")
        ...     config = recipe_of(run, {"optim.lr": 0.1})
        >>> config.student.name, config.train.epochs, config.optim.lr, config.out.name
        ('resnet50', 9, 0.1, 'latest')
    """
    run = expanded(run)
    _refuse_no_run(run)
    config = resumed_config(run / SETTINGS, {})
    _refuse_unfinished(run, config)
    _refuse_other_lesson(run, config)
    recorded = config.model_dump(mode="json", exclude_none=True)
    del recorded["out"]
    return load_config(None, recorded | dict(settings))


def _refuse_no_run(run: Path) -> None:
    if is_run(run):
        return
    if is_dir(run / "fold-0"):
        got, fix = "a folder of teachers of folds", "name the run of the full teacher instead."
    elif run.name == "student" and is_run(run.parent):
        got, fix = "the student's folder of a run", f"name the run: --from {run.parent}"
    else:
        got = "a folder without a run" if is_dir(run) else "a file" if exists(run) else "no such folder"
        fix = f"name the run folder of a teacher; {REPEAT}."
    raise CheckpointError(f"--from {run} must be the folder of a finished run", got=got, fix=fix)


def _refuse_unfinished(run: Path, config: Config) -> None:
    fix = f"finish it first: richkd teach --resume --out {run}"
    check_hashes(run, (SUMMARY,), CheckpointError, f"restore the file, or remove {run / SUMS}.")
    try:
        summary = read_json(run / SUMMARY)
        epochs = summary["epochs"]
    except FileNotFoundError:
        epochs = None
    except (OSError, ValueError, LookupError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{run / SUMMARY} must hold the figures of the run", got=got, fix=fix) from None
    if epochs is None or epochs != config.train.epochs:
        done = (
            ""
            if epochs is None
            else f", and {SUMMARY} after {epochs} of {counted(config.train.epochs, 'epoch')}"
        )
        got = f"a run that is not finished: no {SUMMARY}" if epochs is None else f"a run that goes on{done}"
        raise CheckpointError(f"--from {run} must be the folder of a finished run", got=got, fix=fix)
    if not is_file(run / STUDENT):
        raise CheckpointError(
            f"--from {run} must have its student, which is the full teacher", got=f"no {STUDENT}", fix=fix
        )


def _refuse_other_lesson(run: Path, config: Config) -> None:
    """Refuse a run whose teacher saw other images than all of train, or learned from other teachers."""
    if config.data.exclude_fold is not None:
        fold, folds = config.data.exclude_fold
        raise ConfigError(
            f"--from {run} must have been trained on all training images",
            got=f"data.exclude_fold {fold} {folds}: the teacher of a fold",
            fix="name the run of the full teacher.",
        )
    teachers = [teacher.name for teacher in config.teachers] + ([config.clip.name] if config.clip else [])
    if teachers or config.method.name != "ce":
        raise ConfigError(
            f"--from {run} must have been trained from labels alone, because a teacher of it would have seen "
            "the images that a fold leaves out",
            got=f"method {config.method.name or 'richkd'}"
            + (f" from {', '.join(teachers)}" * bool(teachers)),
            fix=f"name the run of a teacher; {REPEAT}.",
        )
