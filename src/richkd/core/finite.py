"""Refuse NaN and infinity where they come in: in weights, and in the outputs of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from richkd.core.errors import NonFiniteError

# Buffers that are statistics. Other buffers may be infinite: masks of attention contain −∞.
STATISTICS = ("running_mean", "running_var")
NAMED = 3


def non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """What is NaN or infinite in named tensors, for a message; None if everything is finite.

    Example:
        >>> non_finite({"fc.weight": torch.tensor([1.0, float("nan")]), "fc.bias": torch.zeros(2)})
        "1 of 2 values of tensor 'fc.weight' are NaN or infinite"
    """
    bad = {name: t for name, t in tensors.items() if t.is_floating_point() and not bool(t.isfinite().all())}
    if not bad:
        return None
    name, first = next(iter(bad.items()))
    count = int((~first.isfinite()).sum())
    others = f", and values of {len(bad) - 1} other tensors" if len(bad) > 1 else ""
    return f"{count:,} of {first.numel():,} values of tensor '{name}' are NaN or infinite{others}"


def refuse_non_finite_weights(model: nn.Module, weights: str) -> None:
    """Check that the parameters and the statistics of a model are finite, and no other buffer is NaN.

    Args:
        model: the model with its weights.
        weights: what the weights are and where they come from, such as "The teacher's weights teacher.pth".

    Raises:
        NonFiniteError: names the weights, the first tensor and the number of its values.

    Example:
        >>> refuse_non_finite_weights(nn.Linear(2, 3), "The weights of a layer")
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or is_lazy(tensor) or not tensor.is_floating_point():
            continue
        strict = name in parameters or name.endswith(STATISTICS)
        tensors[name] = tensor.detach() if strict else tensor.detach().nan_to_num(torch.nan, 0.0, 0.0)
    if got := non_finite(tensors):
        raise NonFiniteError(
            f"{weights} must be finite",
            got=got,
            fix="use weights of a training that did not diverge, or copy the file again.",
        )


def refuse_non_finite_rows(logits_NC: Tensor, model: str, key: Callable[[int], str], fix: str) -> None:
    """Check that a model's logits are finite for every image.

    Args:
        logits_NC: the logits.
        model: what the model is called in the message, such as "teacher resnet50".
        key: the key of the image of a row.
        fix: what the user can do.

    Raises:
        NonFiniteError: names the model and the first images.

    Example:
        >>> refuse_non_finite_rows(torch.zeros(2, 3), "teacher resnet50", "image {}".format, "check it.")
    """
    bad = (~logits_NC.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
    if bad:
        named = ", ".join(key(row) for row in bad[:NAMED]) + (", …" if len(bad) > NAMED else "")
        raise NonFiniteError(
            f"The outputs of {model} must be finite",
            got=f"NaN or infinity for {len(bad)} of {len(logits_NC)} images: {named}",
            fix=fix,
        )
