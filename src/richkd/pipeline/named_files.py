"""The files that the settings of a run name, besides images: weights, outputs, class names and prompts.

Their hashes are recorded when a run begins, because a run that is resumed with other weights under the same
name would mix two teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from richkd.config.marks import flattened
from richkd.config.model_name import ModelName, parse_model_name, tag_and_file
from richkd.config.schema import Config, ModelConfig
from richkd.core.checksums import SUMS, hash_file
from richkd.core.errors import CheckpointError, ModelError
from richkd.core.home import expanded
from richkd.core.presence import is_dir, is_file
from richkd.teachers.cache.manifest import MANIFEST
from richkd.teachers.fold_record import full_teacher
from richkd.teachers.precomputed.vision import imported_manifests

# SHA-256 of each file, by the setting that names it and its path.
Hashes = Mapping[str, Mapping[str, str]]
# Number of parts of a path that say which file it is: the file of a model, the file of a fold's student, and
# the manifest of imported outputs. Later imports may add outputs of the same teacher for other images.
IMPORTED = 2
DEPTHS = {"local-dir": 1, "folds": 3, "cache": IMPORTED}
# Files of a model on which its outputs do not depend, such as its card.
WITHOUT_EFFECT = (".md", ".log", ".tmp")
ABSENT = ("", "none")


def hash_named_files(config: Config) -> dict[str, dict[str, str]]:
    """SHA-256 of the files that each setting names. Weights from a hub are no files of the user.

    Files that cannot be read are left out, because the part that needs them says so.

    Example:
        >>> import tempfile
        >>> from richkd.config.loading import load_config
        >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        ...     student = {"student.name": "resnet18", "student.weights": file.name}
        ...     hashes = hash_named_files(load_config(None, {"data.path": "photos", **student}))
        >>> list(hashes), [digest[:8] for digest in hashes["student.weights"].values()]
        (['student.weights'], ['e3b0c442'])
    """
    hashes: dict[str, dict[str, str]] = {}
    for setting, files in _named(config):
        for file in files:
            if is_file(file):
                status = file.stat()
                digest = _hashed(file, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                hashes.setdefault(setting, {})[str(file)] = digest
    return hashes


def refuse_changed_files(
    recorded: Hashes, config: Config, record: Path, was: Mapping[str, object] = MappingProxyType({})
) -> None:
    """Check that the files have the content with which a run began. Their folders may have other names.

    Args:
        recorded: the hashes of the beginning; settings that it lacks are not compared.
        config: the settings.
        record: the file that has ``recorded``, for messages.
        was: the settings of the beginning by dotted name, for messages.

    Raises:
        CheckpointError: a file has another content, is gone, or is new; the message names it.
    """
    hashes = hash_named_files(config)
    settings = dict(flattened(config.model_dump(mode="json")))
    for setting, files in recorded.items():
        depth = _depth(setting, settings)
        then, now = _by_place(files, depth), _by_place(hashes.get(setting, {}), depth)
        new = set() if depth == IMPORTED else now.keys() - then.keys()
        for place in sorted(then.keys() | new):
            (old_path, old), (path, digest) = then.get(place, ABSENT), now.get(place, ABSENT)
            if old != digest:
                kind = "a new file" if place not in then else "another file" if place in now else "no file"
                raise CheckpointError(
                    "A run must be resumed with the files it was started with; "
                    f"{setting} names {path or old_path}",
                    got=f"{_difference(setting, settings, was)}: {kind} by content, whose SHA-256 was "
                    f"{old[:12]}, now {digest[:12]}",
                    fix=f"restore the file, or start again with --overwrite. To continue with other files, "
                    f"remove {record}.",
                )


def files_of_models(config: Config) -> Iterator[tuple[str, list[Path]]]:
    """The files of the student to start from and of each teacher, with the setting that names them.

    Example:
        >>> from richkd.config.loading import load_config
        >>> student = {"student.name": "resnet18", "student.weights": "a.pth"}
        >>> config = load_config(None, {"data.path": "photos", **student})
        >>> [(setting, [file.name for file in files]) for setting, files in files_of_models(config)]
        [('student.weights', ['a.pth'])]
    """
    yield from _of_model("student", config.student, config)
    for number, teacher in enumerate(config.teachers, start=1):
        yield from _of_model(f"teachers.{number}", teacher, config)


# Files are compared before a run is resumed, and recorded after it was; large ones are read once.
@lru_cache(maxsize=256)
def _hashed(file: Path, size: int, modified: int, changed: int) -> str:
    return hash_file(file)


def _difference(setting: str, settings: Mapping[str, object], was: Mapping[str, object]) -> str:
    now, then = settings.get(setting), was.get(setting)
    return f"{setting} {now}" + (f" where the run has {then}" if then not in (None, now) else "")


def _depth(setting: str, settings: Mapping[str, object]) -> int:
    """How many of the last parts of a path must be the same: none for a file, which may have another name."""
    value = settings.get(setting)
    is_name = setting.endswith(".name") and isinstance(value, str)
    return DEPTHS.get(parse_model_name(str(value)).kind, 0) if is_name else 0


def _by_place(files: Mapping[str, str], depth: int) -> dict[str, tuple[str, str]]:
    """Path and hash of each file, by the last parts of its path."""
    return {_place(Path(path), depth): (path, digest) for path, digest in files.items()}


def _place(path: Path, depth: int) -> str:
    parts = path.parts[-depth:] if depth else ()
    # The run of the full teacher may have another name.
    full_teacher = depth == DEPTHS["folds"] and not parts[0].startswith("fold-")
    return "/".join(parts[1:] if full_teacher else parts)


def _named(config: Config) -> Iterator[tuple[str, list[Path]]]:
    data, clip = config.data, config.clip
    yield from files_of_models(config)
    settings: dict[str, str | Path | None] = {
        "data.class_names": data.class_names,
        "data.hierarchy": data.hierarchy,
    }
    if clip is not None:
        name = parse_model_name(clip.name)
        if name.kind == "local-dir":
            yield "clip.name", _in_folder(name.path)
        settings |= {"clip.name": _file_of_clip(name), "clip.prompts": clip.prompts}
        settings |= {"clip.class_prompts": clip.class_prompts, "clip.rename_classes": clip.rename_classes}
        settings["clip.prompt_weights"] = clip.prompt_weights
    for setting, value in settings.items():
        if value is not None:
            yield setting, [expanded(value)]


def _file_of_clip(name: ModelName) -> Path | None:
    """The file of outputs, or of the weights of ``NAME:FILE`` and ``NAME:TAG@FILE``; a tag is no file."""
    if name.kind == "outputs":
        return name.path
    if name.kind != "callable":
        return None
    # The name of a file can contain an @, too.
    whole = expanded(name.text.partition(":")[2])
    return whole if is_file(whole) else expanded(tag_and_file(name.text)[1])


def _of_model(section: str, model: ModelConfig, config: Config) -> Iterator[tuple[str, list[Path]]]:
    name = parse_model_name(model.name)
    files: dict[str, Callable[[], list[Path]]] = {
        "local-dir": lambda: _in_folder(name.path),
        "folds": lambda: _of_folds(name.path, blended=model.used_fold_share != 1),
        "cache": lambda: _imported(name.value, config.cache.dir),
    }
    if name.kind in files:
        yield f"{section}.name", files[name.kind]()
    if model.weights is not None:
        yield f"{section}.weights", [expanded(model.weights)]


def _of_folds(folder: Path, *, blended: bool) -> list[Path]:
    """The files of the teachers of folds, and of the full teacher if it is read, too."""
    students = sorted(folder.glob("fold-*/student"))
    # A full teacher that is gone or has other weights is refused when it is opened.
    with suppress(ModelError):
        full = full_teacher(folder) if blended else None
        students += [full] if full else []
    return [file for student in students for file in _in_folder(student)]


def _in_folder(folder: Path) -> list[Path]:
    """The files of a model, without its card and hashes."""
    if not is_dir(folder):
        return []
    files = sorted(f for f in folder.iterdir() if f.name != SUMS and not f.name.startswith("."))
    return [f for f in files if f.suffix not in WITHOUT_EFFECT]


def _imported(name: str, root: Path | None) -> list[Path]:
    """The manifests of imported outputs, which contain the hash of the outputs."""
    if root is None:
        return []
    folders = [m.folder for m in imported_manifests(expanded(root)) if m.ingredients["teacher"] == name]
    return [expanded(root) / folder / MANIFEST for folder in sorted(folders)]
