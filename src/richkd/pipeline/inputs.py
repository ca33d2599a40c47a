"""The files that the settings of a run name, besides images: weights, outputs, class names and prompts.

Their hashes are recorded when a run begins, because a run that is resumed with other weights under the same
name would mix two teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from richkd.config.model_name import parse_model_name
from richkd.config.schema import Config, ModelConfig
from richkd.core.checksums import SUMS, hash_file
from richkd.core.errors import CheckpointError
from richkd.models.saved import CARD
from richkd.teachers.cache.store import MANIFEST
from richkd.teachers.precomputed.vision import imported_manifests

INPUTS = "inputs.json"

# SHA-256 of each file, by the setting that names it and its path.
Hashes = Mapping[str, Mapping[str, str]]


def hash_inputs(config: Config) -> dict[str, dict[str, str]]:
    """SHA-256 of the files that each setting names. Weights from a hub are no files of the user.

    Files that cannot be read are left out, because the part that needs them says so.

    Example:
        >>> import tempfile
        >>> from richkd.config.loading import load_config
        >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        ...     student = {"student.name": "resnet18", "student.weights": file.name}
        ...     hashes = hash_inputs(load_config(None, {"data.path": "photos", **student}))
        >>> list(hashes), [digest[:8] for digest in hashes["student.weights"].values()]
        (['student.weights'], ['e3b0c442'])
    """
    found: dict[str, dict[str, str]] = {}
    for setting, files in _named(config):
        for file in files:
            if file.is_file():
                found.setdefault(setting, {})[str(file)] = hash_file(file)
    return found


def refuse_changed(recorded: Hashes, config: Config, record: Path) -> None:
    """Check that the files are those with which a run began.

    Args:
        recorded: the hashes of the beginning; settings that it lacks are not compared.
        config: the settings.
        record: the file that has ``recorded``, for messages.

    Raises:
        CheckpointError: a file has another content, is gone, or is new; the message names it.
    """
    now = hash_inputs(config)
    for setting, files in recorded.items():
        current = now.get(setting, {})
        new = set() if _grows(setting, config) else current.keys() - files.keys()
        for path in sorted(files.keys() | new):
            if files.get(path) != current.get(path):
                got = "a new file" if path not in files else "another file" if path in current else "no file"
                raise CheckpointError(
                    f"A run must be resumed with the files it was started with; {setting} names {path}",
                    got=f"{got}: its SHA-256 was {files.get(path, 'none')[:12]}, "
                    f"now {current.get(path, 'none')[:12]}",
                    fix=f"restore the file, or start again with --overwrite. To continue with other files, "
                    f"remove {record}.",
                )


def _named(config: Config) -> Iterator[tuple[str, list[Path]]]:
    data, clip = config.data, config.clip
    yield from _of_model("student", config.student, config)
    for number, teacher in enumerate(config.teachers, start=1):
        yield from _of_model(f"teachers.{number}", teacher, config)
    settings: dict[str, str | Path | None] = {
        "data.class_names": data.class_names,
        "data.hierarchy": data.hierarchy,
    }
    if clip is not None:
        name = parse_model_name(clip.name)
        if name.kind == "local-dir":
            yield "clip.name", _in_folder(name.path)
        # The tag of NAME:TAG can be a file of weights.
        tag = name.path if name.kind == "outputs" else clip.name.partition(":")[2]
        settings |= {"clip.name": tag or None, "clip.prompts": clip.prompts}
        settings |= {"clip.class_prompts": clip.class_prompts, "clip.rename_classes": clip.rename_classes}
        settings["clip.prompt_weights"] = clip.prompt_weights
    for setting, value in settings.items():
        if value is not None:
            yield setting, [Path(value).expanduser()]


def _of_model(section: str, model: ModelConfig, config: Config) -> Iterator[tuple[str, list[Path]]]:
    name = parse_model_name(model.name)
    files: dict[str, Callable[[], list[Path]]] = {
        "local-dir": lambda: _in_folder(name.path),
        "folds": lambda: [
            f for folder in sorted(name.path.glob("fold-*/student")) for f in _in_folder(folder)
        ],
        "cache": lambda: _imported(name.value, config.cache.dir),
    }
    if name.kind in files:
        yield f"{section}.name", files[name.kind]()
    if model.weights is not None:
        yield f"{section}.weights", [model.weights.expanduser()]


def _in_folder(folder: Path) -> list[Path]:
    """The files of a model, without its card and hashes."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.name not in (CARD, SUMS) and not f.name.startswith("."))


def _imported(name: str, root: Path | None) -> list[Path]:
    """The manifests of imported outputs, which contain the hash of the outputs."""
    if root is None:
        return []
    folders = [m.folder for m in imported_manifests(root.expanduser()) if m.ingredients["teacher"] == name]
    return [root.expanduser() / folder / MANIFEST for folder in sorted(folders)]


def _grows(setting: str, config: Config) -> bool:
    """Whether later imports may add files: outputs of the same teacher for other images."""
    if not setting.startswith("teachers."):
        return False
    model = config.teachers[int(setting.split(".")[1]) - 1]
    return parse_model_name(model.name).kind == "cache"
