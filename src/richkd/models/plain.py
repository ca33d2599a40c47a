"""Classifiers without timm's model interface, such as those of torchvision: what distillation needs of it.

A classifier that only has ``forward`` is accepted if a linear layer makes its logits. The input of this layer
is the pooled feature. ``forward`` returns the logits, or an object with them as ``logits``, as models of
transformers do. The names of the weights stay as they are, so checkpoints can be loaded.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from richkd.models.probe import METHODS, pixels_for, unchanged


class PassingLayer:
    """Mixed into the class of a linear layer: it can return its input."""

    passing = False

    def forward(self, x: Tensor) -> Tensor:
        return x if self.passing else cast(Any, super()).forward(x)


class PlainClassifier:
    """Mixed into the class of a classifier that only has ``forward``: the part of timm's interface it lacks.

    There are no intermediate maps, so ``forward_features`` returns the pooled feature (B, F) itself.
    """

    _linear_name: str

    def get_classifier(self) -> nn.Module:
        """The linear layer that makes the logits."""
        return cast(nn.Module, self).get_submodule(self._linear_name)

    def forward_features(self, x: Tensor) -> Tensor:
        """The pooled feature: the input of the classifier."""
        layer = cast(Any, self.get_classifier())
        layer.passing = True
        try:
            return cast(Tensor, _logits_of(cast(Any, self).forward(x)))
        finally:
            layer.passing = False

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The logits (B, C) of pooled features; with ``pre_logits``, the features."""
        return x if pre_logits else cast(Tensor, self.get_classifier()(x))


def with_interface(model: nn.Module, size: int) -> nn.Module:
    """Give a classifier that only has ``forward`` the part of timm's interface that it lacks.

    The last linear layer must be called once for a batch of images, and its output must be the logits. Any
    other model is returned as it is.

    Args:
        model: the classifier; its class becomes a subclass with the interface. Nothing else changes.
        size: resolution in pixels of the images with which the linear layer is found.

    Returns:
        ``model``.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> names = list(model.state_dict())
        >>> adapted = with_interface(model, size=8)
        >>> adapted.num_features, tuple(adapted.forward_features(torch.zeros(1, 3, 8, 8)).shape)
        (4, (1, 4))
        >>> list(adapted.state_dict()) == names
        True
    """
    if any(hasattr(type(model), method) for method in METHODS):
        return model
    name = _linear_of_logits(model, size)
    if name is not None:
        _extend(model, PlainClassifier)
        _extend(model.get_submodule(name), PassingLayer)
        contract = cast(Any, model)
        contract._linear_name = name
        # A model can have an attribute of this name, which is then its own.
        if not hasattr(model, "num_features"):
            contract.num_features = contract.get_classifier().in_features
    return model


def _linear_of_logits(model: nn.Module, size: int) -> str | None:
    """Name of the linear layer whose output is the logits; None if there is none."""
    calls: list[tuple[str, Any]] = []

    def record(name: str, layer: nn.Module) -> Any:
        return layer.register_forward_hook(lambda module, given, output: calls.append((name, output)))

    hooks = [record(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    try:
        with unchanged(model), torch.no_grad():
            logits = _logits_of(model(pixels_for(model, size)))
    except Exception:  # the code of a model can raise any exception class; `probe_head` tells the user
        return None
    finally:
        for hook in hooks:
            hook.remove()
    makers = [name for name, output in calls if output is logits]
    once = len(makers) == 1 and [name for name, _ in calls].count(makers[0]) == 1
    return makers[0] if once and makers[0] else None


def _logits_of(output: Any) -> Any:
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def _extend(module: nn.Module, mixin: type) -> None:
    kind = type(module)
    module.__class__ = type(kind.__name__, (mixin, kind), {"__module__": kind.__module__})
