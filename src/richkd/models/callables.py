"""Models that a callable of the user makes: what it must be, and that its student can be opened again."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from richkd.config.model_name import hint_at_path
from richkd.core.errors import ModelError
from richkd.models.arguments import not_built, parameters_of
from richkd.models.plain import with_interface
from richkd.models.probe import first_line, pixels_for, unchanged
from richkd.models.weights import load_weights


def call(spec: str, args: Mapping[str, Any], classes: int, role: str) -> nn.Module:
    """The module that a callable returns.

    Args:
        spec: ``package.module:callable``.
        args: its arguments besides ``num_classes``.
        classes: number of outputs.
        role: ``"student"`` or ``"teacher"``, for messages.

    Raises:
        ModelError: the callable cannot be imported, does not take ``num_classes``, raises an exception, or
            returns something else than a module with weights in float32; names the callable.

    Example:
        >>> call("torch.nn:Identity", {}, 3, "student")
        Identity()
    """
    factory = _imported(spec, role)
    _check_signature(factory, spec, args, role)
    try:
        with _printing_to_stderr():
            model = factory(num_classes=classes, **args)
    except (Exception, SystemExit) as error:
        raise not_built(spec, args, role, error, factory) from error
    if not isinstance(model, nn.Module):
        got = f"the class {model.__name__} instead of an object of it" if isinstance(model, type) else None
        raise ModelError(
            f"The {role} '{spec}' must return a torch.nn.Module",
            got=got or type(model).__name__,
            fix="return the network from the callable.",
        )
    _check_float32(model, spec, role)
    return model


def check_rebuilds(
    model: nn.Module, spec: str, args: Mapping[str, Any], classes: int, role: str, size: int
) -> None:
    """Check that a student can be opened later: the callable makes it again, and its weights are all of it.

    The callable is called a second time, and the weights are loaded from a file as from a student's folder.
    The model and the random numbers stay as they are.

    Raises:
        ModelError: the state cannot be saved, does not fit the second network, or gives other outputs in it.

    Example:
        >>> check_rebuilds(nn.Identity(), "torch.nn:Identity", {}, 3, "student", 8)
    """
    _check_state(model, spec, role)
    rule = f"The {role} '{spec}' must be the same network when it is built again and its weights are loaded"
    fix = (
        "return the same network for the same arguments, and keep everything that is learned in parameters "
        "and buffers."
    )
    try:
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.safetensors"
            again = with_interface(call(spec, args, classes, role), size)
            save_file({k: t.detach().cpu().contiguous().clone() for k, t in model.state_dict().items()}, file)
            if model.state_dict():
                load_weights(again, file, role=role)
            outputs = [_outputs(network, size) for network in (model, again)]
    except Exception as error:  # the code of a model can raise any exception class
        reason = f"{error.rule}; {error.got}" if isinstance(error, ModelError) else first_line(error)
        raise ModelError(rule, got=reason, fix=fix) from error
    if not all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in zip(*outputs, strict=True)
    ):
        raise ModelError(rule, got="other outputs for the same images", fix=fix)


def _check_state(model: nn.Module, spec: str, role: str) -> None:
    others = [key for key, value in model.state_dict().items() if not isinstance(value, Tensor)]
    if others:
        raise ModelError(
            f"The state of the {role} '{spec}' must consist of tensors, which can be saved",
            got=f"other values under {', '.join(others[:3])}",
            fix="remove get_extra_state, and keep weights in parameters and buffers.",
        )


def _imported(spec: str, role: str) -> Any:
    module, _, attribute = spec.partition(":")
    if module == "__main__":
        raise ModelError(
            f"The {role} '{spec}' must be in a module that other programs can import",
            got="the script that runs now, which is another one when the model is opened later",
            fix="move the callable to a module of its own.",
        )
    try:
        with _printing_to_stderr():
            factory = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a module can raise anything while it is imported
        raise ModelError(
            f"The {role} '{spec}' must be an importable package.module:callable",
            got=first_line(error),
            fix=hint_at_path(spec, role) or "install the package, or add its folder to PYTHONPATH.",
        ) from None
    if not callable(factory):
        raise ModelError(
            f"The {role} '{spec}' must be a callable that returns a network",
            got=type(factory).__name__,
            fix="name a function or a class.",
        )
    return factory


def _check_signature(factory: Any, spec: str, args: Mapping[str, Any], role: str) -> None:
    # Folders of students name their callable and its arguments. They must not call anything but a model.
    if args and "num_classes" not in parameters_of(factory):
        raise ModelError(
            f"The {role} '{spec}' must name its argument num_classes to get other arguments, too",
            got=", ".join(args),
            fix="write num_classes into the signature of the callable.",
        )
    if not _takes_classes(factory):
        raise ModelError(
            f"The {role} '{spec}' must take the argument num_classes",
            got=f"{getattr(factory, '__name__', spec)}{inspect.signature(factory)}",
            fix="give the callable an argument num_classes, the number of outputs of the network.",
        )


def _takes_classes(factory: Any) -> bool:
    """Whether a callable takes the keyword ``num_classes``, as far as this can be known."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return True
    named = parameters.get("num_classes")
    if named is not None and named.kind is not inspect.Parameter.POSITIONAL_ONLY:
        return True
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _check_float32(model: nn.Module, spec: str, role: str) -> None:
    others = {
        name: parameter.dtype
        for name, parameter in model.named_parameters()
        if not is_lazy(parameter) and parameter.dtype != torch.float32
    }
    if others:
        name, dtype = next(iter(others.items()))
        raise ModelError(
            f"The {role} '{spec}' must have weights in float32",
            got=f"{name} in {str(dtype).removeprefix('torch.')}",
            fix="return model.float(); --train.precision sets the precision of training.",
        )


def _outputs(model: nn.Module, size: int) -> tuple[Tensor, ...]:
    """Logits and features for two images in evaluation mode; for another module, its output."""
    contract = cast(Any, model)
    with unchanged(model), torch.no_grad():
        # Both networks draw the same random numbers.
        torch.manual_seed(0)
        pixels = pixels_for(model, size)
        if not hasattr(model, "forward_features"):
            return (contract(pixels),)
        maps = contract.forward_features(pixels)
        return contract.forward_head(maps), contract.forward_head(maps, pre_logits=True)


@contextlib.contextmanager
def _printing_to_stderr() -> Iterator[None]:
    """What a callable prints is not part of a command's results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
