"""Build a network from a name: a timm model, a saved student or a callable."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from richkd.config.model_name import parse_model_name
from richkd.config.schema import ModelConfig
from richkd.core.errors import ModelError, nearest
from richkd.core.types import Output
from richkd.data.framing import RESAMPLING, Framing
from richkd.data.views import RGB
from richkd.models.weights import Loaded, load_weights

# The part of timm's model interface that a model must have.
CONTRACT = ("forward_features", "forward_head", "get_classifier", "num_features")


class Network(nn.Module):
    """A classifier with timm's model interface, and the input that it expects; made by `build_network`.

    Calling it returns an :class:`Output` with the class logits and the pooled feature (the input of the
    classifier).

    Attributes:
        model: the wrapped module; its state dict has no prefix.
        name: the name that the model was built from.
        size: input resolution in pixels.
        framing: how its input is cut out of a picture in evaluation.
        mean, std: normalization of each color channel, for pixel values in [0, 1].
        class_names: the classes in the order of the outputs, if they were stored with the weights; else None.
        feature_width: width F of the pooled feature.
        classes: number of outputs C.
        loaded: what was loaded from a file of weights; None without such a file.

    Raises:
        ModelError: the model lacks a part of timm's interface, or cannot process images of this size.

    Example:
        >>> model = timm.create_model("cifar_resnet8", num_classes=10)
        >>> network = Network(model, "cifar_resnet8", size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> output = network(torch.zeros(2, 3, 8, 8))
        >>> tuple(output.logits_BC.shape), tuple(output.feats_BF.shape)
        ((2, 10), (2, 64))
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        size: int,
        mean: RGB,
        std: RGB,
        framing: Framing | None = None,
        class_names: tuple[str, ...] | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.framing = framing or Framing(size)
        self.name, self.size, self.mean, self.std = name, size, mean, std
        self.class_names, self.loaded = class_names, loaded
        self.feature_width, self.classes, self._linear_head = _probe_head(model, name, size)

    def forward(self, pixels_B3HW: Tensor, maps: bool = False) -> Output:
        """The logits and features of normalized images; with ``maps`` also the output map of each stage."""
        model = cast(Any, self.model)
        stages: tuple[Tensor, ...] = ()
        if maps:
            map_BFHW, intermediates = model.forward_intermediates(pixels_B3HW)
            stages = tuple(intermediates)
        else:
            map_BFHW = model.forward_features(pixels_B3HW)
        feats_BF = model.forward_head(map_BFHW, pre_logits=True)
        logits_BC = model.get_classifier()(feats_BF) if self._linear_head else model.forward_head(map_BFHW)
        return Output(logits_BC, feats_BF, stages)

    def map_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Channels, height and width of the output map of each stage.

        Found by a forward pass in evaluation mode, which leaves the network unchanged.

        Raises:
            ModelError: the model does not implement ``forward_intermediates``.
        """
        if not hasattr(self.model, "forward_intermediates"):
            raise ModelError(
                f"Intermediate maps need a model with timm's forward_intermediates; {self.name} has none",
                got=f"a {type(self.model).__name__}",
                fix="choose another model, or a loss term on logits or pooled features.",
            )
        parameter = next(self.parameters())
        pixels = torch.zeros(1, 3, self.size, self.size, device=parameter.device, dtype=parameter.dtype)
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        with torch.no_grad():
            maps = self(pixels, maps=True).maps
        for module, training in modes:
            module.training = training
        shapes = [tuple(map_BFHW.shape[1:]) for map_BFHW in maps]
        return tuple((channels, height, width) for channels, height, width in shapes)

    @property
    def parameters_count(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())


def build_network(
    config: ModelConfig,
    classes: int,
    *,
    role: str,
    default_size: int | None = None,
    new_classifier: bool = False,
) -> Network:
    """Build a network and load its weights.

    Args:
        config: name, weights and input of the model.
        classes: number of outputs.
        role: ``"student"`` or ``"teacher"``, for messages.
        default_size: resolution to use if neither the settings nor the weights determine it.
        new_classifier: whether a file of weights may have another classifier, as a start for training.

    Raises:
        ModelError: the name is unknown (the message has similar names), a callable cannot be imported, or
            the weights have a different architecture or number of classes.

    Example:
        >>> network = build_network(ModelConfig(name="cifar_resnet8"), 10, role="student", default_size=8)
        >>> network.classes, network.feature_width, network.size
        (10, 64, 8)
    """
    kind = parse_model_name(config.name).kind
    if kind == "callable":
        model = _from_callable(config.name, classes, role)
    else:
        model = _from_timm(config, classes, role)
    cfg = getattr(model, "pretrained_cfg", None) or {}
    class_names = tuple(cfg["label_names"]) if cfg.get("label_names") else None
    loaded = None
    if config.weights is not None:
        loaded = load_weights(model, config.weights, role=role, new_classifier=new_classifier)
    fixed = config.pretrained or config.weights is not None or kind == "local-dir"
    model_size = cfg.get("input_size", (3, 224, 224))[-1]
    size = config.size or (model_size if fixed or default_size is None else default_size)
    return Network(
        model,
        config.name,
        size=size,
        # A student is trained on views of whole pictures, whatever its starting weights were trained on.
        framing=_framing(config, size, {} if new_classifier else cfg),
        mean=config.mean or _rgb(cfg.get("mean", timm.data.IMAGENET_DEFAULT_MEAN)),
        std=config.std or _rgb(cfg.get("std", timm.data.IMAGENET_DEFAULT_STD)),
        class_names=class_names,
        loaded=loaded,
    )


def _from_timm(config: ModelConfig, classes: int, role: str) -> nn.Module:
    name, parsed = config.name, parse_model_name(config.name)
    if parsed.kind == "local-dir":
        return _from_folder(parsed.path, classes, role)
    if parsed.kind != "hf-hub" and not timm.is_model(name.partition(".")[0]):
        raise ModelError(f"No model is called '{name}' (the {role})", fix=nearest(name, timm.list_models()))
    try:
        return cast(nn.Module, timm.create_model(name, pretrained=config.pretrained, num_classes=classes))
    except Exception as error:
        if not config.pretrained and "hub" not in name:
            raise ModelError(
                f"The {role} {name} could not be built", got=f"{type(error).__name__}: {error}"
            ) from error
        raise ModelError(
            f"The pretrained weights of {name} could not be loaded",
            got=f"{type(error).__name__}: {error}"[:300],
            fix=f"connect to the internet once, or pass a file with --{role}.weights.",
        ) from error


def _from_folder(folder: Path, classes: int, role: str) -> nn.Module:
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        outputs = int(saved["num_classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"The {role}'s folder {folder} must hold a config.json with num_classes and its weights",
            got=f"{type(error).__name__}: {error}",
            fix="pass the student/ folder of a run.",
        ) from None
    if outputs != classes:
        raise ModelError(
            f"The {role} in {folder} must have one output for each class of the data",
            got=f"{outputs} outputs for {classes} classes",
            fix="use a model that was trained on these classes.",
        )
    try:
        model = cast(nn.Module, timm.create_model(f"local-dir:{folder}", pretrained=True))
    except Exception as error:
        raise ModelError(
            f"The {role}'s folder {folder} cannot be loaded", got=f"{type(error).__name__}: {error}"
        ) from error
    cast(Any, model).pretrained_cfg["label_names"] = saved.get("label_names")
    return model


def _from_callable(spec: str, classes: int, role: str) -> nn.Module:
    module_name, _, attribute = spec.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"The {role} '{spec}' must be an importable package.module:callable",
            got=f"{type(error).__name__}: {error}",
            fix="install the package, or add its folder to PYTHONPATH.",
        ) from None
    model = factory(num_classes=classes)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"The {role} '{spec}' must return a torch.nn.Module",
            got=type(model).__name__,
            fix="return the network from the callable.",
        )
    return model


def _probe_head(model: nn.Module, name: str, size: int) -> tuple[int, int, bool]:
    """Widths of features and logits, and whether the classifier alone maps the features to the logits."""
    missing = [part for part in CONTRACT if not hasattr(model, part)]
    if missing:
        raise ModelError(
            f"Model {name} must implement timm's model interface",
            got=f"a {type(model).__name__} without {', '.join(missing)}",
            fix="add these methods; see `timm.models.ResNet` for what they return.",
        )
    contract, training = cast(Any, model), model.training
    model.eval()
    with torch.no_grad():
        pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            map_BFHW = contract.forward_features(pixels)
            feats = contract.forward_head(map_BFHW, pre_logits=True)
            logits = contract.forward_head(map_BFHW)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ModelError(
                f"Model {name} does not accept images of {size}×{size} pixels",
                got=str(error).splitlines()[0],
                fix="set its resolution with --student.size or --teacher.size.",
            ) from error
    model.train(training)
    head = contract.get_classifier()
    linear = isinstance(head, nn.Module) and feats.ndim == 2
    if linear:
        with torch.no_grad():
            try:
                linear = torch.allclose(head(feats), logits, rtol=1e-4, atol=1e-5)
            except RuntimeError:
                linear = False
    return int(feats.shape[-1]), int(logits.shape[-1]), linear


def _framing(config: ModelConfig, size: int, cfg: Mapping[str, Any]) -> Framing:
    interpolation = config.interpolation or cfg.get("interpolation")
    mode = config.crop_mode or cfg.get("crop_mode")
    return Framing(
        size,
        config.crop_pct or cfg.get("crop_pct") or 1.0,
        interpolation if interpolation in RESAMPLING else "bicubic",
        squash=mode == "squash",
    )


def _rgb(values: Any) -> RGB:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
