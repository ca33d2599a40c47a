"""A frozen vision teacher: from the views of a batch to logits and features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from richkd.core.files import hash_tensors
from richkd.core.types import Batch, Output
from richkd.data.views import Views, render
from richkd.models.build import Network
from richkd.models.compiling import compile_fixed
from richkd.teachers.cache.row_format import RowFormat, as_stored


class Teacher(Protocol):
    """Anything that can say what it sees in a batch: a vision network, a CLIP, or stored outputs.

    ``logit_scale`` is the factor that turns its ``logits_BC`` into the logits of its own
    probabilities: 1 for a classifier, about 100 for the cosines of a CLIP.
    """

    name: str
    feature_width: int
    logit_scale: float

    def outputs(self, batch: Batch, views: Views) -> Output: ...


@runtime_checkable
class Storable(Teacher, Protocol):
    """A teacher whose outputs are a function of image and view, so that a cache can keep them.

    ``rows`` says what has to be kept of an output, ``restored`` makes an output of it again, and
    ``ingredients`` names all that an output depends on besides image and view. ``computed`` counts
    the images that went through the network.
    """

    computed: int

    @property
    def rows(self) -> RowFormat: ...

    def restored(self, stored: Output) -> Output: ...

    def ingredients(self) -> dict[str, Any]: ...


class VisionTeacher:
    """A trained classifier, frozen, that renders the student's views at its own resolution.

    Args:
        network: the trained network; it is switched to evaluation and its gradients are turned off.
        device: where it runs.
        autocast: dtype of the convolutions and products; outputs are float32 numbers that float16 holds,
            whatever it is.
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
        self.device, self.autocast, self.compiled = device, autocast, compiled
        self.computed = 0
        self._forward: Callable[[Tensor], Output] = self.network
        if compiled:
            self._forward = compile_fixed(self.network, options={"freezing": True})

    def outputs(self, batch: Batch, views: Views) -> Output:
        network = self.network
        pixels = render(batch.pixels_BHWC, views, network.size, network.mean, network.std)
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None),
        ):
            output = self._forward(pixels)
        self.computed += len(pixels)
        return as_stored(output)

    @property
    def rows(self) -> RowFormat:
        return RowFormat(self.network.classes, self.feature_width)

    def restored(self, stored: Output) -> Output:
        return stored

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
