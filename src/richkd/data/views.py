"""Views of images, and how they are rendered.

A view is the part of an image that is shown, with mirroring and color factors. It is a function of (seed,
augmentation, epoch, image index) only. :func:`render` makes the input of a network from source pixels and
views. Student, teachers and CLIP render the same view at their own resolution and with their own
normalization, so all of them get the same crop of the same image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from richkd.core.device import constant, moved
from richkd.core.types import Batch

RGB = tuple[float, float, float]
# Luma weights of ITU-R BT.601, which PIL and torchvision use for grayscale.
LUMA: RGB = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Views:
    """One view for each image of a batch.

    Args:
        box_B4: crop as (top, left, height, width) in pixels of square sources; it may extend past the source
            by up to ``border`` pixels. None if views are cut from whole pictures.
        flip_B: whether to mirror left and right after the crop.
        border: width in pixels of a black border around the source.
        color_B3: factors of brightness, contrast and saturation (1: no change), or None.
        augmentation: the augmentation that drew these views.
        number_B: numbers of these views if ``augmentation`` has a finite number of views, else None. Caches
            of teachers use (augmentation, number) as a key.
        key_B: for views of whole pictures, the integers that crops are drawn from
            (:class:`~richkd.data.pictures.PictureAugmentation`).

    Example:
        >>> views = Views(torch.tensor([[0.0, 0, 8, 8], [2, 2, 4, 4]]), torch.tensor([False, True]))
        >>> views.at(torch.tensor([1])).box_B4.tolist()
        [[2.0, 2.0, 4.0, 4.0]]
    """

    box_B4: Tensor | None
    flip_B: Tensor
    border: int = 0
    color_B3: Tensor | None = None
    augmentation: Augmentation | None = None
    number_B: Tensor | None = None
    key_B: Tensor | None = None

    def at(self, places: Tensor) -> Views:
        """The views at these positions in the batch."""
        return replace(
            self,
            box_B4=None if self.box_B4 is None else self.box_B4[places],
            flip_B=self.flip_B[places],
            color_B3=None if self.color_B3 is None else self.color_B3[places],
            number_B=None if self.number_B is None else self.number_B[places],
            key_B=None if self.key_B is None else self.key_B[places],
        )


class Augmentation(Protocol):
    """Draws the views of each epoch. Implementations are in :mod:`richkd.data.augmentations`.

    Views must depend only on the arguments of `draw` and on the settings of the augmentation.

    Example:
        >>> from richkd.data.augmentations import Clean, CropFlip
        >>> augmentations: list[Augmentation] = [Clean(32), CropFlip(32, pad=4)]
        >>> [augmentation.count for augmentation in augmentations]
        [1, 162]
    """

    @property
    def count(self) -> int | None:
        """Number of different views of an image, or None if it is unlimited."""
        ...

    seeded: ClassVar[bool]
    """Whether the view with a given number depends on the seed."""

    def draw(self, seed: int, epoch: int, index_B: Tensor) -> Views:
        """The views of these images at this epoch."""
        ...

    def view(self, seed: int, number: int, index_B: Tensor) -> Views:
        """The view with this number, in [0, count), of each of these images."""
        ...


def render(pixels_BHWC: Tensor, views: Views, size: int, mean: RGB, std: RGB) -> Tensor:
    """Render views for a network: crop, mirror, resize, change colors, normalize.

    Crops of ``size`` × ``size`` pixels at whole pixel positions are copied. All others are resampled with
    separable, antialiased weights (:func:`resampling_matrix`), in one batch for boxes of any size.

    Args:
        pixels_BHWC: uint8 source pixels.
        views: one view for each image.
        size: height and width of the result in pixels.
        mean: mean of each channel in 0..1, which is subtracted.
        std: standard deviation of each channel in 0..1, by which the difference is divided.

    Returns:
        float32 pixels (B, 3, size, size) in channels-last memory format.

    Example:
        >>> pixels_BHWC = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
        >>> views = Views(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([False]))
        >>> pixels_B3HW = render(pixels_BHWC, views, size=4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> list(pixels_B3HW.shape), round(float(pixels_B3HW.mean()), 4)
        ([1, 3, 4, 4], 2.0)
    """
    assert views.box_B4 is not None, "views of whole pictures are rendered where these are decoded"
    plain = _is_plain_crop(views.box_B4, size)
    views = _on(views, pixels_BHWC.device)
    assert views.box_B4 is not None
    if plain:
        view_BHWC = _crop(pixels_BHWC, views, views.box_B4, size).float() / 255
    else:
        rows_BOH = resampling_matrix(
            views.box_B4[:, 0], views.box_B4[:, 2], pixels_BHWC.shape[1], size, views.border
        )
        cols_BOW = resampling_matrix(
            views.box_B4[:, 1], views.box_B4[:, 3], pixels_BHWC.shape[2], size, views.border
        )
        cols_BOW = torch.where(views.flip_B[:, None, None], cols_BOW.flip(1), cols_BOW)
        view_BHWC = torch.einsum("boh,bhwc,bpw->bopc", rows_BOH, pixels_BHWC.float() / 255, cols_BOW)
    return _normalized(view_BHWC, views.color_B3, mean, std)


def render_batch(batch: Batch, views: Views, size: int, mean: RGB, std: RGB) -> Tensor:
    """Render the views of a batch for a network, from source pixels or from crops of this size.

    Args:
        batch: the images.
        views: one view for each image.
        size, mean, std: input of the network; see `render`.

    Returns:
        float32 pixels (B, 3, size, size) in channels-last memory format.

    Example:
        >>> crops = {2: torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)}
        >>> batch = Batch("train", torch.tensor([0]), torch.empty(1, 0, 0, 3), torch.tensor([0]), crops)
        >>> views = Views(None, torch.tensor([False]))
        >>> render_batch(batch, views, 2, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).unique().tolist()
        [2.0]
    """
    if not batch.crops:
        return render(batch.pixels_BHWC, views, size, mean, std)
    crop_BHWC = batch.crops[size]
    if views.color_B3 is not None:
        color_B3 = _on(views, crop_BHWC.device).color_B3
        return _normalized(crop_BHWC.float() / 255, color_B3, mean, std)
    # The same in place: most of the time is spent on memory that is written for the first time.
    mean_3, std_3 = constant(mean, crop_BHWC.device), constant(std, crop_BHWC.device)
    scale_W3, offset_W3 = (1 / (255 * std_3)).repeat(size), (-mean_3 / std_3).repeat(size)
    normal_BHX = crop_BHWC.flatten(2).float().mul_(scale_W3).add_(offset_W3)
    return normal_BHX.view(crop_BHWC.shape).permute(0, 3, 1, 2)


def _normalized(view_BHWC: Tensor, color_B3: Tensor | None, mean: RGB, std: RGB) -> Tensor:
    if color_B3 is not None:
        view_BHWC = _color(view_BHWC, color_B3)
    size = view_BHWC.shape[2]
    # Normalize whole rows of pixels: a last axis of three values is too short for vector instructions.
    mean_W3 = constant(mean, view_BHWC.device).repeat(size)
    std_W3 = constant(std, view_BHWC.device).repeat(size)
    normal_BHWC = ((view_BHWC.flatten(2) - mean_W3) / std_W3).view_as(view_BHWC)
    normal_B3HW = normal_BHWC.permute(0, 3, 1, 2)
    # The memory order of the einsum result is not specified.
    return normal_B3HW.contiguous(memory_format=torch.channels_last)


def resampling_matrix(start_B: Tensor, length_B: Tensor, source: int, size: int, border: int) -> Tensor:
    """Weights of the source pixels in each resampled pixel, along one axis.

    Output pixel o is at source position s = start + (o + ½) · length / size − ½. Its weights are a triangle
    around s with half-width max(1, length / size): bilinear for enlarging, antialiased for reducing. Weights
    are normalized over the source and its black border; then the weights of the border are dropped.

    Args:
        start_B: first source position of each crop (top or left), in pixels.
        length_B: length of each crop (height or width), in pixels.
        source: length of the source in pixels.
        size: length of the result in pixels.
        border: width of the black border in pixels.

    Returns:
        Weights (B, size, source). A row sums to 1 if its triangle does not overlap the border.

    Example:
        >>> resampling_matrix(torch.tensor([0.0]), torch.tensor([2.0]), source=2, size=1, border=0).tolist()
        [[[0.5, 0.5]]]
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
        box_B4=None if views.box_B4 is None else moved(views.box_B4, device),
        flip_B=moved(views.flip_B, device),
        color_B3=None if color_B3 is None else moved(color_B3, device),
    )


