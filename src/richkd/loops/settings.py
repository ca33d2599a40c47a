"""What the arguments of a distiller mean: settings, teachers of each target, and what terms need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from richkd.config.loading import explain, first_error
from richkd.config.schema import Config, FusionConfig
from richkd.core.errors import ConfigError
from richkd.loops.models import CLIP, STUDENT
from richkd.methods.objective import TermSpec
from richkd.methods.term import NetworkShapes
from richkd.pipeline.roles import Roles

# What `fuse` reads. The others need images with views, splits and a CLIP of their own.
FUSION_READ = ("preset", "scale", "mixing", "alpha", "feature_alpha", "weights")


def settings_of(
    teachers: int, clip: bool, method: str | None, objective: Any, fusion: Mapping[str, Any] | None
) -> Config:
    """The settings of a run with these models, whose names say that they are given as objects.

    Args:
        teachers: number of vision teachers.
        clip: whether there is a CLIP.
        method, objective, fusion: see `richkd.loops.distiller.Distiller`.

    Raises:
        ConfigError: a setting that does not exist, a value that it does not take, or a setting of the fusion
            that belongs to a run.

    Example:
        >>> settings_of(1, False, None, None, None).method.name
        'kd'
    """
    given: dict[str, Any] = {"data": {"path": "."}, "student": {"name": STUDENT}}
    given["teachers"] = [{"name": f"teacher {n + 1}"} for n in range(teachers)]
    given["fusion"] = {"preset": "paper"} | dict(fusion or {})
    if clip:
        given["clip"] = {"name": CLIP}
    if not isinstance(objective, list | tuple):
        given["method"] = {"name": method or ("richkd" if clip and teachers else "kd")}
    elif method is not None:
        given["method"] = {"name": method}
    if objective is not None:
        given["objective"] = objective
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        raise explain(first_error(error), "the arguments of Distiller") from None
    _refuse_of_runs(fusion or {})
    return config


def _refuse_of_runs(fusion: Mapping[str, Any]) -> None:
    for name in FusionConfig.model_fields:
        if name in fusion and name not in FUSION_READ:
            raise ConfigError(
                f"Setting 'fusion.{name}' belongs to a run from settings; a distiller does not read it",
                got=f"fusion.{name} {fusion[name]!r}",
                fix=f"remove it, or set fusion.{name} in a recipe: richkd.distill(richkd.load_config(…)).",
            )


def check_steps(steps: int | None, specs: Sequence[TermSpec]) -> None:
    """Check that the number of optimizer steps is known where a term changes during the training.

    Args:
        steps: their number; None if it is not known.
        specs: the terms.

    Raises:
        ConfigError: it is less than 1, or a term needs it.

    Example:
        >>> check_steps(100, ())
    """
    if steps is not None and steps < 1:
        raise ConfigError("A training has at least one step", got=f"steps={steps}", fix="pass steps=1000.")
    for spec in specs if steps is None else ():
        for name in spec.config.follows_progress:
            value = getattr(spec.config, name)
            number = isinstance(value, float)
            raise ConfigError(
                f"Setting 'objective.{spec.label}.{name}' changes the loss during the training, so the "
                "number of steps must be known",
                got=f"{name} {f'{value:.4g}' if number else value}, and no steps",
                fix=f"pass steps=, the number of all optimizer steps, or set objective.{spec.label}.{name} "
                f"to {0 if number else 'none'}.",
            )


def members_of(roles: Roles, count: int) -> dict[str, tuple[int, ...]]:
    """Positions of the teachers of each target.

    Args:
        roles: which teachers each target has.
        count: number of all teachers; the CLIP is the last one.

    Example:
        >>> members_of(Roles({"fused": (0,), "clip": ()}, {"fused": True, "clip": True}), 2)
        {'fused': (0, 1), 'clip': (1,)}
    """
    return {
        name: (*roles.vision[name], count - 1) if roles.clip[name] else roles.vision[name]
        for name in roles.targets
    }


def known_labels(labels: Tensor | Sequence[int] | None, specs: Sequence[TermSpec]) -> Tensor:
    """The classes of all training images; none where no term needs them.

    Raises:
        ConfigError: a term keeps a row for each training image, and they are not given.
    """
    if labels is not None:
        return torch.as_tensor(labels, dtype=torch.int64)
    fix = "pass labels=, the class of each image, and with each batch the images' positions."
    _refuse_rows(specs, "no labels of the training images", fix)
    return torch.empty(0, dtype=torch.int64)


def positions(index_B: Tensor | None, labels_B: Tensor, specs: Sequence[TermSpec]) -> Tensor:
    """The positions of a batch among the training images, on the CPU; any where no term needs them.

    Raises:
        ConfigError: a term keeps a row for each training image, and they are not given.
    """
    if index_B is not None:
        return index_B.cpu()
    _refuse_rows(
        specs, "a batch without positions", "pass the positions of the images as the third argument."
    )
    return torch.arange(len(labels_B))


def _refuse_rows(specs: Sequence[TermSpec], got: str, fix: str) -> None:
    for spec in specs:
        if spec.term.keeps_rows:
            raise ConfigError(f"Term {spec.label} keeps a row for each training image", got=got, fix=fix)


def refuse_new_students(specs: Sequence[TermSpec]) -> None:
    """Refuse terms that train another network than the given one.

    Raises:
        ConfigError: naming the term.
    """
    for spec in specs:
        if spec.term.reuses_classifier:
            raise ConfigError(
                f"Term {spec.label} gives the student its teacher's classifier, so it builds another student",
                got="a student that is a module",
                fix="use `richkd distill` or richkd.distill(config), which save such a student.",
            )


def check_features(specs: Sequence[TermSpec], target: str, shapes: Sequence[NetworkShapes]) -> None:
    """Refuse terms that compare features of models that have none.

    Raises:
        ConfigError: naming the term.
    """
    for spec in specs:
        if spec.target == target and "features" in spec.term.needs and not all(s.features for s in shapes):
            raise ConfigError(
                f"Term {spec.label} compares features",
                got="a model that returns logits only",
                fix="use models with timm's interface, or functions that return richkd.core.types.Output.",
            )
