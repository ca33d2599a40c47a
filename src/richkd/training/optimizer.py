"""The optimizer: any first-order optimizer of timm, and its state as tensors and numbers of a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch import Tensor, nn, optim

from richkd.config.schema import OptimConfig
from richkd.core.errors import ConfigError, nearest


def build_optimizer(task: nn.Module, config: OptimConfig) -> optim.Optimizer:
    """An optimizer of timm over all parameters of student and objective.

    Raises:
        ConfigError: timm has no optimizer of this name, it does not take these settings, or it is a
            second-order method.
    """
    known = list_optimizers()
    if config.name not in known:
        hint = nearest(config.name, known, "timm.optim.list_optimizers() lists all.")
        raise ConfigError(f"There is no optimizer '{config.name}'", fix=hint)
    if get_optimizer_info(config.name).second_order:
        raise ConfigError(
            f"optim.name must be a first-order method; {config.name} needs second derivatives",
            fix="choose another optimizer, such as adamw.",
        )
    try:
        optimizer: optim.Optimizer = create_optimizer_v2(
            task,
            config.name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            filter_bias_and_bn=not config.decay_norm_and_bias,
        )
        return optimizer
    except Exception as error:  # optimizers of optional packages raise errors of their own
        raise ConfigError(
            f"The optimizer {config.name} could not be created",
            got=f"{type(error).__name__}: {error}"[:200],
            fix="install the package that provides it, or choose another optimizer.",
        ) from error


def optimizer_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimizer's state by ``<number of the parameter>.<name>``.

    Example:
        >>> parameter = nn.Parameter(torch.ones(2))
        >>> optimizer = optim.SGD([parameter], lr=0.1, momentum=0.9)
        >>> parameter.grad = torch.full((2,), 0.5)
        >>> loss = optimizer.step()
        >>> {name: t.tolist() for name, t in optimizer_tensors(optimizer).items()}
        {'0.momentum_buffer': [0.5, 0.5]}
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{i}.{name}": t for i, entry in state.items() for name, t in entry.items() if isinstance(t, Tensor)
    }


def optimizer_numbers(optimizer: optim.Optimizer) -> dict[str, Any]:
    """The part of an optimizer's state that is not tensors, such as counters of steps; JSON can hold it.

    ``state`` holds numbers by ``<number of the parameter>.<name>``. ``groups`` holds, for each parameter
    group, the numbers that optimizer steps added to it. Both are left out if they are empty.

    Raises:
        ConfigError: the state holds other types, such as lists of tensors.

    Example:
        >>> optimizer_numbers(optim.SGD([nn.Parameter(torch.zeros(2))], 0.1))
        {}
    """
    numbers = {
        f"{i}.{name}": value
        for i, entry in sorted(optimizer.state_dict()["state"].items())
        for name, value in sorted(entry.items())
        if not isinstance(value, Tensor)
    }
    known = {"params", *optimizer.defaults}
    groups = [
        {
            name: value.item() if isinstance(value, Tensor) else value
            for name, value in group.items()
            if name not in known
        }
        for group in optimizer.param_groups
    ]
    bad = [name for name, value in numbers.items() if not isinstance(value, int | float | None)]
    if bad:
        raise ConfigError(
            f"The state of optimizer {type(optimizer).__name__} must consist of tensors and numbers",
            got=f"{bad[0].partition('.')[2]} of type {type(numbers[bad[0]]).__name__}",
            fix="choose another optimizer; this one cannot be saved in a checkpoint.",
        )
    return ({"state": numbers} if numbers else {}) | ({"groups": groups} if any(groups) else {})


def restore_optimizer(
    optimizer: optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any] | None = None
) -> None:
    """Restore the state that `optimizer_tensors` and `optimizer_numbers` returned.

    Example:
        >>> optimizer = optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
        >>> restore_optimizer(optimizer, {"0.momentum_buffer": torch.full((2,), 0.5)})
        >>> optimizer_tensors(optimizer)["0.momentum_buffer"].tolist()
        [0.5, 0.5]
    """
    numbers = numbers or {}
    state: dict[int, dict[str, Any]] = {}
    for dotted, value in {**tensors, **numbers.get("state", {})}.items():
        number, _, name = dotted.partition(".")
        state.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    added = numbers.get("groups", [{}] * len(groups))
    groups = [{**group, **more} for group, more in zip(groups, added, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # Tensors of a checkpoint are contiguous. If the layout of a moment differs from that of its weight, other
    # kernels are used, which are slower and can round differently.
    for parameter, entry in optimizer.state.items():
        for name, tensor in entry.items():
            if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
