"""Drops of water as the published code shades them, a pixel at a time: edges, distance, histogram, relief."""

import math

import numpy as np
from scipy import ndimage


def water(liquid):
    """Brightness of the drops, 0..1, from their thickness in bytes."""
    edge = edges(liquid)
    away = ndimage.distance_transform_edt(~edge) if edge.any() else np.full(liquid.shape, 20.0)
    blurred = ndimage.uniform_filter(away.clip(0, 20), 3, mode="mirror")
    relief = equalized(np.floor(blurred + 1e-4).astype(int))
    relief = ndimage.correlate(relief, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror")
    relief = np.rint(ndimage.uniform_filter(relief.clip(0, 255).astype(float), 3, mode="mirror"))
    wet = liquid * relief
    return wet / max(wet.max(), 1)


def edges(liquid, weak=50, strong=150):
    """Canny's edges with the sum of absolute differences, as OpenCV finds them."""
    right, down = (ndimage.sobel(liquid, axis=axis, mode="nearest") for axis in (1, 0))
    slope = np.pad(abs(right) + abs(down), 1)
    candidates = np.zeros(liquid.shape, dtype=bool)
    for y, x in np.argwhere(slope[1:-1, 1:-1] > weak):
        angle = math.degrees(math.atan2(abs(down[y, x]), abs(right[y, x])))
        if angle < 22.5:
            first, second = (0, -1), (0, 1)
        elif angle > 67.5:
            first, second = (-1, 0), (1, 0)
        elif right[y, x] * down[y, x] > 0:
            first, second = (-1, -1), (1, 1)
        else:
            first, second = (-1, 1), (1, -1)
        here, before, after = (slope[y + 1 + dy, x + 1 + dx] for dy, dx in ((0, 0), first, second))
        # Of two equal pixels across a level or upright edge, the first is kept.
        kept_at_tie = 0 in first
        candidates[y, x] = here > before and (here > after or (kept_at_tie and here == after))
    groups, _ = ndimage.label(candidates, np.ones((3, 3)))
    seeds = np.unique(groups[candidates & (slope[1:-1, 1:-1] > strong)])
    return np.isin(groups, seeds[seeds > 0])


def equalized(levels):
    counts = np.bincount(levels.ravel())
    first = int(np.nonzero(counts)[0][0])
    rest = levels.size - counts[first]
    if not rest:
        return levels
    below = np.array([counts[: level + 1].sum() for level in range(21)])
    # In single precision, like OpenCV: NumPy would multiply whole numbers in double precision.
    table = (below - counts[first]).clip(0).astype(np.float32) * (np.float32(255) / np.float32(rest))
    return np.rint(table).astype(int)[levels]
