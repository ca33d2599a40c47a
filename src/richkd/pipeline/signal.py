"""What the student's target is like on views of training images: how far from the teachers, and how sharp.

On images that a vision teacher was trained on, it is nearly always right and confident. So a fused target
differs less from it there than on held-out images, and only training views show what the student learns from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.core.types import Output, Target
from richkd.data.order import TrainingOrder
from richkd.data.stores import Stores
from richkd.data.views import Augmentation
from richkd.fusion.alone import TargetShift, first_teachers_only, measure_target_shift
from richkd.fusion.entropy import mean_entropy
from richkd.fusion.fusion import Fusion
from richkd.pipeline.targets import TargetSource, of_kind
from richkd.teachers.predict import divided

# Images of the first steps of epoch 0. A run shows them to its teachers, so their outputs may be stored.
SAMPLE = 1024


@dataclass(frozen=True)
class Sample:
    """Outputs of each teacher of a target for the first training views, and the labels of the images."""

    outputs: list[Output]
    labels_N: Tensor

    def target(self, source: TargetSource) -> Target:
        """The target of these views."""
        return source.target(self.outputs[: len(source.teachers)], self.labels_N)

    def alone(self, source: TargetSource, fusion: Fusion) -> Tensor:
        """Logits (N, C) of the vision teachers alone, as a control has them."""
        count = source.standing_alone
        return first_teachers_only(fusion, count)(self.outputs[:count], self.labels_N).logits_BC


# The first training views of the teachers of a target.
Sampling = Callable[[TargetSource], Sample]


@dataclass(frozen=True)
class TargetEntropy:
    """Mean entropy of a target on training views, in nats, at the temperature of the term that reads it.

    Attributes:
        temperature: that temperature.
        views: number of views.
        before: without the factor of the fusion.
        after: of the target.
        teacher: of the logits of the vision teacher alone; None for a target without one.
    """

    temperature: float
    views: int
    before: float
    after: float
    teacher: float | None


def training_outputs(
    source: TargetSource,
    stores: Stores,
    augmentation: Augmentation,
    order: TrainingOrder,
    device: torch.device,
) -> tuple[list[Output], Tensor]:
    """Outputs of every teacher for the first steps of training, and the labels of the images.

    Args:
        augmentation: how training images are augmented.
        order: the images of each step.
    """
    training = stores.training
    assert training is not None
    groups = order.epoch(0)[: -(-SAMPLE // order.images_of_step)]

    def compute(steps: list[Tensor]) -> list[list[Output]]:
        views = [augmentation.draw(order.seed, 0, index_B) for index_B in steps]
        with torch.inference_mode():
            return [
                [teacher.outputs(batch.to(device), view).cpu() for teacher in source.teachers]
                for batch, view in zip(training.batches(steps, views), views, strict=True)
            ]

    batches = [outputs for of_process in divided(groups, compute) for outputs in of_process]
    labels_N = training.split.labels_N[torch.cat(groups)]
    return [Output.cat(collected) for collected in zip(*batches, strict=True)], labels_N


def sampling_of(
    stores: Stores, augmentation: Augmentation, order: Callable[[], TrainingOrder], device: torch.device
) -> Sampling:
    """Outputs for the first training views; those of the same teachers are computed once.

    Args:
        order: gives the images of each step; called only if outputs are needed.

    Raises:
        ConfigError: when outputs are needed, and there are no training images.
    """
    samples: dict[tuple[int, ...], Sample] = {}

    def sampling(source: TargetSource) -> Sample:
        teachers = tuple(map(id, source.teachers))
        if teachers not in samples:
            if stores.training is None:
                names = ", ".join(stores.names)
                raise ConfigError("There is no training split", got=names, fix="check --data.")
            samples[teachers] = Sample(*training_outputs(source, stores, augmentation, order(), device))
        return samples[teachers]

    return sampling


def shifts_of(source: TargetSource, sample: Sample, temperature: float) -> dict[str, TargetShift]:
    """The target shift of each kind of training images, and the multipliers of the control without CLIP.

    The summary of a run and the control ``teacher-only`` use this function, so that they have the same
    multipliers.

    Args:
        sample: outputs for training views.
        temperature: temperature of the logit loss.

    Returns:
        The shift of each kind of training images. A kind that is not in the sample has that of all views.
    """
    target_NC = sample.target(source).logits_BC
    shifts = {}
    for kind, fusion in source.fusions.items():
        among_N = of_kind(kind, sample.labels_N)
        among_N = among_N if bool(among_N.any()) else torch.ones_like(among_N)
        alone_NC = sample.alone(source, fusion)
        shifts[kind] = measure_target_shift(target_NC[among_N], alone_NC[among_N], temperature)
    return shifts


def mean_shift(shifts: dict[str, TargetShift], sample: Sample) -> float:
    """The mean target shift of all views in nats, from that of each kind of images."""
    counts = {kind: int(of_kind(kind, sample.labels_N).sum()) for kind in shifts}
    return sum(shifts[kind].nats * counts[kind] for kind in shifts) / sum(counts.values())


def measure_entropies(source: TargetSource, sample: Sample, temperature: float) -> dict[str, TargetEntropy]:
    """How sharp a target is for each kind of training images that is in the sample."""
    entropies = {}
    after_NC = sample.target(source).logits_BC
    plain = {kind: replace(fusion, factor=1.0) for kind, fusion in source.fusions.items()}
    before_NC = sample.target(source.with_fusions(plain, source.teachers)).logits_BC
    for kind in source.fusions:
        among_N = of_kind(kind, sample.labels_N)
        if not bool(among_N.any()):
            continue
        entropies[kind] = TargetEntropy(
            temperature,
            int(among_N.sum()),
            mean_entropy(before_NC[among_N], temperature),
            mean_entropy(after_NC[among_N], temperature),
            teacher_entropy(source, sample, kind, temperature),
        )
    return entropies


def teacher_entropy(source: TargetSource, sample: Sample, kind: str, temperature: float) -> float | None:
    """Mean entropy in nats of the vision teacher alone on the views of a kind of images; None without one.

    One teacher has its own logits, several have the mean of their scaled log-probabilities.
    """
    if source.teachers[0].zero_shot is not None:
        return None
    count = source.standing_alone
    alone = replace(first_teachers_only(source.fusions[kind], count), ood_weights=None)
    logits_NC = alone.logits([output.logits_BC for output in sample.outputs[:count]])
    return mean_entropy(logits_NC[of_kind(kind, sample.labels_N)], temperature)
