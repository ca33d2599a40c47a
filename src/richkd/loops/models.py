"""Models of the user as the loss terms see them: logits, pooled features and, on request, maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from richkd.core.errors import ModelError
from richkd.core.types import Output
from richkd.methods.term import NetworkShapes
from richkd.models.build import Network
from richkd.models.map_classifier import map_classifier
from richkd.models.probe import CONTRACT, first_line, pixels_for, unchanged
from richkd.models.stage_ends import find_stage_ends

STUDENT, CLIP = "student", "CLIP"
AnyModel = nn.Module | Callable[[Tensor], Any]


class LogitModel(nn.Module):
    """A model that is not known to have features: it returns logits, an `Output`, or an object with logits.

    Args:
        call: the model; a module is registered, so its parameters are trained and saved.
        name: what it is called in messages.

    Example:
        >>> model = LogitModel(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), "small")
        >>> output = model(torch.zeros(2, 3, 2, 2))
        >>> tuple(output.logits_BC.shape), tuple(output.feats_BF.shape)
        ((2, 5), (2, 0))
    """

    def __init__(self, call: AnyModel, name: str) -> None:
        super().__init__()
        self.call, self.name = call, name

    def forward(self, pixels_B3HW: Tensor, maps: bool = False) -> Output:
        """The output for normalized images.

        Raises:
            ModelError: the model returned something else.
        """
        result = self.call(pixels_B3HW)
        if isinstance(result, Output):
            return result
        # Models of other libraries return an object with the logits as an attribute.
        logits = result if isinstance(result, Tensor) else getattr(result, "logits", None)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(pixels_B3HW):
            raise ModelError(
                f"The {self.name} must return logits (B, C), an object with them as `logits`, or an Output",
                got=f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(result).__name__,
                fix="wrap it in a function that does.",
            )
        return Output(logits, logits.new_empty(len(logits), 0))


def adapted(model: AnyModel, name: str, size: int) -> nn.Module:
    """A model that returns an `Output`.

    A model with timm's interface gets features and maps; any other model has them only if it returns an
    `Output` itself.

    Raises:
        ModelError: a model with timm's interface cannot process images of this size.

    Example:
        >>> import timm
        >>> type(adapted(timm.create_model("cifar_resnet8"), "student", size=8)).__name__
        'Network'
    """
    if isinstance(model, Network | LogitModel):
        return model
    if isinstance(model, nn.Module) and all(hasattr(model, part) for part in CONTRACT):
        # Pixels arrive normalized, so no normalization is stored.
        return Network(model, name, size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return LogitModel(model, name)


def shapes_of(model: nn.Module, name: str, size: int, classes: int, *, maps: bool) -> NetworkShapes:
    """The widths of a model's outputs, from a pass of two images. The model is not changed.

    Args:
        model: from `adapted`.
        name: what it is called in messages.
        size: resolution of the images.
        classes: number of outputs that it must have.
        maps: whether a term reads its maps.

    Raises:
        ModelError: it cannot process such images, has another number of outputs, or has no maps although a
            term reads them.

    Example:
        >>> model = LogitModel(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), "small")
        >>> shapes_of(model, "small", 2, classes=5, maps=False).features
        0
    """
    try:
        with unchanged(model), torch.no_grad():
            output = model(pixels_for(model, size))
    except ModelError:
        raise
    except Exception as error:  # the code of a model can raise any exception class
        raise ModelError(
            f"The {name} must process images of shape (2, 3, {size}, {size})",
            got=first_line(error),
            fix="pass the size of the images of your loop, or a function that resizes them first.",
        ) from error
    if output.logits_BC.shape[1] != classes:
        raise ModelError(
            f"The {name} must have one logit for each of {classes} classes",
            got=f"{output.logits_BC.shape[1]}",
            fix="pass the number of classes, or a model with as many outputs.",
        )
    features = output.feats_BF.shape[1]
    if not maps:
        return NetworkShapes(features)
    if not isinstance(model, Network):
        raise ModelError(
            f"A loss term reads intermediate maps of the {name}",
            got="a model without timm's interface",
            fix="use a model with forward_intermediates, or another term.",
        )
    if name == STUDENT:
        return NetworkShapes(features, model.map_shapes())
    ends = find_stage_ends(model)
    return NetworkShapes(features, model.map_shapes(), ends.norms, ends.averaged, map_classifier(model))
