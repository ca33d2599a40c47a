"""Options that commands share, and how they become settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from richkd.config import Config
from richkd.settings import dotted_overrides, load_config

Recipe = Annotated[Path | None, Parameter(name=["--config", "-c"], help="YAML recipe; options win over it")]
Data = Annotated[str | None, Parameter(help="image folder, folder of parquet files, or hub name")]
Student = Annotated[str | None, Parameter(help="timm name or package.module:callable")]
Teacher = Annotated[
    str | None, Parameter(help="the big classifier: timm name, local-dir:FOLDER, callable, or bank:NAME")
]
TeacherWeights = Annotated[Path | None, Parameter(help="its checkpoint (.safetensors, .pth)")]
Unlabeled = Annotated[str | None, Parameter(help="further images to learn from, without labels")]
Clip = Annotated[str | None, Parameter(help="NAME:TAG, hf-hub:…, local-dir:…, or outputs:FILE")]
Bank = Annotated[Path | None, Parameter(help="folder where teachers' outputs are kept and read again")]
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
    "teacher": "teacher.name",
    "teacher-weights": "teacher.weights",
    "unlabeled": "data.unlabeled",
    "clip": "clip.name",
    "bank": "bank.folder",
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
        ConfigError: a setting that does not exist, or a value that it does not take.
    """
    chosen = {DOTTED[option]: value for option, value in options.items() if value is not None}
    return load_config(recipe, chosen | dotted_overrides(list(overrides), options))
