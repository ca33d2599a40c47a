"""Whether a run is resumed with the settings that it was started with.

Settings are compared by their marks (`richkd.config.marks`): some may differ, those that name files or images
are compared by content, and all others must be equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from richkd.config.marks import WhenResumed, flattened
from richkd.config.model_name import parse_model_name
from richkd.config.resumed import SETTINGS, mark_of, path_of, recorded_inputs
from richkd.config.schema import Config
from richkd.core.errors import CheckpointError
from richkd.teachers.precomputed.vision import GIVEN, imported_manifests

# Files of a model's folder on which its outputs do not depend, such as its card.
WITHOUT_EFFECT = frozenset({".md", ".log", ".tmp"})
# Number of differences that an error message lists.
NAMED = 3


def refuse_other_settings(run: Path, config: Config, *, same_length: bool = False) -> None:
    """Refuse to resume a run with other settings or other files than it was started with.

    Images are compared later, when the data are open, and ``train.epochs`` with the checkpoint.

    Args:
        run: the run folder.
        config: the settings.
        same_length: also compare ``train.epochs``, for a run that has no checkpoint yet.

    Raises:
        CheckpointError: a setting differs, or the files that it names do; or ``config.yaml`` cannot be read.
    """
    was, now = _settings_of(run), dict(flattened(yaml.safe_load(config.to_yaml())))
    recorded = recorded_inputs(run)
    then, present = recorded.get("files", {}), digests_of_files(config)
    by_text = {None, WhenResumed.FILES} | (set() if "splits" in recorded else {WhenResumed.IMAGES})
    by_text |= {WhenResumed.LENGTH} if same_length else set()
    others = []
    for name in sorted(was.keys() | now.keys() | then.keys() & present.keys()):
        if name in then and name in present:
            if then[name] != present[name]:
                others.append(_other_files(name, was.get(name), now.get(name)))
        elif was.get(name) != now.get(name) and mark_of(name) in by_text:
            others.append(f"{name} {now.get(name)} where the run has {was.get(name)}")
    if others:
        more = f"; and {len(others) - NAMED} more" if len(others) > NAMED else ""
        raise CheckpointError(
            f"A run must be resumed with the settings it was started with ({run / SETTINGS})",
            got="; ".join(others[:NAMED]) + more,
            fix=f"repeat the first command with the same files, or `-c {run / SETTINGS} --resume`.",
        )


def digests_of_files(config: Config) -> dict[str, str]:
    """SHA-256 of the files that settings name, by setting; files that do not exist are left out.

    Example:
        >>> digests_of_files(Config(data={"path": "photos"}, student={"name": "resnet18"}))
        {}
    """
    digests = {}
    for name, value in flattened(config.model_dump(mode="json")):
        place = path_of(name, value)
        if mark_of(name) is WhenResumed.FILES and place is not None:
            digest = _digest_of(place[1].expanduser())
            if digest is not None:
                digests[name] = digest
    imported = [model.name for model in config.teachers if parse_model_name(model.name).kind == "cache"]
    if imported and config.cache.dir is not None and config.cache.dir.expanduser().is_dir():
        given = sorted(
            f"{manifest.name} {manifest.ingredients[GIVEN]}"
            for manifest in imported_manifests(config.cache.dir.expanduser())
            if any(manifest.name.startswith(f"{parse_model_name(name).value}-") for name in imported)
        )
        digests["cache.dir"] = hashlib.sha256("\n".join(given).encode()).hexdigest()
    return digests


def _digest_of(path: Path) -> str | None:
    """SHA-256 of a file, or of the names and contents of the files of a model's folder."""
    try:
        if path.is_file():
            return _digest_of_file(path)
        # The folders of fold teachers hold runs, of which only the students are read.
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else []
        files += path.glob("fold-*/student/*")
        kept = sorted(file for file in files if file.suffix not in WITHOUT_EFFECT and file.name[0] != ".")
        lines = [f"{file.relative_to(path).as_posix()} {_digest_of_file(file)}" for file in kept]
    except OSError:
        return None
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else None


def _digest_of_file(path: Path) -> str:
    status = path.stat()
    return _hashed(path, status.st_size, status.st_mtime_ns)


# Files are compared before a run is resumed, and recorded after it was; large ones are read once.
@lru_cache(maxsize=256)
def _hashed(path: Path, size: int, time: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _other_files(name: str, was: object, now: object) -> str:
    if was == now:
        return f"{name} {now}, whose content differs from that at the start of the run"
    return f"{name} {now} where the run has {was}, which had another content"


def _settings_of(run: Path) -> Mapping[str, Any]:
    path = run / SETTINGS
    try:
        return dict(flattened(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{path} must hold the settings of the run to resume",
            got=f"{type(error).__name__}: {error}",
            fix="start again with --overwrite.",
        ) from error
