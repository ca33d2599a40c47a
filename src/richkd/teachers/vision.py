"""A frozen vision teacher: from the views of a batch to logits and features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from richkd.core.files import hash_tensors
from richkd.core.types import Batch, Output
from richkd.data.views import Views, render
from richkd.models.build import Network
from richkd.models.compiling import compile_fixed
from richkd.teachers.base import Teacher
from richkd.teachers.cache.row_format import RowFormat, as_stored


class VisionTeacher(Teacher):
    """A trained classifier, frozen, that renders the student's views at its own resolution.

    Args:
        network: the trained network; it is switched to evaluation and its gradients are turned off.
        device: where it runs.
        autocast: dtype of the convolutions and products; outputs are float32 numbers that float16 holds,
            whatever it is.
        compiled: compile the frozen network, its batch norms folded into its convolutions. Costs some
            20 seconds for each batch size, and changes the outputs' last bits.
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
        self.device, self.autocast, self.compiled = device, autocast, compiled
        self._forward: Callable[..., Output] = self.network
        if compiled:
            self._forward = compile_fixed(self.network, options={"freezing": True})

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        network = self.network
        pixels = render(batch.pixels_BHWC, views, network.size, network.mean, network.std)
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None),
        ):
            output = self._forward(pixels, maps)
        self.computed += len(pixels)
        return as_stored(output)

    @property
    def row_format(self) -> RowFormat:
        return RowFormat(self.network.classes, self.feature_width)

    def ingredients(self) -> dict[str, Any]:
        network = self.network
        return {
            "teacher": network.name,
            "teacher's weights": hash_tensors(network.model.state_dict()),
            "input": [network.size, *network.mean, *network.std],
            "precision": str(self.autocast or torch.float32),
            "compiled": self.compiled,
            "device": self.device.type,
        }
