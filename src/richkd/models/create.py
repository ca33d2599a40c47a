"""Create a module from a name and constructor arguments: a timm model, a saved student or a callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
import torchvision
from timm.models import get_model_input_config, load_model_config_from_hf, resolve_model_input_args
from torch import nn

from richkd.config.model_name import hint_at_path, parse_model_name
from richkd.config.schema import ModelConfig
from richkd.core.errors import ModelError, nearest
from richkd.core.regular_files import kind_of, special_in
from richkd.core.structured import read_json
from richkd.models.arguments import not_built, option
from richkd.models.callables import call
from richkd.models.plain import with_interface
from richkd.models.probe import first_line
from richkd.models.published import warn_of_normalization
from richkd.models.saved import CONFIG, WEIGHTS, check_saved
from richkd.models.weights import load_weights

# Arguments that may not be given, with the reason.
CLASSES, RUNTIME = "it is the number of classes of the data", "it is not part of a saved network"
RESERVED = {
    "num_classes": CLASSES,
    "in_chans": "images are RGB, so every network has 3 input channels",
    "pretrained": "it is a setting of its own, pretrained",
    "checkpoint_path": "it is a setting of its own, weights",
    "pretrained_cfg": "its entries are settings of their own: size, mean, std and weights",
    "pretrained_cfg_overlay": "its entries are settings of their own: size, mean, std and weights",
    "features_only": "a classifier is needed",
    **dict.fromkeys(("scriptable", "exportable", "no_jit", "cache_dir", "device", "dtype"), RUNTIME),
}
# Resolution in pixels of a network whose name, weights and settings do not determine it.
SIZE = 224
# Arguments that timm writes into the config.json of every model.
WRITTEN_BY_TIMM = ("num_classes", "in_chans", "global_pool", "img_size")


@dataclass(frozen=True)
class Blueprint:
    """What is needed to build a network again.

    Attributes:
        architecture: timm's name, or ``package.module:callable``.
        args: arguments of the constructor, besides those that timm saves for every model.
        resized_from: the model's own resolution in pixels, if it was built for another one (``img_size``).
    """

    architecture: str
    args: Mapping[str, Any] = field(default_factory=dict)
    resized_from: int | None = None


class Created(NamedTuple):
    """A module, how it was built, and what timm's configuration says about its input and classes."""

    model: nn.Module
    blueprint: Blueprint
    cfg: Mapping[str, Any]


def create_module(config: ModelConfig, classes: int, role: str, size: int | None = None) -> Created:
    """Build the module that the settings name. A file of weights in the settings is not loaded.

    Args:
        config: name and constructor arguments of the model.
        classes: number of outputs.
        role: ``"student"`` or ``"teacher"``, for messages.
        size: resolution for which a model of fixed resolution is built; None for its own.

    Raises:
        ModelError: there is no such model, or it cannot be built with these arguments.

    Example:
        >>> config = ModelConfig(name="test_vit", args={"depth": 2})
        >>> created = create_module(config, 10, "student", size=64)
        >>> len(created.model.blocks), tuple(created.model.pos_embed.shape)
        (2, (1, 17, 64))
        >>> created.blueprint
        Blueprint(architecture='test_vit', args={'depth': 2}, resized_from=160)
    """
    for name in sorted(RESERVED.keys() & config.args.keys()):
        raise ModelError(
            f"{option(role, 'args')} must not contain {name}: {RESERVED[name]}",
            got=f"{name}: {config.args[name]}",
            fix=f"remove {name}.",
        )
    parsed = parse_model_name(config.name)
    if parsed.kind == "callable":
        return _from_callable(config.name, config.args, classes, role, size)
    if parsed.kind == "local-dir":
        return _from_folder(parsed.path, config, classes, role, size)
    if parsed.kind != "hf-hub" and not timm.is_model(config.name.partition(".")[0]):
        raise unknown_model(config.name, role)
    # A student is trained further, with the normalization that is saved with it.
    if role == "teacher" and config.weights is not None and config.mean is None and config.std is None:
        warn_of_normalization(config.name, role)
    if parsed.kind == "hf-hub":
        return _from_hub(parsed.value, config, classes, role, size)
    return _from_timm(config, classes, role, size, pretrained=config.pretrained)


def side_of(cfg: Mapping[str, Any]) -> int | None:
    """The resolution in pixels that a configuration states; None if it states none.

    Example:
        >>> side_of({"input_size": (3, 32, 32)}), side_of({"input_size": None}), side_of({})
        (32, None, None)
    """
    shape = cfg.get("input_size")
    side = shape[-1] if isinstance(shape, tuple | list) and shape else None
    return side if isinstance(side, int) and side > 0 else None


def unknown_model(name: str, role: str) -> ModelError:
    """The error for a name that no model has.

    Example:
        >>> print(unknown_model("resnet19", "student"))
        No model is called 'resnet19' (the student)
        Fix: Did you mean 'resnet18' or 'resnet101' or 'resnet10t'?
        >>> unknown_model("mobilenet_v3_small", "student").fix
        'write torchvision.models:mobilenet_v3_small for the network of torchvision.'
    """
    hint = hint_at_path(name, role)
    if hint is None and name in torchvision.models.list_models(torchvision.models):
        hint = f"write torchvision.models:{name} for the network of torchvision."
    hint = hint or nearest(name, timm.list_models(), "timm.list_models() lists all.")
    return ModelError(f"No model is called '{name}' (the {role})", fix=hint)


