"""Apply a corruption to a batch of images: 15 corruptions for testing, 4 for validation, severities 1 to 5.

After Hendrycks and Dietterich (ICLR 2019). The results are not CIFAR-100-C or ImageNet-C: operations,
constants and the truncation to bytes are the same, but random numbers differ, and frost is a texture with the
gray levels of the published photographs (`richkd.evaluate.corruptions.ice`).

`GROUPS` maps each of the four test groups and the validation group to the names of its corruptions. `TEST` is
the names of the test groups, over which mCE is computed.
"""

from __future__ import annotations

from typing import Any, assert_never

from torch import Tensor

from richkd.config.choices import CORRUPTIONS
from richkd.evaluate.corruptions.definition import TEST_GROUPS, VALIDATION_GROUP, Corruption, Kind
from richkd.evaluate.corruptions.draws import draws_for
from richkd.evaluate.corruptions.rounding import as_bytes
from richkd.evaluate.corruptions.severity import constants

GROUPS: dict[str, tuple[str, ...]]
TEST: tuple[str, ...]


def __getattr__(name: str) -> Any:
    """Computes `GROUPS` and `TEST` on access.

    They need the complete registry, and reading it imports this module: they cannot be computed on import.
    """
    if name == "GROUPS":
        return {group: names_of(group) for group in (*TEST_GROUPS, VALIDATION_GROUP)}
    if name == "TEST":
        return names_of(*TEST_GROUPS)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def names_of(*groups: str) -> tuple[str, ...]:
    """Names of the registered corruptions of some groups, group by group, in order of registration.

    Example:
        >>> names_of("noise")
        ('gaussian_noise', 'shot_noise', 'impulse_noise')
        >>> len(names_of(*TEST_GROUPS))
        15
    """
    return tuple(name for group in groups for name in CORRUPTIONS if CORRUPTIONS[name].group == group)


def corrupt(pixels_BHWC: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupt square images. Each result depends only on its own image and on (name, severity, seed).

    Args:
        pixels_BHWC: uint8 RGB in 0..255, on any device.
        name: a corruption of the registry, such as ``"fog"``.
        severity: 1 to 5.
        seed: selects the random numbers.

    Returns:
        uint8 of the same shape.

    Raises:
        ConfigError: no such corruption or severity.

    Example:
        >>> import torch
        >>> pixels = torch.full((1, 32, 32, 3), 100, dtype=torch.uint8)
        >>> corrupt(pixels, "brightness", severity=3)[0, 0, 0].tolist()
        [138, 138, 138]
    """
    entry: Corruption = CORRUPTIONS[name]
    strength = constants(name, severity, pixels_BHWC.shape[1])
    if entry.kind is Kind.VALUES:
        return entry.apply(pixels_BHWC, draws_for(pixels_BHWC, name, severity, seed), *strength)
    image_B3HW = (pixels_BHWC.float() / 255).permute(0, 3, 1, 2).contiguous()
    if entry.kind is Kind.DRAWN:
        changed_B3HW = entry.apply(image_B3HW, draws_for(pixels_BHWC, name, severity, seed), *strength)
    elif entry.kind is Kind.FIXED:
        changed_B3HW = entry.apply(image_B3HW, *strength)
    else:
        assert_never(entry.kind)
    return as_bytes(changed_B3HW).permute(0, 2, 3, 1).contiguous()
