"""Build a network from a name: a timm model, a saved student or a callable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import timm
from torch import Tensor, nn

from richkd.config.model_name import parse_model_name
from richkd.config.schema import ModelConfig
from richkd.core.errors import ModelError
from richkd.core.finite import refuse_non_finite_weights
from richkd.core.types import Output
from richkd.data.framing import RESAMPLING, Framing
from richkd.data.views import RGB
from richkd.models.arguments import option
from richkd.models.callables import check_rebuilds
from richkd.models.create import SIZE, Blueprint, create_module, side_of
from richkd.models.probe import check_trainable, map_shapes, probe_head
from richkd.models.weights import Loaded, load_weights


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
        blueprint: architecture and constructor arguments, from which the network can be built again.

    Raises:
        ModelError: the model lacks a part of timm's interface, cannot process RGB images of this size, or
            returns something else than logits and a pooled feature.

    Example:
        >>> import torch
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
        blueprint: Blueprint | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.framing = framing or Framing(size)
        self.name, self.size, self.mean, self.std = name, size, mean, std
        self.class_names, self.loaded = class_names, loaded
        self.blueprint = blueprint or Blueprint(name)
        self.feature_width, self.classes, self._linear_head = probe_head(model, name, size)

    def forward(self, pixels_B3HW: Tensor, maps: bool = False) -> Output:
        """The logits and features of normalized images; with ``maps`` also the output map of each stage."""
        model = cast(Any, self.model)
        stages: tuple[Tensor, ...] = ()
        if maps:
            map_BFHW, intermediates = model.forward_intermediates(pixels_B3HW)
            stages = tuple(intermediates)
        else:
            map_BFHW = model.forward_features(pixels_B3HW)
        if self._linear_head:
            feats_BF = model.forward_head(map_BFHW, pre_logits=True)
            logits_BC = model.get_classifier()(feats_BF)
        else:
            # The logits come first, so that their dropout is that of the model alone.
            logits_BC = model.forward_head(map_BFHW)
            feats_BF = model.forward_head(map_BFHW, pre_logits=True)
        return Output(logits_BC, feats_BF, stages)

    @property
    def ends_in_classifier(self) -> bool:
        """Whether the classifier alone makes the logits from the pooled feature."""
        return self._linear_head

    def map_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Channels, height and width of the output map of each stage.

        Found by a forward pass in evaluation mode, which leaves the network unchanged.

        Raises:
            ModelError: the model does not implement ``forward_intermediates``, or not as timm does.
        """
        return map_shapes(self, self.name, self.size)

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
        NonFiniteError: a weight is NaN or infinite; names the file and the tensor.

    Example:
        >>> network = build_network(ModelConfig(name="cifar_resnet8"), 10, role="student", default_size=8)
        >>> network.classes, network.feature_width, network.size
        (10, 64, 8)
    """
    kind = parse_model_name(config.name).kind
    fixed = config.pretrained or config.weights is not None or kind in ("local-dir", "hf-hub")
    size = config.size or _side(config.args.get("img_size")) or (None if fixed else default_size)
    model, blueprint, cfg = create_module(config, classes, role, size)
    loaded = None
    if config.weights is not None:
        loaded = load_weights(model, config.weights, role=role, new_classifier=new_classifier)
    elif not new_classifier:
        _check_pretrained_classes(config, cfg, classes, role)
    refuse_non_finite_weights(model, f"The {role}'s weights {_source(config)}")
    size = size or side_of(cfg) or SIZE
    mean = config.mean or _rgb(cfg.get("mean") or timm.data.IMAGENET_DEFAULT_MEAN, config.name, role, "mean")
    std = config.std or _rgb(cfg.get("std") or timm.data.IMAGENET_DEFAULT_STD, config.name, role, "std")
    _check_normalization(config.name, role, mean, std)
    network = Network(
        model,
        config.name,
        size=size,
        # A student is trained on views of whole pictures, whatever its starting weights were trained on.
        framing=_framing(config, size, {} if new_classifier else cfg),
        mean=mean,
        std=std,
        class_names=tuple(cfg["label_names"]) if cfg.get("label_names") else None,
        loaded=loaded,
        blueprint=blueprint,
    )
    _check_classes(network, classes, role)
    if new_classifier:
        check_trainable(network, config.name, network.size)
        built = network.blueprint
        if parse_model_name(built.architecture).kind == "callable":
            check_rebuilds(model, built.architecture, built.args, classes, role, network.size)
    return network


def _source(config: ModelConfig) -> str:
    """Where the weights of a model come from, for messages."""
    parsed = parse_model_name(config.name)
    if config.weights is not None:
        return str(config.weights)
    if parsed.kind == "local-dir":
        return f"in {parsed.path}"
    return f"of {config.name}" + (", as its constructor makes them," if not config.pretrained else "")


def _check_normalization(name: str, role: str, mean: RGB, std: RGB) -> None:
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ModelError(
            f"The {role} {name} must have a finite mean and a positive std of the color channels",
            got=f"mean {mean}, std {std}",
            fix=f"correct its configuration, or set {option(role, 'mean')} and {option(role, 'std')}.",
        )


def _check_classes(network: Network, classes: int, role: str) -> None:
    if network.classes != classes:
        raise ModelError(
            f"The {role} {network.name} must have one output for each class of the data",
            got=f"{network.classes} outputs for {classes} classes",
            fix="give the last layer as many outputs as the argument num_classes says.",
        )


def _check_pretrained_classes(config: ModelConfig, cfg: Mapping[str, Any], classes: int, role: str) -> None:
    """Refuse published weights of other classes, whose classifier timm replaces by a random one."""
    trained, kind = cfg.get("num_classes"), parse_model_name(config.name).kind
    downloaded = kind == "hf-hub" or (kind == "name" and config.pretrained)
    if downloaded and trained != classes:
        raise ModelError(
            f"The {role} {config.name} must have one output for each class of the data",
            got=f"pretrained weights with {trained} outputs for {classes} classes",
            fix="use a model that was trained on these classes, or train one from these weights: "
            f"`richkd teach --model {config.name} --student.pretrained true`.",
        )


def _side(img_size: Any) -> int | None:
    """The resolution that an argument ``img_size`` means: a number, or a height and width."""
    side = img_size[-1] if isinstance(img_size, list) and img_size else img_size
    return side if isinstance(side, int) else None


def _framing(config: ModelConfig, size: int, cfg: Mapping[str, Any]) -> Framing:
    interpolation = config.interpolation or cfg.get("interpolation")
    mode = config.crop_mode or cfg.get("crop_mode")
    return Framing(
        size,
        config.crop_pct or cfg.get("crop_pct") or 1.0,
        interpolation if interpolation in RESAMPLING else "bicubic",
        squash=mode == "squash",
    )


def _rgb(values: Any, name: str, role: str, setting: str) -> RGB:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"The configuration of the {role} {name} must have a {setting} of three color channels",
            got=f"{setting} {values}",
            fix=f"use a model for RGB images, correct its configuration, or set {option(role, setting)}.",
        ) from error
    return red, green, blue
