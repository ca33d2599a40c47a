"""How strong each corruption is at severities 1 to 5, for images of any size.

Two sets of constants are public: those for 32 pixels and those for ImageNet's 224 (Hendrycks and Dietterich,
"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019). Between the two
sizes each constant moves with the logarithm of the size,

    c(size) = c(32) + w · (c(224) − c(32)),   w = ln(size / 32) / ln(224 / 32), held within 0 and 1,

and smaller or larger images have the constants of the nearer end. Constants that count something (pixels of
a shift, rounds, JPEG quality) are rounded at the end.
"""

from __future__ import annotations

import math

SMALL, LARGE = 32, 224
SEVERITIES = (1, 2, 3, 4, 5)

Rows = tuple[tuple[float, ...], ...]


def _each(*values: float) -> Rows:
    return tuple((value,) for value in values)


# By corruption: constants for 32 pixels and for 224, a row for each severity.
CONSTANTS: dict[str, tuple[Rows, Rows]] = {
    # Standard deviation.
    "gaussian_noise": (_each(0.04, 0.06, 0.08, 0.09, 0.10), _each(0.08, 0.12, 0.18, 0.26, 0.38)),
    # Photons that white sends.
    "shot_noise": (_each(500, 250, 100, 75, 50), _each(60, 25, 12, 5, 3)),
    # Share of values.
    "impulse_noise": (_each(0.01, 0.02, 0.03, 0.05, 0.07), _each(0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle_noise": (_each(0.06, 0.1, 0.12, 0.16, 0.2), _each(0.15, 0.2, 0.35, 0.45, 0.6)),
    # Standard deviation in pixels.
    "gaussian_blur": (_each(0.4, 0.6, 0.7, 0.8, 1), _each(1, 2, 3, 4, 6)),
    # Radius of the disk, and standard deviation that smooths its rim.
    "defocus_blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    # Standard deviation, largest shift, rounds.
    "glass_blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    # Radius and standard deviation.
    "motion_blur": (
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    # Largest zoom, and the step up to it.
    "zoom_blur": (
        ((1.05, 0.01), (1.10, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01)),
        ((1.10, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03)),
    ),
    # Mean and deviation of flakes, zoom, threshold, radius and deviation of the fall, share of the picture.
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    # Weights of picture and of ice.
    "frost": (
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    # Thickness, and how fast finer detail fades.
    "fog": (
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    # Added to the value of HSV.
    "brightness": (_each(0.05, 0.1, 0.15, 0.2, 0.3), _each(0.1, 0.2, 0.3, 0.4, 0.5)),
    # Mean, deviation and blur of the liquid, threshold, strength, and whether it is mud.
    "spatter": (
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    ),
    # Multiplies distances from the mean.
    "contrast": (_each(0.75, 0.5, 0.4, 0.3, 0.15), _each(0.4, 0.3, 0.2, 0.1, 0.05)),
    # Strength and smoothness of the shifts, and how far corners move: in widths of the picture.
    "elastic_transform": (
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
    # Size of the reduced picture.
    "pixelate": (_each(0.95, 0.9, 0.85, 0.75, 0.65), _each(0.6, 0.5, 0.4, 0.3, 0.25)),
    # libjpeg's quality.
    "jpeg_compression": (_each(80, 65, 58, 50, 40), _each(25, 18, 15, 10, 7)),
    # Multiplies saturation, then is added to it.
    "saturate": (
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
}


def constants(name: str, severity: int, size: int) -> tuple[float, ...]:
    """The constants of a corruption for pictures of ``size`` pixels, by the rule of this module."""
    small, large = (rows[severity - 1] for rows in CONSTANTS[name])
    weight = min(max(math.log(size / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)
    return tuple(a + weight * (b - a) for a, b in zip(small, large, strict=True))
