"""Renderings of digits, letters and signs, and what can truly be said of each.

Two kinds of glyphs: those of the fonts that matplotlib ships, and digits drawn with a pen along the strokes
in `STROKES`. Each is kept as a distance field, so that one threshold sets the thickness of its lines. A
rendering is warped, scaled until it fills 32×32 pixels, and counted in blocks of 4×4: the same path by which
the handwritten digits of the demo were digitised. Nothing here has seen a handwritten digit.
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIGNS = {
    "+": "plus sign",
    "=": "equals sign",
    "?": "question mark",
    "!": "exclamation mark",
    "#": "hash sign",
}
SIGNS |= {"%": "percent sign", "&": "ampersand", "@": "at sign", "$": "dollar sign", "*": "asterisk"}
SIGNS |= {"<": "less than sign", ">": "greater than sign"}
# O and I are left out: filled to a box they are 0 and 1, and would make both captions wrong half the time.
LETTERS = tuple(letter for letter in string.ascii_uppercase if letter not in "OI")
GLYPHS = (*string.digits, *LETTERS, *SIGNS)
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
# The Computer Modern files keep these signs elsewhere than Unicode does, or lack them.
NOT_IN_CM = set("<>$&")
FIELD = 32  # pixels on each side of a distance field
HEIGHT = 20.0  # pixels that a glyph's larger side measures in it
PEN_MASTERS = 64  # drawings of each digit, spread over its ways of writing

# Ways of writing each digit. A stroke is a smooth curve through points "x,y" (x right, y down, in
# hundredths), and ";" lifts the pen.
STROKES = {
    "0": (
        "50,0 12,20 0,50 12,82 45,100 75,82 85,50 72,15 50,0",
        "60,4 25,10 2,50 20,95 60,95 80,50 60,10 35,0",
        "30,0 12,25 10,70 30,100 52,72 50,25 30,0",
    ),
    "1": (
        "50,0 50,100",
        "62,0 40,100",
        "25,25 50,0; 50,0 50,100",
        "15,35 50,0; 50,0 48,100",
        "25,22 50,0; 50,0 50,100; 20,100 80,100",
    ),
    "2": (
        "5,25 30,0 68,12 60,45 0,100; 0,100 80,100",
        "0,20 35,0 70,20 50,60 8,98; 8,98 40,90 85,100",
        "10,20 40,0 68,25 45,70 12,95 10,75 40,85 85,100",
        "5,5 70,2; 70,2 60,40 5,98; 5,98 75,98",
    ),
    "3": (
        "5,12 40,0 65,20 30,46; 30,46 70,70 40,100 0,88",
        "5,2 65,2; 65,2 30,42; 30,42 70,70 40,100 0,90",
        "0,10 45,0 60,25 30,45 65,60 60,92 5,95",
    ),
    "4": (
        "20,0 0,60; 0,60 80,60; 60,15 55,100",
        "55,0 0,70; 0,70 85,70; 58,0 58,100",
        "10,0 5,35 30,50 62,42; 65,0 60,100",
        "40,0 2,55; 2,55 75,52; 50,30 35,100",
    ),
    "5": (
        "10,0 75,0; 10,0 8,42; 8,42 50,38 70,70 40,100 0,92",
        "75,2 25,2; 25,2 12,45; 12,45 62,60 50,95 0,97",
        "72,2 30,5 12,35 50,50 65,75 40,100 0,92",
    ),
    "6": (
        "60,0 20,30 0,70 25,100 60,85 50,58 8,72",
        "30,0 8,50 12,90 45,100 65,78 40,55 8,78",
        "68,10 35,2 5,40 10,88 50,97 62,65 30,50 5,65",
    ),
    "7": (
        "0,0 75,0; 75,0 25,100",
        "0,2 72,2; 72,2 45,45 35,100; 15,50 75,48",
        "0,18 5,2; 5,2 70,4; 70,4 40,50 30,100",
        "0,10 30,2 70,8; 70,8 30,100; 10,55 70,50",
    ),
    "8": (
        "60,12 30,0 10,22 40,50 62,78 35,100 5,80 30,50 60,12",
        "35,0 10,23 35,46 60,23 35,0; 35,46 2,74 35,100 68,74 35,46",
        "40,0 20,20 45,50 50,85 25,100 10,80 40,45 62,15 40,0",
    ),
    "9": (
        "60,15 30,0 5,25 25,50 60,30; 62,8 60,100",
        "62,20 30,0 5,28 30,52 62,20; 62,20 55,70 15,100",
        "60,30 30,2 3,28 30,50 62,30; 62,30 60,80 30,100 0,90",
        "50,10 20,5 5,30 30,45 55,10; 55,10 35,100",
    ),
}


@dataclass(frozen=True)
class Masters:
    """Distance fields (G, V, 32, 32), positive inside, of V drawings of each glyph in `GLYPHS`.

    ``radius_GV`` is the half width of the lines at threshold 0, in pixels of the field; a pen's is 0.
    """

    fields_GVHW: Tensor
    radius_GV: Tensor


@dataclass(frozen=True)
class Looks:
    """What is true of each rendering, as booleans (N,): the style words that its caption may use."""

    bold: Tensor
    thin: Tensor
    blurry: Tensor
    dark: Tensor
    slanted: Tensor
    cropped: Tensor
    sketched: Tensor


def make_masters(rng: np.random.Generator) -> Masters:
    """Distance fields of all glyphs; digits have as many pen drawings as font drawings."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fields: list[list[np.ndarray]] = []
    radii: list[list[float]] = []
    for glyph in GLYPHS:
        fonts = [font for font in FONTS if not (font.startswith("cm") and glyph in NOT_IN_CM)]
        printed = [_printed(glyph, folder / f"{font}.ttf") for font in fonts]
        drawn = [_drawn(glyph, i, rng) for i in range(PEN_MASTERS)] if glyph in STROKES else []
        # Every glyph needs the same number of drawings, and repeating them keeps the halves even.
        count = PEN_MASTERS if drawn else 2 * PEN_MASTERS
        printed = [printed[i % len(printed)] for i in range(count)]
        fields.append([field for field, _ in printed] + drawn)
        radii.append([radius for _, radius in printed] + [0.0] * len(drawn))
    return Masters(torch.from_numpy(np.array(fields, np.float32)), torch.tensor(radii))


