"""Whether a run is resumed with the settings that it was started with.

Settings are compared by their marks (`richkd.config.marks`): some may differ, those that name files or images
are compared by content, and all others must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from richkd.config.marks import WhenResumed, flattened
from richkd.config.model_name import parse_model_name, tag_and_file
from richkd.config.resumed import (
    INPUTS,
    SETTINGS,
    UNLABELED_SOURCE,
    damaged_inputs,
    default_of,
    mark_of,
    recorded_inputs,
)
from richkd.config.schema import REST, Config
from richkd.core.errors import CheckpointError
from richkd.core.structured import parse_yaml, read_yaml
from richkd.core.visible import one_line
from richkd.pipeline.named_files import Hashes, refuse_changed_files

# Number of differences that an error message lists.
NAMED = 3


def refuse_other_settings(
    run: Path, config: Config, *, same_length: bool = False, same_files: bool = True
) -> None:
    """Refuse to resume a run with other settings or other files than it was started with.

    Images are compared later, when the data are open, and ``train.epochs`` with the checkpoint.

    Args:
        run: the run folder.
        config: the settings.
        same_length: also compare ``train.epochs``, for a run that has no checkpoint yet.
        same_files: also compare the files that settings name; not if some of them are to be made first.

    Raises:
        CheckpointError: a setting differs, or the files that it names do; or ``config.yaml`` cannot be read.
    """
    was, now = _settings_of(run), dict(flattened(parse_yaml(config.to_yaml())))
    recorded = recorded_inputs(run)
    by_text = {None, WhenResumed.FILES} | (set() if "splits" in recorded else {WhenResumed.IMAGES})
    by_text |= {WhenResumed.LENGTH} if same_length else set()
    files = _files_of(recorded)
    others = [
        f"{name} {now.get(name)} where the run has {was.get(name)}"
        for name in sorted(was.keys() | now.keys())
        # A run of a version that did not know a setting acted by its default.
        if was.get(name, default_of(name)) != now.get(name)
        and (mark_of(name) in by_text or _names_no_source(name, was.get(name), now.get(name)))
        and not (name in files and _prefix(name, was.get(name)) == _prefix(name, now.get(name)))
    ]
    if others:
        more = f"; and {len(others) - NAMED} more" if len(others) > NAMED else ""
        raise CheckpointError(
            f"A run must be resumed with the settings it was started with ({run / SETTINGS})",
            got="; ".join(others[:NAMED]) + more,
            fix=f"repeat the first command with the same files, or `-c {run / SETTINGS} --resume`.",
        )
    if same_files:
        refuse_changed_files(files, config, run / INPUTS, was)


def _names_no_source(name: str, *values: object) -> bool:
    """Whether a value says which images have no labels, instead of where images are."""
    return name == UNLABELED_SOURCE and REST in values


def _files_of(recorded: Mapping[str, Any]) -> Hashes:
    """The recorded hashes of files, by the setting that names them."""
    files = recorded.get("files", {})
    try:
        if all(isinstance(digest, str) for hashes in files.values() for digest in hashes.values()):
            return dict(files)
    except AttributeError:
        pass
    raise damaged_inputs("hashes of files in another form")


def _prefix(name: str, value: object) -> str:
    """What the name of a model says besides its files: ``local-dir``, or the architecture and tag of CLIP."""
    if not name.endswith(".name"):
        return ""
    text = str(value)
    # The tag of NAME:TAG@FILE says which normalization and activation the weights of the file have.
    tag = tag_and_file(text)[0] if parse_model_name(text).kind == "callable" else ""
    return f"{text.partition(':')[0]}:{tag}"


def _settings_of(run: Path) -> Mapping[str, Any]:
    path = run / SETTINGS
    try:
        return dict(flattened(read_yaml(path)))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} must hold the settings of the run to resume",
            got=f"{type(error).__name__}: {one_line(error)}",
            fix="start again with --overwrite.",
        ) from error
