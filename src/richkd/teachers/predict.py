"""Outputs of a network or a teacher for a whole split, in float32 and in the split's order."""

from __future__ import annotations

import torch
from torch import Tensor

from richkd.core.types import Output
from richkd.data.augmentations import Clean
from richkd.data.batches import Store, in_order
from richkd.data.views import render
from richkd.models.build import Network
from richkd.teachers.base import Teacher

BATCH = 250


def logits_of(network: Network, store: Store, device: torch.device) -> Tensor:
    """A network's logits (N, C) for every image: unaugmented views, evaluation mode (restored afterwards)."""
    training = network.training
    network.eval()
    clean, logits = Clean(store.size), []
    with torch.inference_mode():
        for batch in store.batches(in_order(len(store.split), BATCH)):
            pixels = batch.pixels_BHWC.to(device)
            views = clean.draw(0, 0, batch.index_B)
            output = network(render(pixels, views, network.size, network.mean, network.std))
            logits.append(output.logits_BC.float().cpu())
    network.train(training)
    return torch.cat(logits)


def outputs_of(teacher: Teacher, store: Store, device: torch.device, index_N: Tensor | None = None) -> Output:
    """A teacher's logits and features for every image, or for those at ``index_N``; unaugmented views."""
    clean = Clean(store.size)
    groups = in_order(len(store.split), BATCH) if index_N is None else list(torch.split(index_N, BATCH))
    return Output.cat(
        [
            teacher.outputs(batch.to(device), clean.draw(0, 0, batch.index_B)).cpu()
            for batch in store.batches(groups)
        ]
    )
