"""Augmentation policies: how the views of training images are drawn.

Views are drawn with counter-based random numbers (:func:`uniform`), so the view of an image depends on
(seed, policy, epoch, image index) only. To add a policy, write a class that fulfills the protocol
:class:`~richkd.data.views.Augmentation` and register a function that builds it from the settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from richkd.config.choices import AUGMENTATIONS
from richkd.core.seeds import mix_seed
from richkd.data.views import Augmentation, Views

if TYPE_CHECKING:
    # At run time the settings import this module, to validate the name of the policy.
    from richkd.config.schema import AugmentConfig


@dataclass(frozen=True)
class CropFlip:
    """Crops of the source size after adding a black border, half of them mirrored.

    With ``pad`` 4 and mirroring, the usual augmentation for CIFAR, there are 9 · 9 · 2 = 162 views. Views are
    numbered: ``number = (top · (2·pad + 1) + left) · mirrors + mirrored``, where ``top`` and ``left`` are the
    offsets in the padded image and ``mirrors`` is 2 with mirroring and 1 without.

    Args:
        size: height and width of the source images in pixels.
        pad: width of the border in pixels.
        flip: mirror half of the views.

    Example:
        >>> crop = CropFlip(size=32, pad=4)
        >>> views = crop.draw(seed=0, epoch=0, index_B=torch.arange(5))
        >>> crop.count, list(views.box_B4.shape), views.border
        (162, [5, 4], 4)
    """

    size: int
    pad: int
    flip: bool = True
    seeded: ClassVar[bool] = False

    @property
    def count(self) -> int:
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    def numbers(self, seed: int, epoch: int, index_B: Tensor) -> Tensor:
        """The number in [0, count) of the view of each image at this epoch (B, int64)."""
        return (uniform(mix_seed(seed, "view", epoch), index_B) * self.count).long()

    def numbered(self, number_B: Tensor) -> Views:
        """The views with these numbers."""
        mirrors = 2 if self.flip else 1
        offset_B, span = number_B // mirrors, 2 * self.pad + 1
        top_B, left_B = offset_B // span - self.pad, offset_B % span - self.pad
        side_B = torch.full_like(top_B, self.size)
        box_B4 = torch.stack([top_B, left_B, side_B, side_B], dim=1).float()
        return Views(box_B4, number_B % mirrors == 1, border=self.pad, augmentation=self, number_B=number_B)

    def draw(self, seed: int, epoch: int, index_B: Tensor) -> Views:
        return self.numbered(self.numbers(seed, epoch, index_B))

    def view(self, seed: int, number: int, index_B: Tensor) -> Views:
        return self.numbered(torch.full_like(index_B, number))


@dataclass(frozen=True)
class RandomResizedCrop:
    """Crops of random area and shape, half of them mirrored, with optional color jitter.

    Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015. A side that would be longer than the
    side of the source is shortened to it.

    Args:
        size: height and width of the source images in pixels.
        scale: range of the share of the image area; the share is uniform.
        ratio: range of width / height; its logarithm is uniform.
        flip: mirror half of the views.
        color: strength of color jitter in [0, 1); the factors of brightness, contrast and saturation are
            uniform in 1 ± ``color``.
        cycle: number V of views per image; epoch e shows the views of epoch e mod V. By default every epoch
            has new views.

    Example:
        >>> crop = RandomResizedCrop(size=32, cycle=10)
        >>> index_B = torch.arange(5)
        >>> first, again = crop.draw(0, 3, index_B), crop.draw(0, 13, index_B)
        >>> torch.equal(first.box_B4, again.box_B4), first.number_B.tolist()
        (True, [3, 3, 3, 3, 3])
    """

    size: int
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (0.75, 1.333)
    flip: bool = True
    color: float = 0.0
    cycle: int | None = None
    seeded: ClassVar[bool] = True

    @property
    def count(self) -> int | None:
        return self.cycle

    def draw(self, seed: int, epoch: int, index_B: Tensor) -> Views:
        epoch = epoch % self.cycle if self.cycle else epoch

        def between(stream: int, low: float, high: float) -> Tensor:
            return low + (high - low) * uniform(mix_seed(seed, "view", epoch, stream), index_B)

        side_B = self.size * between(0, *self.scale).sqrt()
        stretch_B = torch.exp(between(1, math.log(self.ratio[0]), math.log(self.ratio[1]))).sqrt()
        height_B = (side_B / stretch_B).clamp(1, self.size)
        width_B = (side_B * stretch_B).clamp(1, self.size)
        top_B = (self.size - height_B) * between(2, 0, 1)
        left_B = (self.size - width_B) * between(3, 0, 1)
        flip_B = between(4, 0, 1) < (0.5 if self.flip else 0.0)
        jitter = [between(5 + channel, 1 - self.color, 1 + self.color) for channel in range(3)]
        return Views(
            torch.stack([top_B, left_B, height_B, width_B], dim=1).float(),
            flip_B,
            color_B3=torch.stack(jitter, dim=1).float() if self.color else None,
            augmentation=self,
            number_B=torch.full_like(index_B, epoch) if self.cycle else None,
        )

    def view(self, seed: int, number: int, index_B: Tensor) -> Views:
        return self.draw(seed, number, index_B)


@dataclass(frozen=True)
class Clean:
    """The whole source image, unchanged. All evaluations use this view.

    Args:
        size: height and width of the source images in pixels.

    Example:
        >>> Clean(size=32).draw(seed=0, epoch=0, index_B=torch.arange(2)).box_B4.tolist()
        [[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 32.0, 32.0]]
    """

    size: int
    count: ClassVar[int] = 1
    seeded: ClassVar[bool] = False

    def draw(self, seed: int, epoch: int, index_B: Tensor) -> Views:
        box_B4 = torch.tensor([0, 0, self.size, self.size], device=index_B.device).expand(len(index_B), 4)
        number_B = torch.zeros_like(index_B)
        return Views(box_B4.float(), number_B.bool(), augmentation=self, number_B=number_B)

    def view(self, seed: int, number: int, index_B: Tensor) -> Views:
        return self.draw(seed, number, index_B)


@AUGMENTATIONS.register("crop-flip", "shifted crops with a black border, half of them mirrored")
def _crop_flip(config: AugmentConfig, size: int) -> Augmentation:
    return CropFlip(size, size // 8 if config.pad is None else config.pad, config.flip)


@AUGMENTATIONS.register(
    "random-resized-crop", "crops of random area and shape, half of them mirrored (Szegedy et al. 2015)"
)
def _random_resized_crop(config: AugmentConfig, size: int) -> Augmentation:
    return RandomResizedCrop(
        size, config.scale, config.ratio, config.flip, config.color_jitter, config.num_views
    )


@AUGMENTATIONS.register("clean", "the whole image, unchanged")
def _clean(config: AugmentConfig, size: int) -> Augmentation:
    return Clean(size)


def build_augmentation(config: AugmentConfig, size: int) -> Augmentation:
    """Build the augmentation that the settings describe.

    Args:
        config: the settings; ``config.policy`` is a name in `AUGMENTATIONS`.
        size: height and width of the square source images in pixels.

    Raises:
        ConfigError: no such policy.

    Example:
        >>> from richkd.config.schema import AugmentConfig
        >>> build_augmentation(AugmentConfig(policy="crop-flip", flip=False), size=32)
        CropFlip(size=32, pad=4, flip=False)
    """
    augmentation: Augmentation = AUGMENTATIONS[config.policy](config, size)
    return augmentation


def uniform(stream: int, index_B: Tensor) -> Tensor:
    """A random number in [0, 1) for each index: the splitmix64 finalizer of (stream, index).

    The generator is counter-based: the number of image 7 is the same in any batch, order and process.
    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Args:
        stream: seed of the random stream, in [0, 2⁶³), from :func:`~richkd.core.seeds.mix_seed`.
        index_B: image indices (integers).

    Returns:
        float64 numbers (B).

    Example:
        >>> both_B = uniform(5, torch.tensor([3, 7]))
        >>> torch.equal(both_B[1:], uniform(5, torch.tensor([7]))), bool((0 <= both_B).all())
        (True, True)
    """
    # torch has no unsigned 64-bit arithmetic. Products wrap around as needed, but a right shift copies the
    # sign bit, so each shift is followed by a mask of the remaining bits.
    x_B = index_B.to(torch.int64) * -7046029254386353131 + (stream - (1 << 63))
    x_B = (x_B ^ (x_B >> 30 & (1 << 34) - 1)) * -4658895280553007687
    x_B = (x_B ^ (x_B >> 27 & (1 << 37) - 1)) * -7723592293110705685
    x_B = x_B ^ (x_B >> 31 & (1 << 33) - 1)
    return (x_B >> 11 & (1 << 53) - 1).double() / (1 << 53)
