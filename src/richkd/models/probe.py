"""Look at a network without changing it: widths of outputs, shapes of maps, and the end of the head."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from richkd.core.errors import ModelError

# The part of timm's model interface that a model must have.
METHODS = ("forward_features", "forward_head", "get_classifier")
CONTRACT = (*METHODS, "num_features")
# Numbers of input channels that a model may have instead of the three of RGB.
OTHER_CHANNELS = (1, 2, 4)


class Head(NamedTuple):
    """What is known of a model's head.

    Attributes:
        width: width F of the pooled feature.
        classes: number of outputs C.
        ends_in_classifier: whether the classifier alone maps the pooled feature to the logits.
    """

    width: int
    classes: int
    ends_in_classifier: bool


@contextmanager
def unchanged(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Put a model into one mode. Afterwards modes, buffers and random numbers are as before.

    Args:
        model: the model.
        training: the mode inside.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
        >>> with unchanged(model, training=True):
        ...     output = model(torch.rand(4, 2))
        >>> model[0].training, model[1].training, model[0].running_mean.tolist()
        (False, True, [0.0, 0.0])
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            model.train(training)
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    module._buffers[name] = buffer.copy_(value)


def probe_head(model: nn.Module, name: str, size: int) -> Head:
    """The widths of a model's outputs, and how its head ends. The model is not changed.

    Raises:
        ModelError: the model lacks a part of timm's interface, it cannot process RGB images of this size, or
            its outputs are not a tensor of logits (B, C) and a pooled feature (B, F).

    Example:
        >>> import timm
        >>> probe_head(timm.create_model("cifar_resnet8", num_classes=10), "cifar_resnet8", 8)
        Head(width=64, classes=10, ends_in_classifier=True)
    """
    try:
        missing = [part for part in CONTRACT if not hasattr(model, part)]
    except Exception as error:  # an attribute can be a property that raises any exception class
        raise _refusal(model, name, size, error) from error
    if missing:
        if missing[: len(METHODS)] == [*METHODS]:
            _refuse_plain(model, name, size)
        raise ModelError(
            f"Model {name} must implement timm's model interface",
            got=f"a {type(model).__name__} without {', '.join(missing)}",
            fix="add these methods; see `timm.models.ResNet` for what they return.",
        )
    contract, pixels = cast(Any, model), pixels_for(model, size)
    try:
        with unchanged(model), torch.no_grad():
            maps = contract.forward_features(pixels)
            logits = contract.forward_head(_fresh(maps))
            feats = contract.forward_head(_fresh(maps), pre_logits=True)
            contract.get_classifier()
    except Exception as error:  # the code of a model can raise any exception class
        raise _refusal(model, name, size, error) from error
    dtype = pixels.dtype
    check_shape(logits, name, "forward_head(x)", "a tensor of logits (B, C)", dtype)
    check_shape(feats, name, "forward_head(x, pre_logits=True)", "a tensor of pooled features (B, F)", dtype)
    ends = all(_ends_in_classifier(contract, maps, training=training) for training in (False, True))
    return Head(int(feats.shape[1]), int(logits.shape[1]), ends)


def check_trainable(network: nn.Module, name: str, size: int) -> None:
    """Refuse a network whose outputs in training are not logits and a pooled feature. It is not changed.

    Args:
        network: a `Network`, which returns an `Output`.
        name: what it is called in messages.
        size: resolution of the images.

    Raises:
        ModelError: it raises an exception in training mode, returns something else than in evaluation, or
            its logits depend on no parameter that can be trained.

    Example:
        >>> from richkd.core.types import Output
        >>> class Pair(nn.Linear):
        ...     def __init__(self):
        ...         super().__init__(3, 3)
        ...     def forward(self, pixels):
        ...         return Output(super().forward(pixels.mean((2, 3))), pixels.mean((2, 3)))
        >>> check_trainable(Pair(), "pair", size=8)
    """
    try:
        with unchanged(network, training=True), torch.enable_grad():
            output = network(pixels_for(network, size))
            _backward(output.logits_BC, network)
    except Exception as error:
        raise ModelError(
            f"Model {name} must run in training mode on two images of {size}×{size} pixels",
            got=first_line(error),
            fix="choose a larger resolution with --student.size, or another model.",
        ) from error
    check_shape(output.logits_BC, name, "forward_head(x) in training mode", "a tensor of logits (B, C)")
    if not output.logits_BC.requires_grad:
        frozen = not any(parameter.requires_grad for parameter in network.parameters())
        raise ModelError(
            f"The logits of model {name} must depend on parameters that can be trained",
            got="no parameter that requires a gradient" if frozen else "logits without a gradient",
            fix="remove requires_grad_(False), detach() and no_grad() from the model.",
        )


def map_shapes(network: nn.Module, name: str, size: int) -> tuple[tuple[int, int, int], ...]:
    """Channels, height and width of the output map of each stage of a `Network`. It is not changed.

    Raises:
        ModelError: the model does not implement timm's ``forward_intermediates``.

    Example:
        >>> import timm
        >>> from richkd.models.build import Network
        >>> model, rgb = timm.create_model("cifar_resnet8"), (0.5, 0.5, 0.5)
        >>> map_shapes(Network(model, "cifar_resnet8", size=8, mean=rgb, std=rgb), "cifar_resnet8", 8)
        ((16, 8, 8), (32, 4, 4), (64, 2, 2))
    """
    model = network.model
    other = "choose another model, or a loss term on logits or pooled features."
    if not hasattr(model, "forward_intermediates"):
        raise ModelError(
            f"Intermediate maps need a model with timm's forward_intermediates; {name} has none",
            got=f"a {type(model).__name__}",
            fix=other,
        )
    try:
        with unchanged(network), torch.no_grad():
            maps = network(pixels_for(network, size, batch=1), maps=True).maps
        shapes = [(channels, height, width) for _, channels, height, width in (m.shape for m in maps)]
    except Exception as error:
        raise ModelError(
            f"Model {name} must return its maps (B, C, H, W) from forward_intermediates",
            got=first_line(error),
            fix=other,
        ) from error
    return tuple(shapes)


def _backward(logits: Any, network: nn.Module) -> None:
    """The backward pass of logits, which leaves no gradients behind."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if isinstance(logits, Tensor) and logits.requires_grad and trained:
        torch.autograd.grad(logits.float().sum(), trained, allow_unused=True)


