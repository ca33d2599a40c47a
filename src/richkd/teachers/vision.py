"""A frozen vision teacher: logits and features of the views of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from richkd.core.files import hash_tensors
from richkd.core.types import Batch, Output
from richkd.data.views import Views, render_batch
from richkd.models.build import Network
from richkd.models.compiling import compile_fixed
from richkd.teachers.base import Teacher
from richkd.teachers.cache.row_format import RowFormat, as_stored


class VisionTeacher(Teacher):
    """A trained classifier with frozen weights that sees the views of the student at its own resolution.

    Outputs for training images are float32, rounded to values that float16 can represent (`as_stored`), for
    every ``autocast``. All other images, on which teachers are evaluated and fusion is fitted, are computed
    in float32 without rounding and compiling, so that a teacher in a run has the accuracy that
    ``richkd evaluate`` measures.

    Args:
        network: the trained network; it is set to evaluation mode and its gradients are disabled.
        device: device of the network.
        autocast: dtype of convolutions and matrix products; None for float32.
        compiled: compile the network and fold its batch norms into its convolutions. This takes about 20
            seconds per batch size and changes the last bits of the outputs.

    Example:
        >>> from richkd.data.augmentations import Clean
        >>> from richkd.models.cifar import cifar_resnet8
        >>> model = cifar_resnet8(num_classes=3)
        >>> network = Network(model, "cifar_resnet8", size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> teacher = VisionTeacher(network, torch.device("cpu"))
        >>> batch = Batch("train", torch.arange(2), torch.zeros(2, 8, 8, 3), torch.zeros(2))
        >>> tuple(teacher.outputs(batch, Clean(8).draw(0, 0, batch.index_B)).logits_BC.shape)
        (2, 3)
    """

    sees_pixels = True

    def __init__(
        self,
        network: Network,
        device: torch.device,
        autocast: torch.dtype | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        network = network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.network: Network = network
        self.name, self.feature_width = network.name, network.feature_width
        self.framing = network.framing
        self.device, self.autocast, self.compiled = device, autocast, compiled
        self._forward: Callable[..., Output] = self.network
        if compiled:
            # Code for frozen weights is compiled again by each process, which costs a GPU more than it saves.
            options = {"freezing": True} if device.type == "cpu" else {}
            self._forward = compile_fixed(self.network, device, **options)

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        network = self.network
        pixels = render_batch(batch, views, network.size, network.mean, network.std)
        self.computed += len(pixels)
        if batch.split != "train":
            return run_exact(network, pixels, self.device, maps=maps)
        output = run_stored(self._forward, pixels, self.device, self.autocast, maps=maps)
        # The next call of a compiled network can write its maps to the same memory.
        return replace(output, maps=tuple(m.clone() for m in output.maps)) if self.compiled else output

    @property
    def row_format(self) -> RowFormat:
        return RowFormat(self.network.classes, self.feature_width)

    def ingredients(self, *, trained: bool = True) -> dict[str, Any]:
        weights = hash_tensors(self.network.model.state_dict())
        autocast, compiled = (self.autocast, self.compiled) if trained else (None, False)
        return ingredients_of(self.network, weights, self.device, autocast, compiled=compiled)


def run_exact(
    network: Callable[..., Output], pixels: Tensor, device: torch.device, *, maps: bool = False
) -> Output:
    """The outputs of a teacher for images that are not for training: float32 without rounding."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        output = network(pixels, maps)
    return Output(output.logits_BC.float(), output.feats_BF.float(), output.maps)


def run_stored(
    network: Callable[..., Output],
    pixels: Tensor,
    device: torch.device,
    autocast: torch.dtype | None,
    *,
    maps: bool = False,
) -> Output:
    """The outputs of a teacher for training images, rounded as they are stored."""
    with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
        return as_stored(network(pixels, maps))


def ingredients_of(
    network: Network, weights: str, device: torch.device, autocast: torch.dtype | None, *, compiled: bool
) -> dict[str, Any]:
    """What the outputs of a network depend on, under names that messages can show.

    Args:
        weights: hash of its weights.
    """
    return {
        "teacher": network.name,
        "teacher's weights": weights,
        "input": [network.size, *network.mean, *network.std],
        "precision": str(autocast or torch.float32),
        "compiled": compiled,
        "device": device.type,
        # Arguments can change the outputs of equal weights. Caches without any keep their digest.
        **({"arguments": dict(network.blueprint.args)} if network.blueprint.args else {}),
    }
