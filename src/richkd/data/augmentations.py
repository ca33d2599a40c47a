"""Augmentation policies: how the views of training images are drawn.

Views are drawn with counter-based random numbers (:func:`uniform`), so the view of an image depends on
(seed, policy, epoch, image index) only. To add a policy, write a class that fulfills the protocol
:class:`~richkd.data.views.Augmentation` and register a function that builds it from the settings.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from richkd.config.choices import AUGMENTATIONS
from richkd.core.seeds import mix_seed
from richkd.data.effects import Effects, read_effects
from richkd.data.framing import Framing
from richkd.data.views import Augmentation, Views

if TYPE_CHECKING:
    # At run time the settings import this module, to validate the name of the policy.
    from richkd.config.schema import AugmentConfig

# Draws of area and shape before the fallback, as in torchvision.
ATTEMPTS = 10


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
    """Crops of random area and shape out of the whole picture, half of them mirrored, with color jitter.

    Source: Szegedy et al., "Going deeper with convolutions", CVPR 2015, with the distribution of
    torchvision's ``RandomResizedCrop``: up to ten draws of area and shape, of which the first that fits into
    the picture is used; then the largest crop at the center with a shape in range.

    Args:
        scale: range of the share of the picture's area; the share is uniform.
        ratio: range of width / height; its logarithm is uniform.
        flip: mirror half of the views.
        color: strength of color jitter in [0, 1); the factors of brightness, contrast and saturation are
            uniform in 1 ± ``color``.
        cycle: number V of views per image; epoch e shows the views of epoch e mod V. By default every epoch
            has new views.
        effects: what happens to the resized crops, such as RandAugment; None for nothing.

    Example:
        >>> crop = RandomResizedCrop(cycle=10)
        >>> index_B = torch.arange(5)
        >>> first, again = crop.draw(0, 3, index_B), crop.draw(0, 13, index_B)
        >>> torch.equal(first.key_B, again.key_B), first.number_B.tolist()
        (True, [3, 3, 3, 3, 3])
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (0.75, 1.333)
    flip: bool = True
    color: float = 0.0
    cycle: int | None = None
    effects: Effects | None = None
    seeded: ClassVar[bool] = True

    @property
    def count(self) -> int | None:
        return self.cycle

    @property
    def smallest_share(self) -> float:
        """Smallest share of the picture's area that a view shows."""
        return self.scale[0]

    def draw(self, seed: int, epoch: int, index_B: Tensor) -> Views:
        epoch = epoch % self.cycle if self.cycle else epoch

        def stream(number: int) -> int:
            return mix_seed(seed, "view", epoch, number)

        low, high = 1 - self.color, 1 + self.color
        jitter = [low + (high - low) * uniform(stream(5 + channel), index_B) for channel in range(3)]
        return Views(
            None,
            uniform(stream(4), index_B) < (0.5 if self.flip else 0.0),
            color_B3=torch.stack(jitter, dim=1).float() if self.color else None,
            augmentation=self,
            number_B=torch.full_like(index_B, epoch) if self.cycle else None,
            key_B=random_bits(stream(0), index_B),
        )

    def view(self, seed: int, number: int, index_B: Tensor) -> Views:
        return self.draw(seed, number, index_B)

    def box(self, key: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The crop (top, left, height, width) of the view with this key, in pixels of the picture.

        Example:
            >>> RandomResizedCrop(scale=(1.0, 1.0)).box(7, height=10, width=40)  # no such crop: the fallback
            (0, 13, 10, 13)
        """
        # Of Python's generator, only random() is the same in all versions.
        draw = random.Random(key).random
        low, high = (math.log(ratio) for ratio in self.ratio)
        for _ in range(ATTEMPTS):
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * draw())
            ratio = math.exp(low + (high - low) * draw())
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(draw() * (height - h + 1)), int(draw() * (width - w + 1)), h, w
        w = min(width, round(height * self.ratio[1]))
        h = min(height, round(width / self.ratio[0]))
        return (height - h) // 2, (width - w) // 2, h, w

    def alter(self, crops: Mapping[int, Tensor], key: int) -> Mapping[int, Tensor]:
        """The crops after the effects."""
        return crops if self.effects is None else self.effects.alter(crops, key)


@dataclass(frozen=True)
class Clean:
    """The whole source image, unchanged. All evaluations use this view.

    Args:
        size: height and width of the source images in pixels.
        framing: how source images were cut out of the pictures; None for the whole center square.

    Example:
        >>> Clean(size=32).draw(seed=0, epoch=0, index_B=torch.arange(2)).box_B4.tolist()
        [[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 32.0, 32.0]]
    """

    size: int
    framing: Framing | None = None
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
        config.scale,
        config.ratio,
        config.flip,
        config.color_jitter,
        config.num_views,
        read_effects(config),
    )


@AUGMENTATIONS.register("clean", "the whole image, unchanged")
def _clean(config: AugmentConfig, size: int) -> Augmentation:
    return Clean(size)


def build_augmentation(config: AugmentConfig, size: int) -> Augmentation:
    """Build the augmentation that the settings describe.

    Args:
        config: the settings; ``config.policy`` is a name in `AUGMENTATIONS`.
        size: height and width of the square source images in pixels; for policies that cut views from
            square sources.

    Raises:
        ConfigError: no such policy, or timm does not know ``config.auto_augment``.

    Example:
        >>> from richkd.config.schema import AugmentConfig
        >>> build_augmentation(AugmentConfig(policy="crop-flip", flip=False), size=32)
        CropFlip(size=32, pad=4, flip=False)
    """
    augmentation: Augmentation = AUGMENTATIONS[config.policy](config, size)
    return augmentation


def uniform(stream: int, index_B: Tensor) -> Tensor:
    """A random number in [0, 1) for each index: `random_bits` / 2⁵³, as float64.

    Example:
        >>> both_B = uniform(5, torch.tensor([3, 7]))
        >>> torch.equal(both_B[1:], uniform(5, torch.tensor([7]))), bool((0 <= both_B).all())
        (True, True)
    """
    return random_bits(stream, index_B).double() / (1 << 53)


def random_bits(stream: int, index_B: Tensor) -> Tensor:
    """A random integer of 53 bits for each index: the splitmix64 finalizer of (stream, index).

    The generator is counter-based: the number of image 7 is the same in any batch, order and process.
    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.

    Args:
        stream: seed of the random stream, in [0, 2⁶³), from :func:`~richkd.core.seeds.mix_seed`.
        index_B: image indices (integers).

    Returns:
        Numbers in [0, 2⁵³) (B, int64).

    Example:
        >>> both_B = random_bits(5, torch.tensor([3, 7]))
        >>> torch.equal(both_B[1:], random_bits(5, torch.tensor([7])))
        True
    """
    # torch has no unsigned 64-bit arithmetic. Products wrap around as needed, but a right shift copies the
    # sign bit, so each shift is followed by a mask of the remaining bits.
    x_B = index_B.to(torch.int64) * -7046029254386353131 + (stream - (1 << 63))
    x_B = (x_B ^ (x_B >> 30 & (1 << 34) - 1)) * -4658895280553007687
    x_B = (x_B ^ (x_B >> 27 & (1 << 37) - 1)) * -7723592293110705685
    x_B = x_B ^ (x_B >> 31 & (1 << 33) - 1)
    return x_B >> 11 & (1 << 53) - 1