def _is_plain_crop(box_B4: Tensor, size: int) -> bool:
    # Views are on the CPU, so this does not wait for a GPU.
    return bool((box_B4[:, 2:] == size).all()) and bool((box_B4 == box_B4.round()).all())


def _crop(pixels_BHWC: Tensor, views: Views, box_B4: Tensor, size: int) -> Tensor:
    border = views.border
    padded_BHWC = (
        functional.pad(pixels_BHWC, (0, 0, border, border, border, border)) if border else pixels_BHWC
    )
    batch, height, width, channels = padded_BHWC.shape
    steps_S = torch.arange(size, device=pixels_BHWC.device)
    corner_B2 = box_B4[:, :2].long() + border
    rows_BS = corner_B2[:, :1] + steps_S
    cols_BS = corner_B2[:, 1:] + torch.where(views.flip_B[:, None], steps_S.flip(0), steps_S)
    image_B11 = torch.arange(batch, device=pixels_BHWC.device)[:, None, None]
    # Selecting from a flat list of pixels is three times as fast as indexing an image with three indices.
    position_BSS = (image_B11 * height + rows_BS[:, :, None]) * width + cols_BS[:, None, :]
    view_PC = padded_BHWC.reshape(-1, channels).index_select(0, position_BSS.flatten())
    return view_PC.view(batch, size, size, channels)


def _color(view_BHWC: Tensor, color_B3: Tensor) -> Tensor:
    brightness, contrast, saturation = (color_B3[:, i, None, None, None] for i in range(3))
    luma_C = constant(LUMA, view_BHWC.device)
    bright_BHWC = (view_BHWC * brightness).clamp(0, 1)
    mean_B111 = (bright_BHWC @ luma_C).mean(dim=(1, 2))[:, None, None, None]
    contrasted_BHWC = torch.lerp(mean_B111, bright_BHWC, contrast).clamp(0, 1)
    gray_BHW1 = (contrasted_BHWC @ luma_C)[..., None]
    return torch.lerp(gray_BHW1.expand_as(contrasted_BHWC), contrasted_BHWC, saturation).clamp(0, 1)