def check_shape(output: Any, name: str, call: str, expected: str, dtype: torch.dtype | None = None) -> None:
    """Refuse an output for two images that is no floating-point tensor with one row per image.

    Args:
        output: the output.
        name: what the model is called in messages.
        call: the call that returned it.
        expected: what it should be.
        dtype: the type that it must have; None for any floating-point type.

    Raises:
        ModelError: naming the model and the call.

    Example:
        >>> check_shape(torch.zeros(2, 10), "resnet18", "forward_head(x)", "a tensor of logits (B, C)")
    """
    kind = type(output).__name__
    if isinstance(output, Tensor):
        known = output.is_floating_point() if dtype is None else output.dtype == dtype
        if output.ndim == 2 and len(output) == 2 and known:
            return
        kind = f"a tensor of shape {tuple(output.shape)}" + ("" if known else f" and type {output.dtype}")
    raise ModelError(
        f"Model {name} must return {expected} from {call}",
        got=f"{kind} for two images",
        fix="change what the model returns; see `timm.models.ResNet`.",
    )


def pixels_for(model: nn.Module, size: int, channels: int = 3, batch: int = 2) -> Tensor:
    """Random pixels (B, 3, size, size) on the model's device and in its precision, always the same.

    Example:
        >>> tuple(pixels_for(nn.Conv2d(3, 8, 3), size=16).shape)
        (2, 3, 16, 16)
    """
    first = next(iter(model.parameters()), torch.empty(0))
    dtype = first.dtype if first.is_floating_point() else torch.float32
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, size, size, generator=generator).to(first.device, dtype)


