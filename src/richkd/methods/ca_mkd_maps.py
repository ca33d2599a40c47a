"""The features of confidence-aware teachers: projected maps, weighted by how a teacher would classify them.

Source: Zhang, Chen and Wang, "Confidence-aware multi-teacher knowledge distillation", ICASSP 2022, equations
4 to 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from richkd.config.choices import TERMS
from richkd.core.errors import ConfigError
from richkd.core.types import Batch, Output, Target
from richkd.losses.weighted import squared_error, weighted_mean
from richkd.methods.ca_mkd import confidence_weights
from richkd.methods.term import Context, Loss, Need, Setup, TargetConfig, Term


class ConfidentMapsConfig(TargetConfig):
    """Settings of `ca-mkd-maps`; the defaults are those of the paper for CIFAR-100."""

    weight: float = Field(50.0, ge=0, description="weight of the term in the sum that is minimized")
    relu: bool = Field(
        True, description="end each projection with a ReLU; set to false for teachers with negative maps"
    )


@TERMS.register("ca-mkd-maps", "last maps of several teachers, weighted per image (Zhang et al. 2022)")
class ConfidentMaps(Term):
    """See `weighted_map_loss`; each teacher has its own `Projection` of the student's last map."""

    Config = ConfidentMapsConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"maps", "teacher-logits"})
    linear = False

    def __init__(self, config: ConfidentMapsConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        channels = setup.student.maps[-1][0]
        self.projections = nn.ModuleList(
            Projection(channels, teacher.maps[-1], relu=config.relu) for teacher in setup.teachers
        )
        # A tuple, because modules of an attribute would be trained and saved with the student.
        self.classifiers = tuple(teacher.classifier for teacher in setup.teachers)

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        pairs = [
            (project(student.maps[-1]), teacher.maps[-1])
            for project, teacher in zip(self.projections, target.teachers, strict=True)
        ]
        logits: Sequence[Tensor] = target.logs
        known = [classifier for classifier in self.classifiers if classifier is not None]
        if len(known) == len(pairs):
            means = [projected_BFHW.mean(dim=(2, 3)) for projected_BFHW, _ in pairs]
            logits = [classify(mean_BF) for classify, mean_BF in zip(known, means, strict=True)]
        weights_MB = confidence_weights(logits, batch.labels_B)
        return Loss(weighted_map_loss(pairs, weights_MB, target.weight_B))


class Projection(nn.Module):
    """Brings the student's map to a teacher's resolution and channels: 1×1 convolution, batch norm, ReLU.

    Args:
        channels: channels of the student's map.
        teacher: channels, height and width of the teacher's map.
        relu: whether a ReLU follows.

    Raises:
        ConfigError: in training, a batch with a single value per channel, which has no statistics.

    Example:
        >>> tuple(Projection(8, (16, 4, 4), relu=True)(torch.rand(2, 8, 7, 7)).shape)
        (2, 16, 4, 4)
    """

    def __init__(self, channels: int, teacher: tuple[int, int, int], *, relu: bool) -> None:
        super().__init__()
        outputs, *self.size = teacher
        self.conv = nn.Conv2d(channels, outputs, 1)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, map_BFHW: Tensor) -> Tensor:
        height, width = self.size
        if len(map_BFHW) * height * width == 1 and self.training:
            raise ConfigError(
                "Term ca-mkd-maps needs two images in each part of a batch, because the teacher's last map "
                "has one position",
                got="a part of one image",
                fix="set train.grad_accum_steps to a smaller number, or use a larger train.batch_size.",
            )
        if map_BFHW.shape[2] >= height and map_BFHW.shape[3] >= width:
            map_BFHW = F.adaptive_avg_pool2d(map_BFHW, (height, width))
        else:
            map_BFHW = F.interpolate(map_BFHW, (height, width), mode="bilinear")
        projected_BFHW: Tensor = self.norm(self.conv(map_BFHW))
        return projected_BFHW.relu() if self.relu else projected_BFHW


def weighted_map_loss(
    pairs: Sequence[tuple[Tensor, Tensor]], weights_MB: Tensor, weight_B: Tensor | None = None
) -> Tensor:
    """``mean_B w Σ_m w_m · mean (F_m − r_m)²``, with the mean over channels and positions.

    Computed in float32 or higher.

    Args:
        pairs: projected map r_m of the student and map F_m of the teacher (B, channels, H, W), for each
            teacher; teachers receive no gradient.
        weights_MB: weight w_m of each teacher for each image; see `confidence_weights`.
        weight_B: weight w of each image in [0, 1]; 1 if None.

    Example:
        >>> zeros_BFHW, ones_BFHW = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
        >>> pairs = [(zeros_BFHW, ones_BFHW), (zeros_BFHW, 2 * ones_BFHW)]
        >>> float(weighted_map_loss(pairs, torch.tensor([[0.75], [0.25]])))
        1.75
    """
    errors_MB = torch.stack(
        [squared_error(student_BFHW, teacher_BFHW) for student_BFHW, teacher_BFHW in pairs]
    )
    loss_B = (weights_MB * errors_MB).sum(dim=0)
    return weighted_mean(loss_B, weight_B)
