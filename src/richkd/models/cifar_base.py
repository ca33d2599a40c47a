"""What the CIFAR benchmark's networks share: timm's contract, registration, the literature's layer names.

A network is a :class:`CifarNet` built from a stem, stages and closing layers; :func:`register` gives timm a
table of such builders, so that ``timm.create_model("cifar_resnet20")`` finds them.
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

# Layer names of the benchmark's published checkpoints (left) that differ from ours (right).
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
    """Layers that end in a map of ``channels``, at 1 / ``reduction`` of the input's resolution."""

    layers: nn.Module
    channels: int
    reduction: int


class CifarNet(nn.Module):
    """A classifier of small images that follows timm's contract.

    ``stem``, ``stages`` and ``closing`` run one after the other; their layers keep the names of the
    literature's checkpoints (``conv1``, ``bn1``, ``layer1``, ...). Stages are ``layer1`` to ``layerN``.

    Args:
        stem: named layers before the first stage.
        stages: the stages, in order; ``feature_info`` and ``forward_intermediates`` have an entry for each.
        closing: named layers between the last stage and the pooling.
        num_features: width F of the pooled feature; that of the last stage where not given.
        in_chans: channels of the images, which the stem already expects.
        num_classes: outputs C; 0 gives a network without classifier.
        global_pool: timm's name of the pooling.
        drop_rate: dropout of the pooled feature, 0 to 1.
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
        return cast(nn.Module, self.fc)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier of ``num_classes`` outputs (0: none), and another pooling where one is named."""
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """The map of shape BFHW under the pooling, of images of shape B3HW."""
        return self._run(self._stem + self._stages + self._closing, x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits BC of a map BFHW, or the pooled feature BF that the classifier reads."""
        pooled: Tensor = self.global_pool(x)
        pooled = F.dropout(pooled, self.drop_rate, self.training)
        return pooled if pre_logits else self._run(("fc",), pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def _wanted(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self._stages)
        asked = (
            range(-(count if indices is None else indices), 0)
            if not isinstance(indices, Sequence)
            else indices
        )
        if not asked or not all(-count <= i < count for i in asked):
            raise ModelError(
                f"forward_intermediates takes stages {-count} to {count - 1} here, or how many of the last.",
                got=f"indices={indices!r}",
                fix="leave indices out to get every stage.",
            )
        return [i % count for i in asked]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """One map for each stage, and the map that :meth:`forward_features` gives.

        Args:
            x: images B3HW.
            indices: stages to return, negative ones from the end; an int means the last so many; None all.
            norm: run the closing layers on the last stage's map, too.
            stop_early: compute nothing behind the last stage asked for; the first result is then its map.
            output_fmt: ``"NCHW"``, the only layout of these maps.
            intermediates_only: leave the final map out.

        Raises:
            ModelError: another ``output_fmt``, or a stage that does not exist.
        """
        if output_fmt != "NCHW":
            raise ModelError("A convolutional network gives NCHW maps.", got=f"output_fmt={output_fmt!r}")
        wanted = self._wanted(indices)
        names = self._stages[: max(wanted) + 1] if stop_early else self._stages
        maps: list[Tensor] = []
        x = self._run(self._stem, x)
        for name in names:
            x = self._run((name,), x)
            maps.append(x)
        if len(names) == len(self._stages):
            x = self._run(self._closing, x)
            if norm:
                maps[-1] = x
        taken = [maps[i] for i in wanted]
        return taken if intermediates_only else (x, taken)


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: nn.Module | None = None) -> dict[str, Tensor]:
    """A state dict of the benchmark's published checkpoints under our layer names; our own passes unchanged.

    ``model`` belongs to timm's signature of such filters and is not read.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        for pattern, ours in RENAMED:
            name = re.sub(pattern, ours, name)
        renamed[name] = value
    return renamed


class Entry(NamedTuple):
    """A builder that takes :class:`CifarNet`'s keywords, its number of stages, and its first convolution."""

    build: Callable[..., CifarNet]
    stages: int
    first_conv: str = "conv1"


def register(entries: Mapping[str, Entry], module: str) -> None:
    """Give timm a table of networks by name, and ``module`` a function for each.

    Args:
        entries: builders by their timm name.
        module: ``__name__`` of the calling module, in which timm looks for the configurations.
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
        "interpolation": "bilinear",
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

    create.__doc__ = f"``{name}``, with :class:`CifarNet`'s keywords."
    return create