def _ends_in_classifier(model: Any, maps: Any, *, training: bool) -> bool:
    """Whether the head is: the pooled feature, then one call of the classifier, and nothing else.

    Equal values on one input are no proof: a normalization or a scale that was just initialized, or a dropout
    in evaluation mode, changes nothing. So the classifier's input must also be the result of as many
    operations as the pooled feature is, and its output must be the logits.
    """
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Module):
        return False
    calls: list[tuple[Any, Any]] = []
    record = classifier.register_forward_hook(lambda module, given, output: calls.append((given, output)))
    try:
        # Both calls start from the same random numbers, so that they have the same dropout.
        with unchanged(model, training=training), torch.enable_grad():
            logits = model.forward_head(_fresh(maps))
        record.remove()
        with unchanged(model, training=training), torch.enable_grad():
            feats = model.forward_head(_fresh(maps), pre_logits=True)
    except Exception:  # the model cannot do this in this mode; what it can do was checked before
        return False
    finally:
        record.remove()
    if len(calls) != 1 or len(calls[0][0]) != 1 or calls[0][1] is not logits:
        return False
    given = calls[0][0][0]
    return bool(torch.equal(given, feats)) and _operations(given) == _operations(feats)


def _operations(tensor: Tensor) -> int:
    """Number of differentiable operations that a tensor is the result of."""
    seen: set[Any] = set()
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return len(seen)


def _fresh(maps: Any) -> Any:
    """Copies of the tensors in the output of `forward_features`, because heads may change their input."""
    if isinstance(maps, Tensor):
        # A copy of a leaf is no leaf, so operations in place are allowed.
        return maps.detach().requires_grad_(maps.is_floating_point()).clone()
    if isinstance(maps, list | tuple):
        return type(maps)(_fresh(part) for part in maps)
    return maps


def _refuse_plain(model: nn.Module, name: str, size: int) -> NoReturn:
    """Refuse a model without a method of timm's interface, whose pooled feature was not found."""
    try:
        with unchanged(model), torch.no_grad():
            model(pixels_for(model, size))
    except Exception as error:  # the code of a model can raise any exception class
        raise _refusal(model, name, size, error) from error
    raise ModelError(
        f"Model {name} must end in a linear layer that makes its logits, or implement timm's model interface",
        got=f"a {type(model).__name__} with another end and without {', '.join(METHODS)}",
        fix="return the output of an nn.Linear from forward; or add these methods, see `timm.models.ResNet`.",
    )


def _refusal(model: nn.Module, name: str, size: int, error: Exception) -> ModelError:
    for channels in OTHER_CHANNELS:
        if _takes(model, size, channels):
            return ModelError(
                f"Model {name} must take RGB images, which have 3 channels",
                got=f"a model of images with {channels} channel{'s' * (channels > 1)}",
                fix="build it for 3 channels, or convert the pixels at the start of its forward_features, "
                "for example x.mean(dim=1, keepdim=True) for 1 channel.",
            )
    if isinstance(error, TypeError) and "positional argument" in str(error):
        return ModelError(
            f"Model {name} must take a batch of images alone: forward_features(x), forward_head(x), and "
            "forward_head(x, pre_logits=True)",
            got=first_line(error),
            fix="give every other argument a default value.",
        )
    fix = "set its resolution with --student.size or --teachers.1.size"
    if "img_size" in inspect.signature(type(model).__init__).parameters:
        fix += f", or build it for this one with --student.args '{{img_size: {size}}}'"
    return ModelError(
        f"Model {name} does not accept images of {size}×{size} pixels", got=first_line(error), fix=f"{fix}."
    )


def _takes(model: nn.Module, size: int, channels: int) -> bool:
    try:
        with unchanged(model), torch.no_grad():
            getattr(model, "forward_features", model)(pixels_for(model, size, channels))
    except Exception:
        return False
    return True


def first_line(error: BaseException) -> str:
    """The class of an exception and the first line of its message, which may be empty.

    Example:
        >>> first_line(ValueError("too small" + chr(10) + "details")), first_line(KeyError())
        ('ValueError: too small', 'KeyError: ')
    """
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
