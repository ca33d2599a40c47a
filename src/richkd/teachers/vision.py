"""A frozen vision teacher: from the views of a batch to logits and features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from richkd.data.views import Views, render
from richkd.models.build import Network
from richkd.records import Batch, Output


class Teacher(Protocol):
    """Anything that can say what it sees in a batch: a vision network, a CLIP, or stored outputs.

    ``logit_scale`` is the factor that turns its ``logits_BC`` into the logits of its own
    probabilities: 1 for a classifier, about 100 for the cosines of a CLIP.
    """

    name: str
    feature_width: int
    logit_scale: float

    def outputs(self, batch: Batch, views: Views) -> Output: ...


class VisionTeacher:
    """A trained classifier, frozen, that renders the student's views at its own resolution.

    Args:
        network: the trained network; it is switched to evaluation and its gradients are turned off.
        device: where it runs.
        autocast: dtype of the convolutions and products; outputs are float32 whatever it is.
        compiled: compile the frozen network, its batch norms folded into its convolutions. Costs some
            20 seconds for each batch size, and changes the outputs' last bits.
    """

    logit_scale = 1.0

    def __init__(
        self,
        network: Network,
        device: torch.device,
        autocast: torch.dtype | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        self.network = network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.name, self.feature_width = network.name, network.feature_width
        self.device, self.autocast = device, autocast
        self._forward: Callable[[Tensor], Output] = self.network
        if compiled:
            self._forward = torch.compile(self.network, dynamic=False, options={"freezing": True})

    def outputs(self, batch: Batch, views: Views) -> Output:
        network = self.network
        pixels = render(batch.pixels_BHWC, views, network.size, network.mean, network.std)
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None),
        ):
            output = self._forward(pixels)
        return Output(output.logits_BC.float(), output.feats_BF.float())
