"""What a network or a teacher says of a whole split, in float32 and in the split's order."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from richkd.core.types import Batch, Output
from richkd.data.batches import Store, in_order
from richkd.data.views import Clean, render
from richkd.models.build import Network
from richkd.teachers.vision import Teacher

BATCH = 250


def logits_of(network: Network, store: Store, device: torch.device) -> Tensor:
    """The network's logits (N, C) of every image: clean view, evaluation mode (put back afterwards)."""
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
    """A teacher's logits and features of every image, or of those at ``index_N``; clean view."""
    clean, outputs = Clean(store.size), []
    groups = in_order(len(store.split), BATCH) if index_N is None else list(torch.split(index_N, BATCH))
    for batch in store.batches(groups):
        batch = batch_on(batch, device)
        outputs.append(teacher.outputs(batch, clean.draw(0, 0, batch.index_B)))
    return Output(
        torch.cat([output.logits_BC.float().cpu() for output in outputs]),
        torch.cat([output.feats_BF.float().cpu() for output in outputs]),
    )


def batch_on(batch: Batch, device: torch.device) -> Batch:
    """The batch with its pixels and labels on a device."""
    return replace(
        batch,
        pixels_BHWC=batch.pixels_BHWC.to(device, non_blocking=True),
        labels_B=batch.labels_B.to(device, non_blocking=True),
    )
