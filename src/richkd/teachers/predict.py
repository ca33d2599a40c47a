"""Outputs of a network or a teacher for a whole split, in float32 and in the split's order."""

from __future__ import annotations

import torch
from torch import Tensor

from richkd.core.finite import refuse_non_finite_rows
from richkd.core.types import Output
from richkd.core.waiting import waiting
from richkd.data.batches import CleanStore
from richkd.data.order import in_order
from richkd.data.views import render
from richkd.models.build import Network
from richkd.teachers.base import Teacher

BATCH = 250


def logits_of(network: Network, store: CleanStore, device: torch.device) -> Tensor:
    """Logits (N, C) of a network for all images of a split, without augmentation, in evaluation mode.

    The result is float32 on the CPU. Afterwards the network is in its previous mode again.

    Raises:
        NonFiniteError: a logit is NaN or infinite; names the network and the images.

    Example:
        >>> from datasets import Dataset
        >>> from richkd.data import batches, split
        >>> from richkd.data.framing import Framing
        >>> from richkd.models.cifar import cifar_resnet8
        >>> model = cifar_resnet8(num_classes=2)
        >>> network = Network(model, "cifar_resnet8", size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> test = split.Split("test", Dataset.from_dict({}), torch.tensor([0, 1]), ("a", "b"), "image", None)
        >>> store = batches.Resident(test, Framing(8), torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
        >>> tuple(logits_of(network, store, torch.device("cpu")).shape)
        (2, 2)
    """
    training = network.training
    network.eval()
    clean, logits = store.clean, []
    with torch.inference_mode():
        batches = store.batches(in_order(len(store.split), BATCH))
        what = f"evaluating {network.name} on {store.split.name}"
        for batch in waiting(what, batches, len(store.split), count=len):
            pixels = batch.pixels_BHWC.to(device)
            views = clean.draw(0, 0, batch.index_B)
            output = network(render(pixels, views, network.size, network.mean, network.std))
            logits.append(output.logits_BC.float().cpu())
    network.train(training)
    logits_NC = torch.cat(logits)
    fix = "the network diverged, or its numbers are too large: use a lower --optim.lr."
    refuse_non_finite_rows(logits_NC, network.name, store.split.key, fix)
    return logits_NC


def outputs_of(
    teacher: Teacher, store: CleanStore, device: torch.device, index_N: Tensor | None = None
) -> Output:
    """Logits and features of a teacher for all images of a split, without augmentation; float32 on the CPU.

    Args:
        teacher: the teacher.
        store: the images.
        device: where the pixels are moved to.
        index_N: positions of the images; None for all.

    Raises:
        NonFiniteError: a logit is NaN or infinite; names the teacher and the images.

    Example:
        >>> from datasets import Dataset
        >>> from richkd.data import batches, split
        >>> from richkd.data.framing import Framing
        >>> from richkd.teachers.precomputed.clip import GivenClip
        >>> rows = {"test": torch.arange(2)}
        >>> clip = GivenClip(torch.eye(2), torch.eye(2), rows, logit_scale=100.0, fingerprint="")
        >>> test = split.Split("test", Dataset.from_dict({}), torch.tensor([0, 1]), ("a", "b"), "image", None)
        >>> store = batches.Resident(test, Framing(8), torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
        >>> outputs_of(clip, store, torch.device("cpu"), torch.tensor([1])).logits_BC.tolist()
        [[0.0, 1.0]]
    """
    clean = store.clean
    groups = in_order(len(store.split), BATCH) if index_N is None else list(torch.split(index_N, BATCH))
    what = f"outputs of {teacher.role} {teacher.name} for {store.split.name}"
    output = Output.cat(
        [
            teacher.outputs(batch.to(device), clean.draw(0, 0, batch.index_B)).cpu()
            for batch in waiting(what, store.batches(groups), sum(map(len, groups)), count=len)
        ]
    )
    row_N = torch.cat(groups) if groups else torch.arange(0)
    refuse_non_finite_rows(
        output.logits_BC,
        f"{teacher.role} {teacher.name}",
        lambda row: store.split.key(int(row_N[row])),
        "check its weights: they are finite, but its outputs are not.",
    )
    return output
