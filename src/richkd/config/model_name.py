"""Names of models, such as ``local-dir:FOLDER`` or ``hf-hub:OWNER/REPO``, parsed in one place."""

# Methods of Path raise for names that no file can have.
# ruff: noqa: PTH111, PTH112, PTH113, PTH118

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from richkd.core.errors import nearest
from richkd.core.home import expanded

Kind = Literal["name", "callable", "local-dir", "hf-hub", "folds", "cache", "outputs"]
# Prefixes that say where a model is; hf_hub is timm's older spelling.
PREFIXES: dict[str, Kind] = {
    "local-dir": "local-dir",
    "hf-hub": "hf-hub",
    "hf_hub": "hf-hub",
    "folds": "folds",
    "cache": "cache",
    "outputs": "outputs",
}
# What a saved student and a saved CLIP have.
CONFIGURATIONS = ("config.json", "open_clip_config.json")
# Kinds that are no network.
TEACHERS_ONLY = {"folds": "a kind of teacher", "cache": "a kind of teacher", "outputs": "a kind of CLIP"}
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


@dataclass(frozen=True)
class ModelName:
    """A model's name in two parts.

    Attributes:
        kind: where the model comes from. ``name``: a library's model by its name; ``callable``: a Python
            factory ``package.module:callable``; ``local-dir`` and ``hf-hub``: saved weights with their
            configuration; ``folds``: the teachers of ``richkd teach --folds``; ``cache``: imported outputs
            of a vision teacher; ``outputs``: a file of CLIP outputs.
        value: what follows the prefix; the whole text for ``name`` and ``callable``.
        text: the name as it was given.
    """

    kind: Kind
    value: str
    text: str

    @property
    def path(self) -> Path:
        """The value as a path, with ``~`` expanded."""
        return expanded(self.value)


def parse_model_name(text: str) -> ModelName:
    """Split a model's name into its kind and its value.

    Example:
        >>> parse_model_name("local-dir:runs/teacher/student").kind
        'local-dir'
        >>> parse_model_name("resnet50"), parse_model_name("mynets.models:small").kind
        (ModelName(kind='name', value='resnet50', text='resnet50'), 'callable')
    """
    prefix, colon, value = text.partition(":")
    if colon and prefix in PREFIXES:
        return ModelName(PREFIXES[prefix], value, text)
    return ModelName("callable" if colon else "name", text, text)


def tag_and_file(text: str) -> tuple[str, str]:
    """The tag and the file in the name of a CLIP whose weights are in a file; no tag for ``NAME:FILE``.

    A tag has no slash, so a folder whose name contains an @ is none.

    Example:
        >>> tag_and_file("ViT-B-32:openai@clip.pt"), tag_and_file("ViT-B-32:me@home/clip.pt")
        (('openai', 'clip.pt'), ('me', 'home/clip.pt'))
        >>> tag_and_file("ViT-B-32:clip.pt"), tag_and_file("ViT-B-32:runs/me@home/clip.pt")
        (('', 'clip.pt'), ('', 'runs/me@home/clip.pt'))
    """
    weights = text.partition(":")[2]
    tag, at, file = weights.partition("@")
    return (tag, file) if at and "/" not in tag else ("", weights)


def with_prefix(text: str) -> str:
    """A path of a saved model with ``local-dir:`` before it; other names as they are.

    Only a text that is written as a path and names a folder with a configuration is such a path, so no name
    of a library's model changes its meaning with the working folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     length = Path(folder, "config.json").write_text("{}")
        ...     with_prefix(folder) == f"local-dir:{folder}"
        True
        >>> with_prefix("resnet50"), with_prefix("ViT-B/32")
        ('resnet50', 'ViT-B/32')
    """
    if parse_model_name(text).kind not in ("name", "callable") or not _is_written_as_path(text):
        return text
    return f"local-dir:{text}" if _is_model(os.path.expanduser(text)) else text


def hint_at_path(text: str, role: str = "teacher") -> str | None:
    """What to write instead of an unknown name that is a path or has a mistyped prefix; None for others.

    Args:
        text: the name.
        role: ``"student"``, ``"teacher"`` or ``"CLIP"``.

    Example:
        >>> hint_at_path("runs/no-such-folder")
        'runs/no-such-folder is written as a path, but nothing is there; check it and write local-dir:FOLDER.'
        >>> hint_at_path("localdir:runs/teacher"), hint_at_path("resnet19")
        ("Did you mean 'local-dir:runs/teacher'?", None)
    """
    prefix, colon, value = text.partition(":")
    if colon and prefix not in PREFIXES:
        hint = nearest(prefix, PREFIXES)
        if hint.startswith("Did you mean"):
            meant = hint.split("'")[1]
            return f"Did you mean '{meant}:{value}'?"
    if parse_model_name(text).kind in TEACHERS_ONLY:
        return f"{prefix}: is {TEACHERS_ONLY[prefix]}; give a model that can be the {role} here."
    place = os.path.expanduser(text)
    if os.path.isdir(place):
        return _hint_at_folder(text, place)
    if os.path.isfile(place):
        if role == "CLIP" and text.lower().endswith(".npz"):
            return f"add outputs: for a file of CLIP outputs: outputs:{text}"
        if role == "CLIP":
            return f"{text} is a file; write NAME:{text} with the name of its architecture."
        option = "--student.weights" if role == "student" else "--teacher-weights"
        return f"{text} is a file; give it with {option}, and the name of its architecture here."
    if _is_written_as_path(text) or place.lower().endswith(WEIGHTS_SUFFIXES):
        return f"{text} is written as a path, but nothing is there; check it and write local-dir:FOLDER."
    return None


def _hint_at_folder(text: str, folder: str) -> str:
    if _is_model(folder):
        return f"add local-dir: for a folder: local-dir:{text}"
    if _is_model(os.path.join(folder, "student")):
        return f"add local-dir: and name the student of this run: local-dir:{os.path.join(text, 'student')}"
    if os.path.isdir(os.path.join(folder, "fold-0")):
        return f"add folds: for the teachers of folds: folds:{text}"
    return f"{text} is a folder without {CONFIGURATIONS[0]}; write local-dir:RUN/student for a run's student."


def _is_model(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in CONFIGURATIONS)


def _is_written_as_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.startswith((".", "~"))
