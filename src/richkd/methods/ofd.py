"""Overhaul of feature distillation: the student follows what the teacher's stages activate, not how inactive.

Source: Heo, Kim, Yun, Park, Kwak and Choi, "A comprehensive overhaul of feature distillation", ICCV 2019,
section 3; the weight of each stage, the initial connectors and the margins are those of the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32
from richkd.core.types import Batch, Output, Target
from richkd.losses.weighted import weighted_mean
from richkd.methods.stages import pair_stages, same_size
from richkd.methods.term import Context, Loss, Need, Setup, TargetConfig, Term

# A channel that is negative with a smaller probability has −3 standard deviations as its margin.
RARELY_NEGATIVE = 0.001


class OverhaulConfig(TargetConfig):
    """Settings of `ofd`; the default weight is that of the authors' code for CIFAR-100."""

    weight: float = Field(1e-3, ge=0, description="weight of the term in the sum that is minimized")


@TERMS.register("ofd", "overhaul of feature distillation: margin ReLU, partial distance (Heo et al. 2019)")
class Overhaul(Term):
    """See `overhaul_loss`; a 1×1 convolution with batch normalization connects each pair of stages.

    A stage of the teacher that ends with batch normalization and ReLU has the margins that follow from the
    normalization (`margin_of_norm`). All others have the mean of their negative values over the images of the
    first step.
    """

    Config = OverhaulConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"maps"})
    one_teacher = True
    # A squared distance. Its targets are mixed, because connectors must see a batch only once.
    linear = False
    # For batch normalization, which is over the images of all processes.
    least_images = 2
    compares_images = False
    looks_at_first = True

    def __init__(self, config: OverhaulConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        (teacher,) = setup.teachers
        self.pairs = pair_stages(setup.student.maps, teacher.maps)
        widths = [(setup.student.maps[s][0], teacher.maps[t][0]) for s, t in self.pairs]
        self.connectors = nn.ModuleList(connector(inputs, outputs) for inputs, outputs in widths)
        self.from_norm: list[bool] = []
        for number, (_, t) in enumerate(self.pairs):
            norm = teacher.norms[t] if teacher.norms else None
            self.from_norm.append(norm is not None)
            margin_F = torch.zeros(widths[number][1]) if norm is None else margin_of_norm(*norm)
            self.register_buffer(f"margin{number}", margin_F)
            self.register_buffer(f"count{number}", torch.zeros(widths[number][1]))

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        (teacher,) = target.teachers
        triples: list[tuple[Tensor, Tensor, Tensor]] = []
        memory: dict[str, Tensor] = {}
        for number, (s, t) in enumerate(self.pairs):
            student_BFHW, teacher_BFHW = same_size(student.maps[s], teacher.maps[t])
            margin_F = self.get_buffer(f"margin{number}")
            if self.from_norm[number]:
                teacher_BFHW = before_relu(teacher_BFHW, margin_F)
            elif context.step == 0:
                # The margins are known after the first step, which has those of its own images.
                sum_BF, count_BF = negatives_of(teacher_BFHW)
                memory |= {f"sum{number}": sum_BF, f"count{number}": count_BF}
                margin_F = sum_BF.sum(dim=0) / count_BF.sum(dim=0).clamp(min=1)
            triples.append((self.connectors[number](student_BFHW), teacher_BFHW, margin_F))
        return Loss(overhaul_loss(triples, target.weight_B), memory)

    def remember(self, index_B: Tensor, memory: Mapping[str, Tensor]) -> None:
        """Add the negative values of these images to the margins."""
        for number in range(len(self.pairs)):
            if f"sum{number}" not in memory:
                continue
            margin_F, before_F = (self.get_buffer(f"{name}{number}") for name in ("margin", "count"))
            count_F = before_F + memory[f"count{number}"].sum(dim=0)
            sum_F = margin_F * before_F + memory[f"sum{number}"].sum(dim=0)
            margin_F.copy_(sum_F / count_F.clamp(min=1))
            before_F.copy_(count_F)


def overhaul_loss(triples: Sequence[tuple[Tensor, Tensor, Tensor]], weight_B: Tensor | None = None) -> Tensor:
    """``Σ_stages 2^(i − S) · mean_B Σ_{channels, positions} d(s, σ(t))`` for stages i = 1 … S.

    σ is the margin ReLU: ``max(t, m)`` with the negative margin m of the channel. The partial distance d is
    0 if ``s ≤ σ(t) ≤ 0``, else ``(s − σ(t))²``: where the teacher is inactive, the student only has to be so,
    too.

    Args:
        triples: for each stage, connected maps of the student (B, channels, H, W), the teacher's maps of the
            same shape (no gradient), and the margin of each channel.
        weight_B: weight of each image; 1 if None.

    Example:
        >>> teacher = torch.tensor([2.0, -0.5, -3.0, -3.0]).view(1, 1, 2, 2)
        >>> student = torch.tensor([1.0, -0.7, -1.0, 1.0]).view(1, 1, 2, 2)
        >>> float(overhaul_loss([(student, teacher, torch.tensor([-1.0]))]))  # 1 + 0 + 0 + 2²
        5.0
    """
    total = triples[0][0].new_zeros((), dtype=at_least_fp32(triples[0][0]).dtype)
    for place, (student_BFHW, teacher_BFHW, margin_F) in enumerate(triples):
        student_BFHW, teacher_BFHW = at_least_fp32(student_BFHW), at_least_fp32(teacher_BFHW.detach())
        margin_F11 = margin_F.to(teacher_BFHW.dtype)[:, None, None]
        target_BFHW = torch.maximum(teacher_BFHW, margin_F11)
        counts_BFHW = (student_BFHW > target_BFHW) | (target_BFHW > 0)
        square_BFHW = torch.where(counts_BFHW, student_BFHW - target_BFHW, 0.0).square()
        loss_B = square_BFHW.flatten(1).sum(dim=1)
        loss = weighted_mean(loss_B, weight_B)
        total = total + loss / 2 ** (len(triples) - 1 - place)
    return total


def margin_of_norm(scale_F: Tensor, shift_F: Tensor) -> Tensor:
    """The expected negative value of each channel behind batch normalization: E[x | x < 0] for x ~ N(β, γ²).

    ``β − |γ| φ(β/γ) / Φ(−β/|γ|)``. A channel with Φ ≤ 0.001, which is almost never negative, has −3 |γ|.

    Args:
        scale_F: γ of each channel.
        shift_F: β of each channel.

    Example:
        >>> margin = margin_of_norm(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 9.0]))
        >>> [round(m, 4) for m in margin.tolist()]  # −√(2/π), and −3 |γ|
        [-0.7979, -3.0]
    """
    std_F, mean_F = scale_F.double().abs(), shift_F.double()
    ratio_F = mean_F / std_F.clamp(min=torch.finfo(torch.float64).tiny)
    negative_F = torch.special.ndtr(-ratio_F)
    density_F = (-ratio_F.square() / 2).exp() / math.sqrt(2 * math.pi)
    rare_F = negative_F <= RARELY_NEGATIVE
    expected_F = mean_F - std_F * density_F / negative_F.masked_fill(rare_F, 1.0)
    return torch.where(rare_F, -3 * std_F, expected_F).to(scale_F.dtype)


def before_relu(map_BFHW: Tensor, margin_F: Tensor) -> Tensor:
    """The expected input of a ReLU, given its output: the margin of the channel where the output is 0.

    Example:
        >>> before_relu(torch.tensor([3.0, 0.0]).view(1, 1, 1, 2), torch.tensor([-0.5])).flatten().tolist()
        [3.0, -0.5]
    """
    map_BFHW = at_least_fp32(map_BFHW)
    return torch.where(map_BFHW > 0, map_BFHW, margin_F.to(map_BFHW.dtype)[:, None, None])


def negatives_of(map_BFHW: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and number of the negative values of each image and channel, each (B, channels).

    Example:
        >>> sums, counts = negatives_of(torch.tensor([1.0, -2.0, -4.0, 0.0]).view(1, 1, 2, 2))
        >>> sums.tolist(), counts.tolist()
        ([[-6.0]], [[2.0]])
    """
    map_BFHW = at_least_fp32(map_BFHW.detach())
    return map_BFHW.clamp(max=0).sum(dim=(2, 3)), (map_BFHW < 0).to(map_BFHW.dtype).sum(dim=(2, 3))


def connector(inputs: int, outputs: int) -> nn.Sequential:
    """A 1×1 convolution to the teacher's channels, and batch normalization.

    Example:
        >>> [tuple(p.shape) for p in connector(3, 5).parameters()]
        [(5, 3, 1, 1), (5,), (5,)]
    """
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.normal_(convolution.weight, 0, math.sqrt(2 / outputs))
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
