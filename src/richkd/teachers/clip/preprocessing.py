"""What CLIP does to a picture before its image tower: framing and normalization, read from open_clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_clip.transform import PreprocessCfg

from richkd.core.errors import ClipError
from richkd.data.framing import RESAMPLING, Framing
from richkd.data.views import RGB

# Far above any mean or std of pixel values in [0, 1], or of pixel values in bytes.
LARGEST = 1e6
FIX = "correct preprocess_cfg in the open_clip_config.json of the model."


@dataclass(frozen=True)
class Preprocessing:
    """Framing and normalization.

    Attributes:
        framing: the part of a picture that the model sees in evaluation, and how it is resized.
        mean, std: normalization of each color channel, for pixel values in [0, 1].
    """

    framing: Framing
    mean: RGB
    std: RGB


def read_preprocessing(config: Mapping[str, Any], name: str) -> Preprocessing:
    """Read the preprocessing that open_clip attaches to a model (``visual.preprocess_cfg``).

    As in open_clip, missing values are those of OpenAI, one number stands for all channels, and the
    interpolation ``random`` is bicubic in evaluation.

    Args:
        config: size, mean, std, interpolation, resize mode and color mode.
        name: name of the CLIP model, for messages.

    Raises:
        ClipError: a value has no meaning here, or the input is not square.

    Example:
        >>> read = read_preprocessing({"size": 224, "mean": 0.5, "std": 0.5, "resize_mode": "squash"}, "a")
        >>> read.mean, str(read.framing)
        ((0.5, 0.5, 0.5), '224 px (squashed, bicubic)')
    """
    given = vars(PreprocessCfg()) | {key: value for key, value in config.items() if value is not None}
    interpolation = "bicubic" if given["interpolation"] == "random" else given["interpolation"]
    _check_choice(name, "interpolation", interpolation, RESAMPLING)
    # Padding to the longest side would need pixels that no picture has.
    _check_choice(name, "resize_mode", given["resize_mode"], ("shortest", "squash"))
    _check_choice(name, "mode", given["mode"], ("RGB",))
    size, squash = _square(given["size"], name), given["resize_mode"] == "squash"
    std = _channels(name, "std", given["std"])
    if min(std) <= 0:
        raise ClipError(f"The std of CLIP '{name}' must be positive", got=str(given["std"]), fix=FIX)
    framing = Framing(size, interpolation=interpolation, squash=squash)
    return Preprocessing(framing, _channels(name, "mean", given["mean"]), std)


def _check_choice(name: str, key: str, value: object, known: Sequence[str] | Mapping[str, Any]) -> None:
    if not isinstance(value, str) or value not in known:
        rule = f"The preprocessing of CLIP '{name}' must have a {key} that can be reproduced"
        raise ClipError(rule, got=f"{key} {value!r}", fix=f"known: {', '.join(known)}; {FIX}")


def _channels(name: str, key: str, value: Any) -> RGB:
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    # The comparison is false for NaN and infinity.
    valid = [isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < LARGEST for x in values]
    if len(values) != 3 or not all(valid):
        raise ClipError(f"The {key} of CLIP '{name}' must be three numbers", got=repr(value), fix=FIX)
    return float(values[0]), float(values[1]), float(values[2])


def _square(size: int | Sequence[int], name: str) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ClipError(f"CLIP '{name}' must have a square input", got=str(size), fix="choose another model.")
    return int(sides.pop())