def _from_timm(
    config: ModelConfig, classes: int, role: str, size: int | None, *, pretrained: bool
) -> Created:
    name, args = config.name, config.args

    def build(*, pretrained: bool) -> nn.Module:
        # timm adds img_size to the arguments of models of fixed resolution, and leaves the others alone.
        wanted = {} if "img_size" in args else {"img_size": size}
        sized = resolve_model_input_args(name, wanted, **args).get("img_size")
        more = {} if sized is None else {"img_size": sized}
        return cast(nn.Module, timm.create_model(name, pretrained, num_classes=classes, **{**args, **more}))

    try:
        model = build(pretrained=pretrained)
    except Exception as error:  # constructors raise exceptions of any class
        if pretrained and _skeleton(lambda: build(pretrained=False)) is not None:
            raise _not_loaded(name, role, error) from error
        plain = _skeleton(lambda: timm.create_model(name))
        raise not_built(name, args, role, error, None if plain is None else type(plain)) from error
    cfg = cast(Any, model).pretrained_cfg
    default, used = cfg["input_size"][-1], get_model_input_config(model)["input_size"][-1]
    resized = "img_size" not in args and used == size != default
    if resized:
        _check_patches(model, name, used, role)
    return Created(
        model, Blueprint(cfg.get("architecture") or name, dict(args), default if resized else None), cfg
    )


def _skeleton(build: Callable[[], nn.Module]) -> nn.Module | None:
    """The model without memory for its weights, or None if it cannot be built."""
    try:
        with torch.device("meta"):
            return build()
    except Exception:
        return None


def _check_patches(model: nn.Module, name: str, size: int, role: str) -> None:
    """Pixels that belong to no patch would be ignored."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    side = patch[-1] if isinstance(patch, tuple | list) else patch
    if isinstance(side, int) and size % side:
        below = size - size % side
        raise ModelError(
            f"Model {name} needs a resolution that is a multiple of its patches of {side}×{side} pixels",
            got=f"{size}",
            fix=f"use {option(role, 'size')} {' or '.join(str(s) for s in (below, below + side) if s)}.",
        )


def _from_folder(folder: Path, config: ModelConfig, classes: int, role: str, size: int | None) -> Created:
    check_saved(folder)
    try:
        saved = read_json(folder / CONFIG)
        outputs, architecture = int(saved["num_classes"]), str(saved["architecture"])
        args, cfg = dict(saved.get("model_args") or {}), dict(saved["pretrained_cfg"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(
            f"The {role}'s folder {folder} must hold a config.json with num_classes and its weights",
            got=first_line(error),
            fix="pass the student/ folder of a run.",
        ) from None
    special = special_in(folder)
    if special is not None:
        rule = f"The {role}'s folder {folder} must hold regular files"
        raise ModelError(rule, got=f"{kind_of(special)}: {special.name}", fix="remove it.")
    if outputs != classes:
        raise ModelError(
            f"The {role} in {folder} must have one output for each class of the data",
            got=f"{outputs} outputs for {classes} classes",
            fix="use a model that was trained on these classes.",
        )
    if parse_model_name(architecture).kind == "callable":
        created = _from_callable(architecture, {**args, **config.args}, classes, role, size or side_of(cfg))
        load_weights(created.model, folder / WEIGHTS, role=role)
    else:
        wanted = size if size != side_of(cfg) else None
        created = _from_timm(config, classes, role, wanted, pretrained=True)
        cfg = dict(created.cfg)
        created = created._replace(blueprint=_with_saved(created.blueprint, args, config.args))
    return created._replace(cfg={**cfg, "label_names": saved.get("label_names")})


def _from_hub(repository: str, config: ModelConfig, classes: int, role: str, size: int | None) -> Created:
    # A repository is saved weights, as a folder is.
    pretrained = config.pretrained or config.weights is None
    created = _from_timm(config, classes, role, size, pretrained=pretrained)
    _, _, args = load_model_config_from_hf(repository)
    return created._replace(blueprint=_with_saved(created.blueprint, args or {}, config.args))


def _with_saved(blueprint: Blueprint, saved: Mapping[str, Any], given: Mapping[str, Any]) -> Blueprint:
    """A blueprint with the arguments that were saved with a model; given ones replace them."""
    args = {name: value for name, value in saved.items() if name not in WRITTEN_BY_TIMM}
    return replace(blueprint, args={**args, **given})


def _from_callable(spec: str, args: Mapping[str, Any], classes: int, role: str, size: int | None) -> Created:
    model = call(spec, args, classes, role)
    cfg = getattr(model, "pretrained_cfg", None)
    cfg = dict(cfg) if isinstance(cfg, dict) else {}
    model = with_interface(model, size or side_of(cfg) or SIZE)
    return Created(model, Blueprint(spec, dict(args)), cfg)


def _not_loaded(name: str, role: str, error: Exception) -> ModelError:
    parsed = parse_model_name(name)
    if parsed.kind == "local-dir":
        return ModelError(
            f"The {role}'s folder {parsed.path} cannot be loaded",
            got=first_line(error),
            fix="pass the student/ folder of a run.",
        )
    return ModelError(
        f"The pretrained weights of {name} could not be loaded",
        got=first_line(error),
        fix=f"connect to the internet once, or pass a file with {option(role, 'weights')}.",
    )
