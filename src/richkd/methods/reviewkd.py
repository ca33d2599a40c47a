"""Knowledge review: each stage of the teacher teaches a fusion of the student's stages up to the same depth.

Source: Chen, Liu, Zhao and Jia, "Distilling knowledge via knowledge review", CVPR 2021, section 3 and figure
3; layers, pooled levels and warm-up are those of the authors' code for CIFAR-100.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from richkd.config.choices import TERMS
from richkd.core.numerics import at_least_fp32
from richkd.core.types import Batch, Output, Target
from richkd.losses.weighted import weighted_mean
from richkd.methods.dkd import warmup_factor
from richkd.methods.stages import pair_stages
from richkd.methods.term import Context, Loss, Need, Setup, TargetConfig, Term

# Sides of the pooled levels of the hierarchical context loss.
LEVELS = (4, 2, 1)
# Most channels in which stages are fused unless a width is set.
MOST_CHANNELS = 512


class ReviewConfig(TargetConfig):
    """Settings of `reviewkd`; the authors use weights between 0.6 and 8 on CIFAR-100."""

    of_progress = ("warmup",)

    weight: float = Field(1.0, ge=0, description="weight of the term in the sum that is minimized")
    warmup: float = Field(
        1 / 12,
        ge=0,
        le=1,
        description="fraction of the run in which the weight rises linearly (20 of 240 epochs)",
    )
    width: int | None = Field(
        None,
        ge=1,
        description="channels in which stages are fused (default: those of the feature, at most 512)",
    )


@TERMS.register("reviewkd", "knowledge review: fused stages follow the teacher's stages (Chen et al. 2021)")
class Review(Term):
    """See `context_loss` and `AttentionFusion`.

    Stages of student and teacher are paired by `pair_stages`. The pooled features of both are the last level,
    as maps of one position.
    """

    Config = ReviewConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"maps", "features"})
    one_teacher = True
    # A squared distance. Its targets are mixed, because the fusions must see a batch only once.
    linear = False
    # For batch normalization, which is over the images of all processes.
    least_images = 2
    compares_images = False

    def __init__(self, config: ReviewConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        student, (teacher,) = setup.student, setup.teachers
        self.pairs = pair_stages(student.maps, teacher.maps)
        middle = config.width or min(MOST_CHANNELS, student.features)
        widths = [(student.maps[s][0], teacher.maps[t][0]) for s, t in self.pairs]
        self.fusions = nn.ModuleList(
            AttentionFusion(inputs, middle, outputs, fuse=True) for inputs, outputs in widths
        )
        self.last = AttentionFusion(student.features, middle, teacher.features, fuse=False)

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        (teacher,) = target.teachers
        deepest_BF11 = teacher.feats_BF[:, :, None, None]
        out_BFHW, fused_BFHW = self.last(student.feats_BF[:, :, None, None], None, (1, 1))
        levels = [(out_BFHW, deepest_BF11)]
        for fusion, (s, t) in zip(reversed(self.fusions), reversed(self.pairs), strict=True):
            taught_BFHW = teacher.maps[t]
            size = (taught_BFHW.shape[2], taught_BFHW.shape[3])
            out_BFHW, fused_BFHW = fusion(student.maps[s], fused_BFHW, size)
            levels.append((out_BFHW, taught_BFHW))
        factor = warmup_factor(context.progress, self.config.warmup)
        return Loss(factor * context_loss(levels, target.weight_B))


class AttentionFusion(nn.Module):
    """Attention-based fusion (ABF) of a stage of the student with the fusion of all deeper stages.

    A 1×1 convolution with batch normalization brings the stage to ``middle`` channels. The deeper fusion is
    enlarged to its size (nearest neighbor). A 1×1 convolution of both, with a sigmoid, gives two attention
    maps, whose weighted sum is the new fusion. It is resized to the teacher's map, and a 3×3 convolution with
    batch normalization brings it to the teacher's channels.

    Args:
        inputs: channels of the student's stage.
        middle: channels of a fusion.
        outputs: channels of the teacher's stage.
        fuse: whether there is a deeper fusion; False for the last level.

    Example:
        >>> fusion = AttentionFusion(3, 4, 5, fuse=True)
        >>> out, fused = fusion(torch.rand(2, 3, 8, 8), torch.rand(2, 4, 2, 2), (6, 6))
        >>> tuple(out.shape), tuple(fused.shape)
        ((2, 5, 6, 6), (2, 4, 6, 6))
    """

    def __init__(self, inputs: int, middle: int, outputs: int, *, fuse: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.expand = nn.Sequential(
            nn.Conv2d(middle, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.attention = nn.Conv2d(2 * middle, 2, 1) if fuse else None
        for module in (*self.reduce, *self.expand):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(
        self, map_BFHW: Tensor, deeper_BFHW: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The map that is compared with the teacher's of this ``size``, and the fusion for the next stage."""
        fused_BFHW: Tensor = self.reduce(map_BFHW)
        if self.attention is not None:
            assert deeper_BFHW is not None
            deeper_BFHW = _resized(deeper_BFHW, (fused_BFHW.shape[2], fused_BFHW.shape[3]))
            both_BFHW = torch.cat([fused_BFHW, deeper_BFHW], dim=1)
            share_B2HW = self.attention(both_BFHW).sigmoid()
            fused_BFHW = fused_BFHW * share_B2HW[:, :1] + deeper_BFHW * share_B2HW[:, 1:]
        fused_BFHW = _resized(fused_BFHW, size)
        return self.expand(fused_BFHW), fused_BFHW


def context_loss(levels: Sequence[tuple[Tensor, Tensor]], weight_B: Tensor | None = None) -> Tensor:
    """The hierarchical context loss (HCL), summed over stages.

    For each stage ``Σ_l 2^−l · mean_B mean (s_l − t_l)² / Σ_l 2^−l``: level 0 are the maps, the others are
    the maps averaged to 4×4, 2×2 and 1×1 positions, as far as these are fewer than the rows of the map.

    Args:
        levels: maps of the student (B, channels, H, W) and the teacher's of the same shape (no gradient).
        weight_B: weight of each image; 1 if None.

    Example:
        >>> teacher = torch.tensor([1.0, -1.0, -1.0, 1.0]).view(1, 1, 2, 2)
        >>> round(float(context_loss([(0 * teacher, teacher)])), 4)  # (1 + 0/2) / (1 + 1/2)
        0.6667
    """
    losses = []
    for student_BFHW, teacher_BFHW in levels:
        difference_BFHW = at_least_fp32(student_BFHW) - at_least_fp32(teacher_BFHW.detach())
        loss_B, share, total = difference_BFHW.square().mean(dim=(1, 2, 3)), 1.0, 1.0
        for side in LEVELS:
            if side < difference_BFHW.shape[2]:
                share /= 2
                total += share
                # Averaging is linear, so the difference is averaged instead of both maps.
                pooled_BFHW = F.adaptive_avg_pool2d(difference_BFHW, side)
                loss_B = loss_B + share * pooled_BFHW.square().mean(dim=(1, 2, 3))
        losses.append(weighted_mean(loss_B, weight_B) / total)
    return torch.stack(losses).sum()


def _resized(map_BFHW: Tensor, size: tuple[int, int]) -> Tensor:
    if (map_BFHW.shape[2], map_BFHW.shape[3]) == size:
        return map_BFHW
    return F.interpolate(map_BFHW, size, mode="nearest")
