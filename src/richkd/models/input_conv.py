"""Fit the first convolution of a checkpoint to RGB images, as timm does it."""

from __future__ import annotations

from collections.abc import Iterator

from timm.models import adapt_input_conv, get_model_traits
from torch import Tensor, nn

RGB_CHANNELS = 3


def to_rgb_input(state: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A state dict whose first convolution takes RGB images, and the names of the changed tensors.

    The weights w of a grayscale network become w / 3 for each channel, so that the convolution sees the mean
    of the channels. Of C > 3 channels, the first three are kept and multiplied by C / 3 (timm's
    ``adapt_input_conv``). Other differences of shape are left as they are.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1))
        >>> state, changed = to_rgb_input({"0.weight": torch.ones(8, 1, 1, 1)}, model)
        >>> state["0.weight"].shape, round(float(state["0.weight"].sum()), 4), changed
        (torch.Size([8, 3, 1, 1]), 8.0, ('0.weight',))
    """
    expected, changed = model.state_dict(), []
    for key in _input_weights(model):
        given, needed = state.get(key), expected.get(key)
        if (
            given is None
            or needed is None
            or given.ndim != 4
            or needed.ndim != 4
            or given.shape == needed.shape
        ):
            continue
        others_equal = given.shape[0] == needed.shape[0] and given.shape[2:] == needed.shape[2:]
        # Stems that move pixels into channels have more than three, whose order is not known.
        if others_equal and needed.shape[1] == RGB_CHANNELS:
            channels = given.shape[1]
            state = {**state, key: adapt_input_conv(RGB_CHANNELS, given, base_chans=channels)}
            changed.append(key)
    return state, tuple(changed)


def _input_weights(model: nn.Module) -> Iterator[str]:
    """Names of the weights of the first convolutions: those that timm names, or else the first one."""
    named = get_model_traits(model).get("first_conv")
    if named is None:
        convolutions = (name for name, part in model.named_modules() if isinstance(part, nn.Conv2d))
        named = next(convolutions, ())
    for name in (named,) if isinstance(named, str) else named:
        yield f"{name}.weight" if name else "weight"
