"""The definition of a corruption: its function, its constants, its group and the kind of its function.

A corruption is registered where its function is defined::

    @register_corruption(
        "posterize",
        "reduces the number of gray levels",
        group="digital",
        kind=Kind.FIXED,
        # Number of levels.
        small=each(64, 32, 16, 8, 4),
        large=each(64, 32, 16, 8, 4),
    )
    def posterize(image_B3HW: Tensor, levels: float) -> Tensor: ...

No other place has to name it: `richkd.evaluate.corruptions.corrupt` finds it in the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from inspect import signature
from typing import TypeVar

from torch import Tensor

from richkd.config.choices import CORRUPTIONS
from richkd.core.errors import ConfigError
from richkd.evaluate.corruptions.severity import SEVERITIES, Rows

Apply = TypeVar("Apply", bound=Callable[..., Tensor])

# The benchmark of Hendrycks and Dietterich (ICLR 2019): mCE is the mean over the corruptions of these groups.
TEST_GROUPS = ("noise", "blur", "weather", "digital")
# For tuning: choices made on this group leave the corruptions of the test groups unseen.
VALIDATION_GROUP = "validation"


class Kind(Enum):
    """What the function of a corruption takes. Its constants follow as further positional arguments.

    Attributes:
        VALUES: uint8 pixels (B, H, W, 3) and `Draws`; it returns uint8 pixels of the same shape.
        DRAWN: images (B, 3, H, W) in 0..1 and `Draws`; it returns images of the same shape.
        FIXED: images (B, 3, H, W) in 0..1 only; it returns images of the same shape.
    """

    VALUES = "values"
    DRAWN = "drawn"
    FIXED = "fixed"

    @property
    def inputs(self) -> int:
        """Number of arguments before the constants.

        Example:
            >>> Kind.DRAWN.inputs, Kind.FIXED.inputs
            (2, 1)
        """
        return 1 if self is Kind.FIXED else 2


@dataclass(frozen=True)
class Corruption:
    """One corruption, as it is stored in the registry.

    Attributes:
        apply: the function; `kind` says what it takes.
        small: constants for images of 32 pixels, one row for each severity.
        large: constants for images of 224 pixels, one row for each severity.
        group: one of `TEST_GROUPS`, or `VALIDATION_GROUP`. A corruption of any other group can be applied by
            name, but is no part of `GROUPS`, `TEST` or mCE.

    Raises:
        ConfigError: not one row for each severity, or rows that do not have one value for each further
            argument of the function.

    Example:
        >>> rows = each(1, 2, 3, 4, 5)
        >>> entry = Corruption(lambda image, factor: factor * image, rows, rows, "digital", Kind.FIXED)
        >>> entry.small[4]
        (5,)
    """

    apply: Callable[..., Tensor]
    small: Rows
    large: Rows
    group: str
    kind: Kind

    def __post_init__(self) -> None:
        expected = len(signature(self.apply).parameters) - self.kind.inputs
        lengths = {len(row) for row in (*self.small, *self.large)}
        if not len(self.small) == len(self.large) == len(SEVERITIES) or lengths != {expected}:
            raise ConfigError(
                f"A corruption needs {len(SEVERITIES)} rows of constants for each size, of length {expected}",
                got=f"{len(self.small)} and {len(self.large)} rows of lengths {sorted(lengths)}",
                fix="give one row for each severity, with one value for each constant of the function.",
            )


def register_corruption(
    name: str, summary: str, *, group: str, kind: Kind, small: Rows, large: Rows
) -> Callable[[Apply], Apply]:
    """A decorator that registers a function as the corruption ``name``, and returns the function unchanged.

    Args:
        name: the name in settings, tables and files.
        summary: what the corruption does, in a few words.
        group, kind, small, large: see `Corruption`.

    Example:
        >>> "fog" in CORRUPTIONS, CORRUPTIONS["fog"].group
        (True, 'weather')
    """

    def register(apply: Apply) -> Apply:
        CORRUPTIONS.register(name, summary)(Corruption(apply, small, large, group, kind))
        return apply

    return register


def each(*values: float) -> Rows:
    """Rows of one constant, one row for each severity.

    Example:
        >>> each(0.1, 0.2)
        ((0.1,), (0.2,))
    """
    return tuple((value,) for value in values)
