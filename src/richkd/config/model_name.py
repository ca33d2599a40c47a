"""Names of models, such as ``local-dir:FOLDER`` or ``hf-hub:OWNER/REPO``, parsed in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
        return Path(self.value).expanduser()


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
