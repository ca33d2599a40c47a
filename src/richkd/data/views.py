"""A view is a value: the pixels of image i at epoch e are a pure function of (seed, augmentation, i, e).

A *augmentation* draws views; :func:`render` turns views and source pixels into a network's input. Student,
teacher and CLIP each render the same view at their own resolution and normalization, so they see the
same crop of the same image, mirrored alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from richkd.config.schema import AugmentConfig
from richkd.core.seeds import mix_seed

RGB = tuple[float, float, float]
# ITU-R BT.601 luma, what "grayscale" means to PIL and torchvision.
LUMA: RGB = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Views:
    """One view for each image of a batch.

    ``box_B4`` is (top, left, height, width) in source pixels and may reach ``border`` pixels past the
    source, where everything is black. ``flip_B`` mirrors left and right after the crop. ``color_B3``
    are factors of brightness, contrast and saturation (1 changes nothing), or None. ``augmentation`` and
    ``number_B`` say which of an augmentation's countable views these are; caches use them as keys.
    """

    box_B4: Tensor
    flip_B: Tensor
    border: int = 0
    color_B3: Tensor | None = None
    augmentation: Augmentation | None = None
    number_B: Tensor | None = None

    def at(self, places: Tensor) -> Views:
        """The views at these places of the batch."""
        return replace(
            self,
            box_B4=self.box_B4[places],
            flip_B=self.flip_B[places],
            color_B3=None if self.color_B3 is None else self.color_B3[places],
            number_B=None if self.number_B is None else self.number_B[places],
        )


class Augmentation(Protocol):
    """Draws the views of an epoch; must depend on nothing but its arguments and its own settings.

    ``count`` is the number of views that an image has, None where they are endless. A *seeded* augmentation's
    view of one number is another one at another seed.
    """

    @property
    def count(self) -> int | None: ...

    seeded: ClassVar[bool]

    def draw(self, seed: int, epoch: int, index_B: Tensor) -> Views: ...

    def view(self, seed: int, number: int, index_B: Tensor) -> Views:
        """The view of one number, for each of these images."""
        ...


@dataclass(frozen=True)
class CropFlip:
    """Crops of the source's own size after a black border of ``pad`` pixels, half of them mirrored.

    With ``pad`` 4 and mirroring, CIFAR's usual augmentation, there are 9 · 9 · 2 = 162 views, and a
    view is one of these numbers: ``number = (top · (2·pad + 1) + left) · mirrors + mirrored``.
    """

    size: int
    pad: int
    flip: bool = True
    seeded: ClassVar[bool] = False

    @property
    def count(self) -> int:
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    def numbers(self, seed: int, epoch: int, index_B: Tensor) -> Tensor:
        """The number in [0, count) of each image's view at this epoch."""
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
    """Crops of a random share and shape of the image, half of them mirrored, with optional color jitter.

    Area share uniform in ``scale``, width ÷ height log-uniform in ``ratio`` (Szegedy et al. 2015); a
    side that would pass the source's is cut to it. Color factors are uniform in 1 ± ``color``. With
    ``cycle`` V, epoch e shows the views of epoch e mod V again, so that an image has V views and no more.
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
    """The whole source image, unchanged: the view of every evaluation."""

    size: int
    count: ClassVar[int] = 1
    seeded: ClassVar[bool] = False

    def draw(self, seed: int, epoch: int, index_B: Tensor) -> Views:
        box_B4 = torch.tensor([0, 0, self.size, self.size], device=index_B.device).expand(len(index_B), 4)
        number_B = torch.zeros_like(index_B)
        return Views(box_B4.float(), number_B.bool(), augmentation=self, number_B=number_B)

    def view(self, seed: int, number: int, index_B: Tensor) -> Views:
        return self.draw(seed, number, index_B)


def build_augmentation(config: AugmentConfig, size: int) -> Augmentation:
    """The augmentation that the settings describe, for square source images of ``size`` pixels."""
    if config.policy == "clean":
        return Clean(size)
    if config.policy == "random-resized-crop":
        return RandomResizedCrop(
            size, config.scale, config.ratio, config.flip, config.color_jitter, config.num_views
        )
    return CropFlip(size, size // 8 if config.pad is None else config.pad, config.flip)


def uniform(stream: int, index_B: Tensor) -> Tensor:
    """A float64 in [0, 1) for each index: the splitmix64 finaliser of (stream, index) (Steele et al. 2014).

    Counter-based, so image 7's number is the same in any batch, order or process.
    """
    # torch has no unsigned 64-bit arithmetic: products wrap as needed, but a right shift copies the
    # sign bit, so each shift is followed by a mask of the bits that remain.
    x_B = index_B.to(torch.int64) * -7046029254386353131 + (stream - (1 << 63))
    x_B = (x_B ^ (x_B >> 30 & (1 << 34) - 1)) * -4658895280553007687
    x_B = (x_B ^ (x_B >> 27 & (1 << 37) - 1)) * -7723592293110705685
    x_B = x_B ^ (x_B >> 31 & (1 << 33) - 1)
    return (x_B >> 11 & (1 << 53) - 1).double() / (1 << 53)


def render(pixels_BHWC: Tensor, views: Views, size: int, mean: RGB, std: RGB) -> Tensor:
    """Render views for a network: crop, mirror, resize to ``size``, color, normalize.

    Crops that need no resizing are copied pixel for pixel; all others go through one separable,
    antialiased resampling (:func:`resampling_matrix`), batched over boxes of any size.

    Args:
        pixels_BHWC: uint8 source pixels.
        views: what to see of each of them.
        size: height and width of the result in pixels.
        mean: per channel, subtracted from values in 0..1.
        std: per channel, divides the difference.

    Returns:
        float32 pixels (B, 3, size, size) in channels-last memory order.
    """
    plain = _is_plain_crop(views, size)
    views = _on(views, pixels_BHWC.device)
    if plain:
        seen_BHWC = _crop(pixels_BHWC, views, size).float() / 255
    else:
        rows_BOH = resampling_matrix(
            views.box_B4[:, 0], views.box_B4[:, 2], pixels_BHWC.shape[1], size, views.border
        )
        cols_BOW = resampling_matrix(
            views.box_B4[:, 1], views.box_B4[:, 3], pixels_BHWC.shape[2], size, views.border
        )
        cols_BOW = torch.where(views.flip_B[:, None, None], cols_BOW.flip(1), cols_BOW)
        seen_BHWC = torch.einsum("boh,bhwc,bpw->bopc", rows_BOH, pixels_BHWC.float() / 255, cols_BOW)
    if views.color_B3 is not None:
        seen_BHWC = _color(seen_BHWC, views.color_B3)
    # Whole rows of pixels at a time: a last axis of three is too short for vector instructions.
    mean_W3 = torch.tensor(mean, device=seen_BHWC.device).repeat(size)
    std_W3 = torch.tensor(std, device=seen_BHWC.device).repeat(size)
    normal_BHWC = ((seen_BHWC.flatten(2) - mean_W3) / std_W3).view_as(seen_BHWC)
    normal_B3HW = normal_BHWC.permute(0, 3, 1, 2)
    # The product behind resampling leaves its result in an order of its own choice.
    return normal_B3HW.contiguous(memory_format=torch.channels_last)


def resampling_matrix(start_B: Tensor, length_B: Tensor, source: int, size: int, border: int) -> Tensor:
    """Weights of source pixels in each resampled pixel along one axis.

    Output pixel o looks at source position s = start + (o + ½)·length/size − ½ through a triangle of
    half-width max(1, length/size): bilinear when enlarging, antialiased when reducing. Weights are
    normalized over the source and its black border; the border's own share is then dropped.

    Returns:
        (B, size, source); each row sums to one where the triangle does not reach into the border.
    """
    step_B11 = (length_B / size)[:, None, None]
    output_O1 = torch.arange(size, device=start_B.device)[:, None] + 0.5
    position_BO1 = start_B[:, None, None] + output_O1 * step_B11 - 0.5
    grid_S = torch.arange(-border, source + border, device=start_B.device)
    weights_BOS = (1 - (grid_S - position_BO1).abs() / step_B11.clamp(min=1)).clamp(min=0)
    weights_BOS = weights_BOS / weights_BOS.sum(dim=2, keepdim=True)
    return weights_BOS[:, :, border : border + source]


def _on(views: Views, device: torch.device) -> Views:
    color_B3 = views.color_B3
    return replace(
        views,
        box_B4=views.box_B4.to(device, non_blocking=True),
        flip_B=views.flip_B.to(device, non_blocking=True),
        color_B3=None if color_B3 is None else color_B3.to(device, non_blocking=True),
    )


def _is_plain_crop(views: Views, size: int) -> bool:
    # Views lie on the CPU, so this waits for no GPU.
    box_B4 = views.box_B4
    return bool((box_B4[:, 2:] == size).all()) and bool((box_B4 == box_B4.round()).all())


def _crop(pixels_BHWC: Tensor, views: Views, size: int) -> Tensor:
    border = views.border
    padded_BHWC = (
        functional.pad(pixels_BHWC, (0, 0, border, border, border, border)) if border else pixels_BHWC
    )
    batch, height, width, channels = padded_BHWC.shape
    steps_S = torch.arange(size, device=pixels_BHWC.device)
    corner_B2 = views.box_B4[:, :2].long() + border
    rows_BS = corner_B2[:, :1] + steps_S
    cols_BS = corner_B2[:, 1:] + torch.where(views.flip_B[:, None], steps_S.flip(0), steps_S)
    image_B11 = torch.arange(batch, device=pixels_BHWC.device)[:, None, None]
    # One list of pixels is chosen from three times as fast as a picture by three indices.
    place_BSS = (image_B11 * height + rows_BS[:, :, None]) * width + cols_BS[:, None, :]
    seen_PC = padded_BHWC.reshape(-1, channels).index_select(0, place_BSS.flatten())
    return seen_PC.view(batch, size, size, channels)


def _color(seen_BHWC: Tensor, color_B3: Tensor) -> Tensor:
    brightness, contrast, saturation = (color_B3[:, i, None, None, None] for i in range(3))
    luma_C = torch.tensor(LUMA, device=seen_BHWC.device)
    bright_BHWC = (seen_BHWC * brightness).clamp(0, 1)
    mean_B111 = (bright_BHWC @ luma_C).mean(dim=(1, 2))[:, None, None, None]
    contrasted_BHWC = torch.lerp(mean_B111, bright_BHWC, contrast).clamp(0, 1)
    gray_BHW1 = (contrasted_BHWC @ luma_C)[..., None]
    return torch.lerp(gray_BHW1.expand_as(contrasted_BHWC), contrasted_BHWC, saturation).clamp(0, 1)
