"""Student and objective as one module, which computes the losses of a part of a step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from richkd.core.types import Batch, LossTerms, Output, Targets
from richkd.data.mixup import Mix
from richkd.data.shares import Share
from richkd.methods.term import Context
from richkd.models.build import Network
from richkd.models.compiling import compile_fixed
from richkd.models.joint_batch import JointBatch
from richkd.models.probe import pixels_for, unchanged
from richkd.pipeline.assemble import Parts


class Task(nn.Module):
    """Student and objective; their parameters are optimized and saved together."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.student = parts.student
        self.objective = parts.build_objective()
        self._maps = "maps" in self.objective.needs
        self._compiled: Callable[[Tensor, bool], Output] | None = None
        self._device, self._accumulates = parts.device, parts.config.train.grad_accum_steps > 1
        self._in_parts = self._accumulates and draws_numbers(parts.student)

    def compile_student(self) -> None:
        """Compile the student's forward pass; the names in its state do not change."""
        # A compiled module would add its parameters to the state under a second name, so only the function
        # is compiled.
        self._compiled = compile_fixed(self.student.forward, self._device, repeated=not self._accumulates)

    def is_joint(self, share: Share) -> bool:
        """Whether the student computes a share of a step as if the whole step were there.

        If the share is the whole step, or there is nothing random, that would only cost time. A compiled
        student draws its own numbers.
        """
        return share.divided or (self._in_parts and self._compiled is None)

    def forward(
        self,
        pixels_B3HW: Tensor,
        targets: Targets,
        batch: Batch,
        context: Context,
        mix: Mix | None = None,
        share: Share | None = None,
    ) -> LossTerms:
        seen = pixels_B3HW if mix is None else mix.pixels(pixels_B3HW)
        with JointBatch(share) if share is not None and self.is_joint(share) else nullcontext():
            output = (self._compiled or self.student)(seen, self._maps)
        terms: LossTerms = self.objective(output, targets, batch, context, mix, share)
        return terms


def draws_numbers(network: Network) -> bool:
    """Whether a network draws random numbers in training, as dropout and stochastic depth do.

    Example:
        >>> from richkd.models.cifar import cifar_resnet8
        >>> model = cifar_resnet8(num_classes=3)
        >>> draws_numbers(Network(model, "cifar_resnet8", size=8, mean=(0.5,) * 3, std=(0.25,) * 3))
        False
    """
    device = next(iter(network.parameters()), torch.empty(0)).device
    state = torch.cuda.get_rng_state if device.type == "cuda" else torch.get_rng_state
    with unchanged(network, training=True), torch.no_grad():
        before = state()
        network(pixels_for(network, network.size))
        return not torch.equal(before, state())