def render(masters: Masters, glyph_N: Tensor, generator: torch.Generator) -> tuple[Tensor, Looks]:
    """8×8 renderings (N, 1, 8, 8) in [0, 1], white on black, in sixteenths, with what is true of them."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(len(glyph_N), *shape, generator=generator) * (high - low) + low

    def chance(probability: float) -> Tensor:
        return torch.rand(len(glyph_N), generator=generator) < probability

    drawing_N = torch.randint(masters.radius_GV.shape[1], glyph_N.shape, generator=generator)
    field, printed_radius = masters.fields_GVHW[glyph_N, drawing_N], masters.radius_GV[glyph_N, drawing_N]

    shear, angle, aspect = uniform(-0.35, 0.45), uniform(-0.22, 0.22), uniform(0.65, 1.25)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([cos, sin + shear * cos, -sin, cos - shear * sin], dim=1).view(-1, 2, 2)
    matrix = matrix * torch.stack([1 / aspect, torch.ones_like(aspect)], dim=1)[:, :, None]
    theta = torch.cat([matrix, torch.zeros(len(glyph_N), 2, 1)], dim=2)
    flow = functional.affine_grid(theta, [len(glyph_N), 1, FIELD, FIELD], align_corners=False)
    bends = torch.randn(len(glyph_N), 2, 4, 4, generator=generator) * uniform(0.0, 0.13, 1, 1, 1)
    bends = functional.interpolate(bends, size=FIELD, mode="bicubic", align_corners=True)
    warped = functional.grid_sample(
        field[:, None], flow + bends.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
    )

    # Thinner than 0.85 of its lines, a printed glyph with hairlines falls apart.
    radius = torch.maximum(uniform(0.75, 2.0), 0.85 * printed_radius)
    distance = warped + (radius - printed_radius).view(-1, 1, 1, 1)
    size = torch.where(chance(0.6), uniform(0.97, 1.03), uniform(0.8, 1.2))
    ink = _fill(distance, size, (uniform(-0.06, 0.06), uniform(-0.06, 0.06)))

    blurry, dark = chance(0.15), chance(0.15)
    ink = torch.where(blurry.view(-1, 1, 1, 1), _blur(ink), ink)
    pixels = functional.avg_pool2d(ink, 4)
    strength = torch.where(dark, uniform(0.3, 0.6), uniform(0.85, 1.1))
    pixels = pixels * strength.view(-1, 1, 1, 1)
    noise = torch.randn(pixels.shape, generator=generator) * uniform(0.0, 0.05, 1, 1, 1)
    pixels = ((pixels + noise * (pixels > 0)).clamp(0, 1) * 16).round() / 16
    looks = Looks(
        bold=radius > 1.7,
        thin=radius < 1.0,
        blurry=blurry,
        dark=dark,
        slanted=(shear - angle).abs() > 0.3,
        cropped=size > 1.08,
        sketched=printed_radius == 0,
    )
    return pixels, looks


def _fill(distance_N1HW: Tensor, size_N: Tensor, shift: tuple[Tensor, Tensor]) -> Tensor:
    """Cut each glyph out so that its larger side is ``size`` × 32 pixels; ink in [0, 1]."""
    inside = distance_N1HW[:, 0] > 0
    count = distance_N1HW.shape[-1]
    along = torch.arange(count, dtype=torch.float32)
    spans = []
    for axis in (1, 2):
        hit = inside.any(dim=axis)
        low = torch.where(hit, along, math.inf).amin(dim=1).nan_to_num(posinf=0.0)
        high = torch.where(hit, along, -math.inf).amax(dim=1).nan_to_num(neginf=count - 1.0)
        spans.append((low, high + 1))
    half = torch.maximum(*(high - low for low, high in spans)) / size_N / count
    centers = [(low + high) / count - 1 + half * by for (low, high), by in zip(spans, shift, strict=True)]
    zero = torch.zeros_like(half)
    theta = torch.stack([half, zero, centers[0], zero, half, centers[1]], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(theta, [len(half), 1, 32, 32], align_corners=False)
    cut = functional.grid_sample(distance_N1HW, grid, padding_mode="border", align_corners=False)
    return torch.sigmoid(cut / half.view(-1, 1, 1, 1) * 3)


def _blur(ink_N1HW: Tensor) -> Tensor:
    return functional.avg_pool2d(functional.avg_pool2d(ink_N1HW, 5, 1, 2), 5, 1, 2)


def _printed(glyph: str, path: Path) -> tuple[np.ndarray, float]:
    """The distance field of a font's glyph, and the half width of its lines."""
    sharper = 4
    font = ImageFont.truetype(path, 200)
    left, top, right, bottom = font.getbbox(glyph)
    font = ImageFont.truetype(path, round(200 * HEIGHT * sharper / max(right - left, bottom - top)))
    image = Image.new("L", (FIELD * sharper, FIELD * sharper))
    left, top, right, bottom = font.getbbox(glyph)
    corner = [(FIELD * sharper - low - high) / 2 for low, high in ((left, right), (top, bottom))]
    ImageDraw.Draw(image).text(tuple(corner), glyph, font=font, fill=255)
    inside = np.asarray(image) > 127
    if not inside.any():
        raise ValueError(f"{path.name} draws nothing for {glyph!r}")
    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
    field = distance.reshape(FIELD, sharper, FIELD, sharper).mean(axis=(1, 3)) / sharper
    return field, float(field.max())


