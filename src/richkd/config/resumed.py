"""The settings of a run that is resumed: found in its folder, with paths that follow a moved run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from richkd.config.listing import section_type
from richkd.config.loading import load_config
from richkd.config.marks import WhenResumed, flattened, without_numbers
from richkd.config.model_name import parse_model_name
from richkd.config.schema import REST, Config, Section
from richkd.core.errors import CheckpointError
from richkd.core.home import expanded
from richkd.core.presence import exists, is_dir, is_file
from richkd.core.structured import read_json, read_yaml

SETTINGS, INPUTS = "config.yaml", "inputs.json"
CHECKPOINTS = "checkpoints"
# Kinds of model names that hold a path.
PATH_KINDS = ("local-dir", "folds", "outputs")
# The setting whose value can be `REST`, which is no path.
UNLABELED_SOURCE = "data.unlabeled"
# Folders that a run writes to, besides its own.
CACHES = ("cache.dir", "clip.cache")


def mark_of(dotted: str) -> WhenResumed | None:
    """The mark of a setting; None if it must be the same when a run is resumed.

    Example:
        >>> mark_of("train.workers").name, mark_of("teachers.2.weights").name, mark_of("optim.lr")
        ('FREE', 'FILES', None)
    """
    return dict(_marks()).get(without_numbers(dotted))


def default_of(dotted: str) -> object:
    """The default of a setting, as it is written in a recipe; None if it has none.

    Example:
        >>> default_of("train.batch_size"), default_of("fusion.entropy"), default_of("teachers.2.pretrained")
        (64, 'own', False)
    """
    section: type[Section] | None = Config
    default: object = None
    for part in without_numbers(dotted).split("."):
        field = None if section is None else section.model_fields.get(part)
        if field is None:
            return None
        section = section_type(field, items=True)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
    return to_jsonable_python(default)


def path_of(dotted: str, value: object) -> tuple[str, Path] | None:
    """The path in the value of a marked setting, after a prefix such as ``local-dir:``; None if it has none.

    Example:
        >>> path_of("teachers.1.name", "local-dir:runs/teacher/student")
        ('local-dir:', PosixPath('runs/teacher/student'))
        >>> path_of("student.name", "resnet18") is None, path_of("data.unlabeled", "rest") is None
        (True, True)
    """
    if not isinstance(value, str) or not value or (dotted == UNLABELED_SOURCE and value == REST):
        return None
    if not dotted.endswith(".name"):
        return "", Path(value)
    name = parse_model_name(value)
    return (f"{name.kind}:", Path(name.value)) if name.kind in PATH_KINDS else None


def resumed_config(recipe: Path | None, settings: Mapping[str, Any]) -> Config:
    """The settings with which a run is resumed.

    Without a recipe, they are those in the run folder, which is ``out``, the current folder or the default
    ``out``. A recipe that is the ``config.yaml`` of a run stands for this run, wherever that was moved to.
    ``settings`` win. A path that does not exist (any more) is looked for beside the recipe, and at the place
    that it had relative to the run folder.

    Raises:
        ConfigError: see :func:`~richkd.config.loading.load_config`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Path(folder, "moved")
        ...     (run / CHECKPOINTS).mkdir(parents=True)
        ...     text = "data: {path: photos}\\nstudent: {name: resnet18}\\nout: runs/small"
        ...     size = (run / SETTINGS).write_text(text)
        ...     config = resumed_config(None, {"out": str(run), "train.epochs": 30})
        >>> config.student.name, config.train.epochs, config.out.name
        ('resnet18', 30, 'moved')
    """
    settings = dict(settings)
    if recipe is None:
        default = Path() if is_run(Path()) else Config.model_fields["out"].default
        run = Path(settings.get("out") or default)
        if is_run(run):
            recipe = run / SETTINGS
    if recipe is not None and recipe.name == SETTINGS and is_run(recipe.parent):
        settings.setdefault("out", str(recipe.parent if recipe.parent != Path() else Path.cwd()))
    config = load_config(recipe, settings)
    return _relocated(config, None if recipe is None else recipe.parent)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, which may have been killed before its first checkpoint.

    Example:
        >>> is_run(Path("nowhere"))
        False
    """
    return is_file(folder / SETTINGS) and is_dir(folder / CHECKPOINTS)


def recorded_inputs(run: Path) -> dict[str, Any]:
    """The record of what a run read (``inputs.json``); empty if there is none, or if it is damaged.

    Example:
        >>> recorded_inputs(Path("nowhere"))
        {}
    """
    try:
        recorded = read_json(run / INPUTS)
    except (OSError, ValueError):
        return {}
    return recorded if isinstance(recorded, dict) else {}


def damaged_inputs(got: str) -> CheckpointError:
    """The error to raise if ``inputs.json`` has another form than a run writes.

    Example:
        >>> print(damaged_inputs("KeyError: 'classes'").rule)
        inputs.json of the run must be as the run wrote it
    """
    return CheckpointError(
        f"{INPUTS} of the run must be as the run wrote it",
        got=got,
        fix="restore it, or remove it to resume the run without comparing images and files.",
    )


def _marks() -> Iterator[tuple[str, WhenResumed]]:
    for name, field in Config.model_fields.items():
        section = section_type(field, items=True)
        fields = (
            {name: field}
            if section is None
            else {f"{name}.{inner}": f for inner, f in section.model_fields.items()}
        )
        for dotted, inner_field in fields.items():
            for mark in inner_field.metadata:
                if isinstance(mark, WhenResumed):
                    yield dotted, mark


def _relocated(config: Config, folder: Path | None) -> Config:
    """The same settings with paths that exist, where those that were given do not."""
    run = config.out
    recorded = recorded_inputs(run).get("files")
    files = recorded if isinstance(recorded, dict) else {}
    old_run = _recorded_out(run)
    changes: dict[str, str] = {}
    for dotted, value in flattened(config.model_dump(mode="json")):
        mark, place = mark_of(dotted), path_of(dotted, value)
        known = dotted in files or dotted in CACHES or mark is WhenResumed.IMAGES
        if place is None or not known:
            continue
        prefix, path = place
        candidates = [] if folder is None or path.is_absolute() else [folder / path]
        if old_run is not None:
            candidates.append(Path(os.path.normpath(run / os.path.relpath(expanded(path), old_run))))
        existing = [candidate for candidate in candidates if exists(candidate)]
        if existing and not exists(expanded(path)):
            changes[dotted] = f"{prefix}{existing[0]}"
    return load_config(None, config.model_dump(mode="json") | changes) if changes else config


def _recorded_out(run: Path) -> Path | None:
    """Where the run folder was when the run began."""
    try:
        recorded = read_yaml(run / SETTINGS)
        return Path(recorded["out"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
