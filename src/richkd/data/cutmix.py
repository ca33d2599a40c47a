"""CutMix: two images become one, in which one image fills a box and the other the rest.

Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
ICCV 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """Rows ``top`` to ``bottom`` − 1 and columns ``left`` to ``right`` − 1 of images of height × width.

    The first image fills the box or the rest, whichever is larger, so its share is at least one half. This
    does not change how likely a batch of mixed images is: exchanging the roles of all images and partners is
    another order of the images, and all orders are equally likely.
    """

    top: int
    bottom: int
    left: int
    right: int
    height: int
    width: int

    @property
    def inside(self) -> float:
        """The box's fraction of the area."""
        return (self.bottom - self.top) * (self.right - self.left) / (self.height * self.width)

    @property
    def share(self) -> float:
        """The first image's fraction of the area, at least one half.

        Example:
            >>> [Box(0, rows, 0, 2, height=4, width=4).share for rows in (0, 2, 4)]
            [1.0, 0.75, 0.5]
        """
        return max(self.inside, 1 - self.inside)

    def pixels(self, first_B3HW: Tensor, second_B3HW: Tensor) -> Tensor:
        """The mixed images.

        Example:
            >>> import torch
            >>> images = torch.ones(1, 1, 1, 3), torch.zeros(1, 1, 1, 3)
            >>> [Box(0, 1, 0, n, height=1, width=3).pixels(*images).flatten().tolist() for n in (1, 2)]
            [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
        """
        assert first_B3HW.shape[2:] == (self.height, self.width), "the box is of images of another size"
        around, box = (first_B3HW, second_B3HW) if self.inside <= 0.5 else (second_B3HW, first_B3HW)
        mixed_B3HW = around.clone()
        rows, columns = slice(self.top, self.bottom), slice(self.left, self.right)
        mixed_B3HW[..., rows, columns] = box[..., rows, columns]
        return mixed_B3HW


def box_around(height: int, width: int, kept: float, row: int, column: int) -> Box:
    """The box around a pixel that leaves the fraction ``kept`` of the image, clipped to the image.

    Before it is clipped, both sides are √(1 − kept) of the image's, rounded down.

    Example:
        >>> box_around(8, 8, kept=0.75, row=0, column=4)
        Box(top=0, bottom=2, left=2, right=6, height=8, width=8)
    """
    sides = [int(side * math.sqrt(1 - kept)) for side in (height, width)]
    top, left = row - sides[0] // 2, column - sides[1] // 2
    bottom, right = row + (sides[0] + 1) // 2, column + (sides[1] + 1) // 2
    return Box(max(top, 0), min(bottom, height), max(left, 0), min(right, width), height, width)


def draw_box(alpha: float, height: int, width: int, random: np.random.Generator) -> Box:
    """A box around a random pixel, each as likely; the area before clipping ~ Beta(alpha, alpha).

    Example:
        >>> box = draw_box(1.0, 32, 32, np.random.default_rng(0))
        >>> 0 <= box.top <= box.bottom <= 32, 0.5 <= box.share <= 1
        (True, True)
    """
    kept = random.beta(alpha, alpha)
    row, column = random.integers(height), random.integers(width)
    return box_around(height, width, float(kept), int(row), int(column))
