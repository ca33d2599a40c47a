"""A frozen vision teacher that is larger than a device: its weights are divided among the processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from richkd.core.files import hash_tensors
from richkd.core.types import Batch, Output
from richkd.data.views import Views, render_batch
from richkd.models.build import Network
from richkd.models.sharded import Sharded
from richkd.teachers.base import Teacher
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.vision import ingredients_of, run_exact, run_stored


class ShardedTeacher(Teacher):
    """A `VisionTeacher` of several processes that run its network together; see `richkd.models.sharded`.

    Its outputs are those of the whole network, so caches of both are the same. It has no intermediate maps.

    Args:
        network: the trained network, on the CPU.
        device: device of this process.
        autocast: dtype of convolutions and matrix products for training images; None for float32.

    Raises:
        ModelError: the weights of the network cannot be divided.
    """

    sees_pixels = True

    def __init__(self, network: Network, device: torch.device, autocast: torch.dtype | None = None) -> None:
        self.name, self.feature_width = network.name, network.feature_width
        self.framing = network.framing
        self.device, self.autocast = device, autocast
        self._network = network.eval()
        self._weights = hash_tensors(network.model.state_dict())
        self._together = Sharded(network, device, self._idle, name=network.name)

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        assert not maps, "teachers of which terms read maps are not divided"
        network = self._network
        pixels = render_batch(batch, views, network.size, network.mean, network.std)
        self.computed += len(pixels)
        if batch.split != "train":
            return self._together.run(partial(run_exact, network, pixels, self.device))
        return self._together.run(partial(run_stored, network, pixels, self.device, self.autocast))

    @property
    def row_format(self) -> RowFormat:
        return RowFormat(self._network.classes, self.feature_width)

    def ingredients(self, *, trained: bool = True) -> dict[str, Any]:
        autocast = self.autocast if trained else None
        return ingredients_of(self._network, self._weights, self.device, autocast, compiled=False)

    def _idle(self) -> Output:
        size = self._network.size
        return run_exact(self._network, torch.zeros(1, 3, size, size, device=self.device), self.device)
