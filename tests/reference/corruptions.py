"""Corruptions one image at a time, with numpy, scipy and Pillow: slow and obvious.

The published definition of each corruption as a function of its constants; the published constants are in
`published.py`. Images are in 0..1. A result is truncated to bytes by whoever needs bytes, as in the published
scripts; what is rounded or truncated inside of a corruption is so here.

Whatever is random comes in as an argument, so that a batch can be compared image by image; where nothing is
given, it is drawn here, which is what a loop over images would do.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image
from scipy import ndimage

from richkd.evaluate.corruptions import ice
from tests.reference.water import water


def truncated(picture):
    # Far below the step of a byte, but above the errors of adding up a few hundred float32 numbers.
    return np.floor(picture.clip(0, 1) * 255 + 2**-9)


def gaussian(picture, sigma):
    return ndimage.gaussian_filter(picture, (sigma, sigma, 0), mode="nearest", truncate=4.0)


def gaussian_noise(picture, rng, sigma):
    return picture + rng.normal(scale=sigma, size=picture.shape)


def speckle_noise(picture, rng, sigma):
    return picture + picture * rng.normal(scale=sigma, size=picture.shape)


def shot_noise(picture, rng, photons):
    return rng.poisson(picture * photons) / photons


def impulse_noise(picture, rng, share):
    word = rng.random(picture.shape)
    return np.where(word < share / 2, 0.0, np.where(word >= 1 - share / 2, 1.0, picture))


def gaussian_blur(picture, rng, sigma):
    return gaussian(picture, sigma)


def defocus_blur(picture, rng, radius, rim):
    reach = math.ceil(radius) + 3
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for y in range(-reach, reach + 1):
        for x in range(-reach, reach + 1):
            kernel[y + reach, x + reach] = y * y + x * x <= radius**2
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    smooth = np.exp(-(taps**2) / (2 * rim**2))
    smooth /= smooth.sum()
    for axis in (0, 1):
        kernel = ndimage.convolve1d(kernel, smooth, axis=axis, mode="constant")
    kernel /= kernel.sum()
    return np.stack([ndimage.correlate(picture[..., c], kernel, mode="mirror") for c in range(3)], axis=-1)


def glass_blur(picture, rng, sigma, shift, rounds, moves=None):
    size, shift = len(picture), round(shift)
    picture = truncated(gaussian(picture, sigma)) / 255
    number = 0
    for _ in range(round(rounds)):
        for row in range(size - shift, shift, -1):
            for col in range(size - shift, shift, -1):
                down, right = rng.integers(-shift, shift, 2) if moves is None else moves[number]
                number += 1
                picture[row, col] = picture[row + down, col + right]
    return gaussian(picture, sigma)


def motion_blur(picture, rng, radius, sigma, degrees=None):
    degrees = rng.uniform(-45, 45) if degrees is None else degrees
    # ImageMagick returns bytes, and rounds.
    return np.rint(moved(picture, degrees, radius, sigma) * 255) / 255


def moved(picture, degrees, radius, sigma):
    height, width = picture.shape[:2]
    angle = math.radians(round(degrees))
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(2 * round(radius) + 1)]
    out = np.zeros_like(picture)
    rows, cols = np.arange(height), np.arange(width)
    for step, weight in enumerate(weights):
        down = math.ceil(step * math.sin(angle) - 0.5)
        right = math.ceil(step * math.cos(angle) - 0.5)
        out += weight * picture[(rows + down).clip(0, height - 1)][:, (cols + right).clip(0, width - 1)]
    return out / sum(weights)


def zoomed(picture, factor):
    size = len(picture)
    inner = math.ceil(size / factor)
    first = (size - inner) // 2
    middle = picture[first : first + inner, first : first + inner]
    large = ndimage.zoom(middle, (factor, factor, 1), order=1)
    trim = (len(large) - size) // 2
    return large[trim : trim + size, trim : trim + size]


def zoom_blur(picture, rng, largest, step):
    factors = np.arange(1, largest + step / 2, step)
    return (picture + sum(zoomed(picture, factor) for factor in factors)) / (len(factors) + 1)


def snow(picture, rng, mean, deviation, zoom, threshold, radius, sigma, share, flakes=None, degrees=None):
    flakes = rng.normal(size=picture.shape[:2]) if flakes is None else flakes
    degrees = rng.uniform(-135, -45) if degrees is None else degrees
    flakes = zoomed((mean + deviation * flakes)[..., None], zoom)
    flakes = truncated(np.where(flakes < threshold, 0, flakes)) / 255
    falling = np.rint(moved(flakes, degrees, radius, sigma) * 255) / 255
    white = (picture @ [0.299, 0.587, 0.114])[..., None] * 1.5 + 0.5
    picture = share * picture + (1 - share) * np.maximum(picture, white)
    return picture + falling + np.rot90(falling, 2)


def frost(picture, rng, weight, ice_weight, noises=None, file=None):
    """Without the photographs: a texture with their gray levels, in the order of the ridges of a fractal."""
    noises = rng.uniform(-1, 1, (2, *picture.shape[:2])) if noises is None else noises
    file = rng.integers(5) if file is None else file
    ridges = np.maximum(*[1 - abs(2 * fractal(noise, 1.8) - 1) for noise in noises]).ravel()
    texture = np.empty((len(ridges), 3))
    for rank, place in enumerate(np.argsort(ridges, kind="stable")):
        for channel, levels in enumerate(ice.LEVELS[ice.FILES[file]]):
            texture[place, channel] = np.interp((rank + 0.5) / len(ridges), ice.SHARES, levels)
    return weight * picture + ice_weight * texture.reshape(picture.shape) / 255


def fog(picture, rng, thickness, decay, noise=None):
    noise = rng.uniform(-1, 1, picture.shape[:2]) if noise is None else noise
    most = picture.max()
    return (picture + thickness * fractal(noise, decay)[..., None]) * most / (most + thickness)


def fractal(noise, decay):
    """Diamond-square, a point at a time, around the edge of the map."""
    size = len(noise)
    height = np.zeros((size, size))
    step, reach = size, 1.0
    while step >= 2:
        half = step // 2
        for y in range(half, size, step):
            for x in range(half, size, step):
                around = [
                    height[(y + dy) % size, (x + dx) % size] for dy in (-half, half) for dx in (-half, half)
                ]
                height[y, x] = sum(around) / 4 + reach * noise[y, x]
        for first_y, first_x in ((0, half), (half, 0)):
            for y in range(first_y, size, step):
                for x in range(first_x, size, step):
                    around = [
                        height[(y + dy) % size, (x + dx) % size]
                        for dy, dx in ((-half, 0), (half, 0), (0, -half), (0, half))
                    ]
                    height[y, x] = sum(around) / 4 + reach * noise[y, x]
        step, reach = half, reach / decay**2
    height -= height.min()
    return height / height.max()


def _in_hsv(picture, change):
    import colorsys

    out = np.empty_like(picture)
    for y in range(picture.shape[0]):
        for x in range(picture.shape[1]):
            out[y, x] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*picture[y, x])))
    return out


def brightness(picture, rng, added):
    return _in_hsv(picture, lambda h, s, v: (h, s, min(max(v + added, 0), 1)))


def saturate(picture, rng, factor, added):
    return _in_hsv(picture, lambda h, s, v: (h, min(max(s * factor + added, 0), 1), v))


def contrast(picture, rng, factor):
    mean = picture.mean(axis=(0, 1))
    return (picture - mean) * factor + mean


def spatter(picture, rng, mean, deviation, sigma, threshold, strength, mud, noise=None):
    noise = rng.normal(size=picture.shape[:2]) if noise is None else noise
    liquid = gaussian((mean + deviation * noise)[..., None], sigma)
    if mud > 0.5:
        cover = gaussian((liquid > threshold).astype(float), strength)
        cover[cover < 0.8] = 0
        return picture * (1 - cover) + cover * np.array([63, 42, 20]) / 255
    drops = water(truncated(np.where(liquid < threshold, 0, liquid))[..., 0])
    return picture + strength * drops[..., None] * np.array([175, 238, 238]) / 255


def elastic_transform(picture, rng, strength, smoothness, corners, moves=None, fields=None):
    size = len(picture)
    moves = rng.uniform(-1, 1, (3, 2)) if moves is None else moves
    fields = rng.uniform(-1, 1, (2, size, size)) if fields is None else fields
    middle, side = size // 2, size // 3
    start = np.array(
        [[middle + side, middle + side], [middle + side, middle - side], [middle - side, middle - side]]
    )
    end = start + moves * corners * size
    forth = np.linalg.solve(np.hstack([start, np.ones((3, 1))]), end)
    back = np.linalg.inv(np.hstack([forth, [[0], [0], [1]]]))
    rows, cols = np.mgrid[:size, :size].astype(float)
    places = np.stack([cols, rows, np.ones_like(rows)], axis=-1) @ back
    picture = _sampled(picture, places[..., 1], places[..., 0], "mirror")
    if strength == 0:
        return picture
    right, down = (
        ndimage.gaussian_filter(field, smoothness * size, mode="reflect", truncate=3.0) * strength * size
        for field in fields
    )
    return _sampled(picture, rows + down, cols + right, "reflect")


def _sampled(picture, rows, cols, mode):
    return np.stack(
        [ndimage.map_coordinates(picture[..., c], [rows, cols], order=1, mode=mode) for c in range(3)],
        axis=-1,
    )


def pixelate(picture, rng, factor):
    size = len(picture)
    small = int(size * factor)
    image = as_image(picture).resize((small, small), Image.Resampling.BOX)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX)) / 255


def jpeg_compression(picture, rng, quality):
    file = io.BytesIO()
    as_image(picture).save(file, "JPEG", quality=round(quality))
    return np.asarray(Image.open(file)) / 255


def as_image(picture):
    return Image.fromarray(np.rint(picture * 255).clip(0, 255).astype(np.uint8))
