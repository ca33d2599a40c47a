"""Random erasing: rectangles of a view are replaced by a color or by noise, the same at all sizes.

Source: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, with the distribution of timm's
``RandomErasing``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from richkd.core.seeds import mix_seed

Fill = Literal["const", "rand", "pixel"]

# Erased share of the area for one box, and range of height / width, as in timm and in the paper.
AREA = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)
# Draws of area and shape, after which a box that does not fit is left out, as in timm.
ATTEMPTS = 10
# Mean and standard deviation of ImageNet in 0..255. timm draws colors in normalized pixels.
MEAN = np.array((0.485, 0.456, 0.406), dtype=np.float32) * 255
STD = np.array((0.229, 0.224, 0.225), dtype=np.float32) * 255
# Noise is drawn on a grid of so many cells for the side of an image, about the size of the largest inputs.
CELLS = 512
# Cells around a box: half a pixel of an image of 32 pixels, by which a box is rounded to whole pixels.
MARGIN = 8


@dataclass(frozen=True)
class ErasedBox:
    """A rectangle in shares of the image's height and width."""

    top: float
    left: float
    height: float
    width: float

    def pixels(self, size: int) -> tuple[slice, slice]:
        """Rows and columns of the box in an image of ``size`` × ``size`` pixels.

        Example:
            >>> ErasedBox(0.25, 0.5, 0.5, 0.25).pixels(8)
            (slice(2, 6, None), slice(4, 6, None))
        """
        ends = ((self.top, self.top + self.height), (self.left, self.left + self.width))
        rows, columns = (slice(round(start * size), round(end * size)) for start, end in ends)
        return rows, columns


def draw_boxes(probability: float, count: int, seed: int) -> list[ErasedBox]:
    """The boxes that are erased from a view, drawn as in timm.

    With the given probability, n boxes are drawn, n uniform in 1..``count``. A box has the share a / n of the
    area, a uniform in (0.02, 1/3). The logarithm of its height / width is uniform between log 0.3 and
    −log 0.3. A box that is higher or wider than the image is drawn again, up to ten times.

    Args:
        probability: probability that anything is erased.
        count: largest number of boxes.
        seed: seed of all random choices.

    Example:
        >>> [len(draw_boxes(0.5, count=3, seed=seed)) for seed in range(8)]
        [0, 3, 0, 2, 1, 0, 0, 1]
    """
    # Of Python's generator, only random() is the same in all versions.
    draw = random.Random(seed).random
    if draw() >= probability:
        return []
    boxes, number = [], 1 + int(draw() * count)
    low, high = (math.log(aspect) for aspect in ASPECT)
    for _ in range(number):
        for _ in range(ATTEMPTS):
            area = (AREA[0] + (AREA[1] - AREA[0]) * draw()) / number
            aspect = math.exp(low + (high - low) * draw())
            height, width = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if height < 1 and width < 1:
                boxes.append(ErasedBox(draw() * (1 - height), draw() * (1 - width), height, width))
                break
    return boxes


def erase(
    crops: Mapping[int, Tensor], probability: float, fill: Fill, count: int, seed: int
) -> Mapping[int, Tensor]:
    """Erase the same boxes, with the same filling, from the crops of one view.

    A box is filled with the mean of ImageNet (``const``), with one color (``rand``), or with noise
    (``pixel``). Colors and noise are standard normal in pixels that are normalized with the mean and standard
    deviation of ImageNet, and are clipped to 0..255.

    Args:
        crops: crops (uint8, S × S × 3) by S. They are not changed.
        probability, count: see `draw_boxes`.
        fill: what boxes are filled with.
        seed: seed of all random choices.

    Example:
        >>> crops = {size: torch.zeros(size, size, 3, dtype=torch.uint8) for size in (16, 8)}
        >>> erased = erase(crops, probability=1.0, fill="const", count=1, seed=1)
        >>> [crop_SS3.flatten(0, 1).unique(dim=0).tolist() for crop_SS3 in erased.values()]
        [[[0, 0, 0], [124, 116, 104]], [[0, 0, 0], [124, 116, 104]]]
    """
    boxes = draw_boxes(probability, count, mix_seed(seed, "boxes"))
    if not boxes:
        return crops
    # Crops can share the memory of the source picture.
    erased = {size: crop_SS3.clone() for size, crop_SS3 in crops.items()}
    for number, box in enumerate(boxes):
        filling = _filling(fill, box, mix_seed(seed, "filling", number))
        for size, crop_SS3 in erased.items():
            pixels_HW3 = (filling(size) * STD + MEAN).round().clip(0, 255).astype(np.uint8)
            crop_SS3[box.pixels(size)] = torch.from_numpy(pixels_HW3)
    return erased


def _filling(fill: Fill, box: ErasedBox, seed: int) -> Callable[[int], NDArray[np.float32]]:
    """Normalized colors of a box as a function of the size of the image."""
    if fill == "const":
        return lambda size: np.zeros((1, 1, 3), dtype=np.float32)
    generator = np.random.default_rng(seed)
    if fill == "rand":
        color_113 = generator.standard_normal((1, 1, 3), dtype=np.float32)
        return lambda size: color_113
    first = [math.floor(start * CELLS) - MARGIN for start in (box.top, box.left)]
    cells = [math.ceil(length * CELLS) + 2 * MARGIN for length in (box.height, box.width)]
    noise_HW3 = generator.standard_normal((*cells, 3), dtype=np.float32)

    def noise(size: int) -> NDArray[np.float32]:
        rows, columns = box.pixels(size)
        edges = [
            np.arange(side.start, side.stop + 1) * CELLS // size - start
            for side, start in zip((rows, columns), first, strict=True)
        ]
        return reduce_noise(noise_HW3, edges[0], edges[1])

    return noise


def reduce_noise(
    noise_HW3: NDArray[np.float32], rows_O: NDArray[np.int64], columns_P: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Noise at a lower resolution, with the same pattern and the same distribution.

    A pixel is the sum of the n cells that it covers, divided by √n. So independent standard normal noise
    stays that, as timm has it at every size; the mean of the cells would become gray at small sizes. The
    result at one size does not depend on which other sizes there are, because stored outputs of a teacher
    must not depend on the other networks.

    Args:
        noise_HW3: independent standard normal values, one for each cell.
        rows_O: the first row of cells of each row of pixels, and the end of the last one. Rows outside are
            moved inside. A pixel without cells gets the cell where it begins.
        columns_P: the same for columns.

    Returns:
        Values (O − 1, P − 1, 3).

    Example:
        >>> edges = np.array([0, 2, 4])
        >>> reduce_noise(np.ones((4, 4, 3), dtype=np.float32), edges, edges)[..., 0].tolist()
        [[2.0, 2.0], [2.0, 2.0]]
    """
    sums_HW3, norm_OP = noise_HW3, np.ones((1, 1))
    for axis, edges in enumerate((rows_O, columns_P)):
        cells = noise_HW3.shape[axis]
        starts = edges[:-1].clip(0, cells - 1)
        # The last sum ends where its input ends. Of equal starts, `reduceat` takes one cell.
        end = max(min(int(edges[-1]), cells), int(starts.max(initial=0)) + 1)
        counts = np.diff(starts, append=end).clip(min=1)
        sums_HW3 = np.add.reduceat(sums_HW3.take(np.arange(end), axis=axis), starts, axis=axis)
        norm_OP = norm_OP * np.expand_dims(np.sqrt(counts), 1 - axis)
    normal_OP3: NDArray[np.float32] = np.divide(sums_HW3, norm_OP[..., None], dtype=np.float32)
    return normal_OP3
