"""Outputs of a network or a teacher for a whole split, in float32 and in the split's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from richkd.core.finite import refuse_non_finite_rows
from richkd.core.processes import gather_agreed, share_of
from richkd.core.types import Output
from richkd.core.waiting import waiting
from richkd.data.batches import CleanStore
from richkd.data.order import in_order
from richkd.data.views import render
from richkd.models.build import Network
from richkd.models.sharded import in_step
from richkd.teachers.base import Teacher

T = TypeVar("T")

BATCH = 250


def divided(groups: list[Tensor], compute: Callable[[list[Tensor]], T]) -> list[T]:
    """Compute outputs for images in batches that are divided among processes; results are in order.

    The batches are the same for any number of processes, because last bits can depend on them.

    Args:
        groups: positions of the images of each batch.
        compute: computes one result for some of the batches.

    Example:
        >>> divided(in_order(300, BATCH), lambda groups: [len(group) for group in groups])
        [[250, 50]]
    """
    batches = groups[share_of(len(groups))[0]]

    def computed() -> T | None:
        with in_step():
            return compute(batches) if batches else None

    results = gather_agreed(computed)
    return [result for result in results if result is not None]


def logits_of(network: Network, store: CleanStore, device: torch.device) -> Tensor:
    """Logits (N, C) of a network for all images of a split, without augmentation, in evaluation mode.

    Several processes divide the images, and all get the result. It is float32 on the CPU. Afterwards the
    network is in its previous mode again.

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
    clean = store.clean
    what = f"evaluating {network.name} on {store.split.name}"

    def compute(groups: list[Tensor]) -> Tensor:
        logits = []
        with torch.inference_mode():
            for batch in waiting(what, store.batches(groups), sum(map(len, groups)), count=len):
                pixels = batch.pixels_BHWC.to(device)
                views = clean.draw(0, 0, batch.index_B)
                output = network(render(pixels, views, network.size, network.mean, network.std))
                logits.append(output.logits_BC.float().cpu())
        return torch.cat(logits)

    logits_NC = torch.cat(divided(in_order(len(store.split), BATCH), compute))
    network.train(training)
    fix = "the network diverged, or its numbers are too large: use a lower --optim.lr."
    refuse_non_finite_rows(logits_NC, network.name, store.split.key, fix)
    return logits_NC


def outputs_of(
    teacher: Teacher, store: CleanStore, device: torch.device, index_N: Tensor | None = None
) -> Output:
    """Logits and features of a teacher for all images of a split, without augmentation; float32 on the CPU.

    Several processes divide the images, and all get the result.

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
    row_N = torch.arange(len(store.split)) if index_N is None else index_N
    what = f"outputs of {teacher.role} {teacher.name} for {store.split.name}"

    def compute(groups: list[Tensor]) -> Output:
        return Output.cat(
            [
                teacher.outputs(batch.to(device), clean.draw(0, 0, batch.index_B)).cpu()
                for batch in waiting(what, store.batches(groups), sum(map(len, groups)), count=len)
            ]
        )

    output = Output.cat(divided(list(torch.split(row_N, BATCH)), compute))
    refuse_non_finite_rows(
        output.logits_BC,
        f"{teacher.role} {teacher.name}",
        lambda row: store.split.key(int(row_N[row])),
        "check its weights: they are finite, but its outputs are not.",
    )
    return output
