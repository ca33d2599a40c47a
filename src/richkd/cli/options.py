"""Options that commands share, and how they become settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from richkd.config.loading import dotted_overrides, load_config
from richkd.config.schema import Config
from richkd.core.errors import ConfigError

Augmentation = Annotated[
    Path | None, Parameter(name=["--config", "-c"], help="YAML recipe; options win over it")
]
Data = Annotated[str | None, Parameter(help="image folder, folder of parquet files, or hub name")]
Student = Annotated[str | None, Parameter(help="timm name or package.module:callable")]
Teacher = Annotated[
    list[str] | None,
    Parameter(
        help="the big classifier: timm name, local-dir:FOLDER, callable, folds:FOLDER or cache:NAME; "
        "given again, a further one",
        negative="",
    ),
]
TeacherWeights = Annotated[
    list[Path] | None,
    Parameter(help="its checkpoint (.safetensors, .pth); of several one each, in their order", negative=""),
]
Unlabeled = Annotated[str | None, Parameter(help="further images to learn from, without labels")]
Clip = Annotated[str | None, Parameter(help="NAME:TAG, hf-hub:…, local-dir:…, or outputs:FILE")]
TeacherCache = Annotated[
    Path | None, Parameter(help="folder where teachers' outputs are kept and read again")
]
Method = Annotated[str | None, Parameter(help="richkd (default), kd or ce")]
Epochs = Annotated[int | None, Parameter(help="passes over the training images")]
Seed = Annotated[int | None, Parameter(help="everything random is a function of it and the step")]
Out = Annotated[Path | None, Parameter(help="run folder")]
Resume = Annotated[bool, Parameter(negative="", help="go on with the run in --out, exactly")]
Overwrite = Annotated[bool, Parameter(negative="", help="replace the run in --out")]
Overrides = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
# What the commands' own options are short for.
DOTTED = {
    "data": "data.path",
    "student": "student.name",
    "model": "student.name",
    "weights": "student.weights",
    "unlabeled": "data.unlabeled",
    "clip": "clip.name",
    "teacher-cache": "cache.dir",
    "method": "method.name",
    "variant": "method.variant",
    "preset": "fusion.preset",
    "epochs": "train.epochs",
    "seed": "train.seed",
    "out": "out",
}


def config_of(recipe: Path | None, options: Mapping[str, Any], overrides: Iterable[str]) -> Config:
    """Settings from a recipe, a command's own options and dotted ones, the later winning.

    Raises:
        ConfigError: a setting that does not exist, or a value that it does not take; weights that cannot be
            told to belong to a teacher.
    """
    own = {option: value for option, value in options.items() if value is not None}
    selected = _teachers(own.pop("teacher", []), own.pop("teacher-weights", []))
    selected |= {DOTTED[option]: value for option, value in own.items()}
    return load_config(recipe, selected | dotted_overrides(list(overrides), options))


def _teachers(names: Sequence[str], weights: Sequence[Path]) -> dict[str, Any]:
    """Settings of the first teacher and of further ones."""
    if len(weights) not in (0, len(names)) and (names or len(weights) > 1):
        raise ConfigError(
            "Each of several --teacher takes a --teacher-weights of its own, or none does",
            got=f"{len(names)} of --teacher, {len(weights)} of --teacher-weights",
            fix="give as many, in one order, or put the teachers into a recipe.",
        )
    selected: dict[str, Any] = {}
    if names:
        selected["teacher.name"] = names[0]
    if weights:
        selected["teacher.weights"] = str(weights[0])
    if len(names) > 1:
        files = list(map(str, weights)) or itertools.repeat(None)
        pairs = itertools.islice(zip(names, files, strict=False), 1, None)
        selected["more_teachers"] = [{"name": name, "weights": file} for name, file in pairs]
    return selected
