"""Base of the CIFAR networks: timm's model interface, registration, and published layer names.

A network is a :class:`CifarNet` that is built from a stem, stages and closing layers. :func:`register` adds
the builders to timm's registry, so that ``timm.create_model("cifar_resnet20")`` works.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch.nn.functional as F
from timm.layers import create_classifier
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from richkd.core.errors import ModelError

MEAN, STD = (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)

# Patterns of layer names in the published checkpoints, and the names in this package.
RENAMED = (
    (r"^(?:linear|classifier(?:\.0)?)\.", "fc."),
    (r"\.(?:shortcut|convShortcut)\.", ".downsample."),
    (r"^block(\d)\.layer\.", r"layer\1."),
    *((rf"^block{i}\.(?=\d)", f"layer{i + 1}.") for i in range(5)),
    *(
        (rf"^blocks\.{i}\.", f"layer{place}.")
        for i, place in enumerate(("1.0", "1.1", "2.0", "3.0", "3.1", "4.0", "4.1"))
    ),
)


class Stage(NamedTuple):
    """A stage of a network and the shape of its output map.

    Attributes:
        layers: the layers of the stage.
        channels: channels of the output map.
        reduction: resolution of the images divided by that of the output map.

    Example:
        >>> stage = Stage(nn.Conv2d(3, 8, 3, stride=2, padding=1), channels=8, reduction=2)
        >>> stage.channels
        8
    """

    layers: nn.Module
    channels: int
    reduction: int


class CifarNet(nn.Module):
    """A classifier for small images that implements timm's model interface.

    ``stem``, ``stages`` and ``closing`` run in this order. Their layers have the names of the published
    checkpoints (``conv1``, ``bn1``, ``layer1``, …). The stages are ``layer1`` to ``layerN``.

    Args:
        stem: named layers before the first stage.
        stages: the stages in order; ``feature_info`` and ``forward_intermediates`` have one entry per stage.
        closing: named layers between the last stage and the pooling.
        num_features: width F of the pooled feature (default: the channels of the last stage).
        in_chans: channels of the images; the stem must match.
        num_classes: number of outputs C; 0 gives a network without classifier.
        global_pool: timm's name of the pooling.
        drop_rate: dropout rate of the pooled feature, in [0, 1].

    Example:
        >>> import torch
        >>> stage = Stage(nn.Conv2d(3, 8, 3, stride=2, padding=1), channels=8, reduction=2)
        >>> network = CifarNet({}, [stage], num_classes=10)
        >>> tuple(network(torch.zeros(4, 3, 32, 32)).shape)
        (4, 10)
    """

    def __init__(
        self,
        stem: Mapping[str, nn.Module],
        stages: Sequence[Stage],
        closing: Mapping[str, nn.Module] | None = None,
        *,
        num_features: int | None = None,
        in_chans: int = 3,
        num_classes: int = 100,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        closing = closing or {}
        names = [f"layer{i}" for i in range(1, len(stages) + 1)]
        self._stem, self._stages, self._closing = tuple(stem), tuple(names), tuple(closing)
        staged = {name: stage.layers for name, stage in zip(names, stages, strict=True)}
        for name, layers in {**stem, **staged, **closing}.items():
            self.add_module(name, layers)
        self.num_features = self.head_hidden_size = num_features or stages[-1].channels
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": stage.channels, "reduction": stage.reduction, "module": name}
            for name, stage in zip(names, stages, strict=True)
        ]
        self.feature_info[-1]["num_chs_norm"] = self.num_features
        self.in_chans, self.num_classes, self.drop_rate = in_chans, num_classes, drop_rate
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def _run(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x

    def get_classifier(self) -> nn.Module:
        """The linear classifier, or the identity if there is none."""
        return cast(nn.Module, self.fc)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier (``num_classes`` 0: none), and the pooling if ``global_pool`` is given."""
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """The map (B × F × H × W) before the pooling, for images (B × 3 × H × W)."""
        return self._run(self._stem + self._stages + self._closing, x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The logits (B × C) for a map (B × F × H × W), or with ``pre_logits`` the pooled feature (B × F)."""
        pooled: Tensor = self.global_pool(x)
        pooled = F.dropout(pooled, self.drop_rate, self.training)
        return pooled if pre_logits else self._run(("fc",), pooled)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B × C) for images (B × 3 × H × W)."""
        return self.forward_head(self.forward_features(x))

    def _selected(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self._stages)
        requested = (
            range(-(count if indices is None else indices), 0)
            if not isinstance(indices, Sequence)
            else indices
        )
        if not requested or not all(-count <= i < count for i in requested):
            raise ModelError(
                f"The indices of forward_intermediates must be stages {-count} to {count - 1}, or a number "
                "of last stages",
                got=f"indices={indices!r}",
                fix="omit indices to get all stages.",
            )
        return [i % count for i in requested]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The map of :meth:`forward_features`, and the output map of each stage.

        Args:
            x: images (B × 3 × H × W).
            indices: the stages to return; negative indices count from the end; an int means this number of
                last stages; None means all stages.
            norm: apply the closing layers to the map of the last stage.
            stop_early: skip everything after the last requested stage; the first result is then the map of
                that stage.
            output_fmt: must be ``"NCHW"``.
            intermediates_only: return only the maps of the stages.

        Raises:
            ModelError: ``output_fmt`` is not ``"NCHW"``, or a stage does not exist.
        """
        if output_fmt != "NCHW":
            raise ModelError(
                "A convolutional network returns maps in the layout NCHW",
                got=f"output_fmt={output_fmt!r}",
                fix="use output_fmt='NCHW'.",
            )
        selected = self._selected(indices)
        names = self._stages[: max(selected) + 1] if stop_early else self._stages
        maps: list[Tensor] = []
        x = self._run(self._stem, x)
        for name in names:
            x = self._run((name,), x)
            maps.append(x)
        if len(names) == len(self._stages):
            x = self._run(self._closing, x)
            if norm:
                maps[-1] = x
        intermediates = [maps[i] for i in selected]
        return intermediates if intermediates_only else (x, intermediates)


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: nn.Module | None = None) -> dict[str, Tensor]:
    """Rename the layers of a published checkpoint to the names of this package.

    A state dict that already has these names is returned unchanged. ``model`` is part of timm's signature for
    checkpoint filters and is not used.

    Example:
        >>> import torch
        >>> state = {"layer2.0.shortcut.0.weight": torch.zeros(1), "linear.bias": torch.zeros(1)}
        >>> list(checkpoint_filter_fn(state))
        ['layer2.0.downsample.0.weight', 'fc.bias']
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, ours in RENAMED:
            name = re.sub(pattern, ours, name)
        renamed[name] = value
    return renamed


class Entry(NamedTuple):
    """A network to register with timm; see `register`.

    Attributes:
        build: a function that builds the network; it accepts the keyword arguments of :class:`CifarNet`.
        stages: number of stages.
        first_conv: name of the first convolution.

    Example:
        >>> from richkd.models.cifar import NETWORKS
        >>> NETWORKS["cifar_resnet20"].stages
        3
    """

    build: Callable[..., CifarNet]
    stages: int
    first_conv: str = "conv1"


def register(entries: Mapping[str, Entry], module: str) -> None:
    """Register networks with timm, and add a function for each network to the calling module.

    Args:
        entries: the networks by their timm name.
        module: ``__name__`` of the calling module; timm looks there for the configurations.

    Example:
        >>> import timm
        >>> import richkd.models.cifar  # calls register(NETWORKS, __name__)
        >>> timm.create_model("cifar_resnet20", num_classes=10).num_classes
        10
    """
    home = sys.modules[module]
    configs = {name: _config(entry.first_conv) for name, entry in entries.items()}
    home.default_cfgs = generate_default_cfgs(configs)  # type: ignore[attr-defined]
    for name, entry in entries.items():
        function = _entrypoint(name, entry)
        function.__name__ = function.__qualname__ = name
        function.__module__ = module
        setattr(home, name, register_model(function))


def _config(first_conv: str) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 100,
        "input_size": (3, 32, 32),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": MEAN,
        "std": STD,
        "first_conv": first_conv,
        "classifier": "fc",
    }


def _entrypoint(name: str, entry: Entry) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        features = {"feature_cls": "getter", "out_indices": tuple(range(entry.stages))}
        model = build_model_with_cfg(
            entry.build,
            name,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg=features,
            **kwargs,
        )
        return cast(nn.Module, model)

    create.__doc__ = f"Build ``{name}``; takes the keyword arguments of :class:`CifarNet`."
    return create