def _drawn(glyph: str, number: int, rng: np.random.Generator) -> np.ndarray:
    """Minus the distance to the strokes of one drawing of a digit, whose points are moved a little."""
    way = STROKES[glyph][number % len(STROKES[glyph])]
    strokes = [[tuple(map(int, point.split(","))) for point in stroke.split()] for stroke in way.split(";")]
    moved: dict[tuple[int, ...], np.ndarray] = {}
    for point in (point for stroke in strokes for point in stroke):
        # Strokes that meet in a point still meet in it after the move.
        moved.setdefault(point, np.array(point) / 100 + rng.normal(0, 0.035, 2))
    curve = np.concatenate([_smooth([moved[point] for point in stroke]) for stroke in strokes])
    low, high = curve.min(axis=0), curve.max(axis=0)
    curve = (curve - (low + high) / 2) * (HEIGHT / (high - low).max()) + FIELD / 2
    centers = np.arange(FIELD) + 0.5
    grid = np.stack(np.meshgrid(centers, centers), axis=-1)
    return -cKDTree(curve).query(grid)[0]


def _smooth(points: list[np.ndarray]) -> np.ndarray:
    """A Catmull-Rom curve through the points, 12 samples for each part; straight between two."""
    closed = len(points) > 2 and np.array_equal(points[0], points[-1])
    before, after = (points[-2], points[1]) if closed else (points[0], points[-1])
    p = np.array([before, *points, after])
    t = np.linspace(0, 1, 12)[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.concatenate(parts)
