"""One training step as the method's description reads, image by image and negative by negative.

What a direct transcription does: images pass through PIL one at a time, every image draws its own
negatives from a list of the other classes' images, and both banks' rows are gathered for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn, optim
from torch.nn import functional

from richkd.data.views import RGB

PAD, SIZE = 4, 32


def load_image(pixels_HWC: NDArray[np.uint8], random: np.random.Generator, mean: RGB, std: RGB) -> Tensor:
    """One augmented, normalized image (3, H, W), through PIL."""
    padded = Image.new("RGB", (SIZE + 2 * PAD, SIZE + 2 * PAD))
    padded.paste(Image.fromarray(pixels_HWC), (PAD, PAD))
    top, left = random.integers(2 * PAD + 1, size=2)
    image = padded.crop((left, top, left + SIZE, top + SIZE))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    values_HWC = (np.asarray(image, dtype=np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(values_HWC.transpose(2, 0, 1)))


def negative_lists(labels: NDArray[np.int64], classes: int) -> list[NDArray[np.int64]]:
    """For each class, the images of all other classes."""
    return [np.flatnonzero(labels != label) for label in range(classes)]


class Contrast(nn.Module):
    """The contrastive loss with gathered rows: (batch × negatives × width) numbers for each bank."""

    def __init__(self, images: int, width: int, temperature: float, momentum: float) -> None:
        super().__init__()
        bound = 1 / (width / 3) ** 0.5
        self.banks = [torch.empty(images, width).uniform_(-bound, bound) for _ in range(2)]
        self.temperature, self.momentum, self.images = temperature, momentum, images
        self.normalizers: list[float] = []

    def forward(self, student_BD: Tensor, target_BD: Tensor, rows_BK1: Tensor) -> Tensor:
        """Both directions' loss; column 0 of the rows is the positive."""
        scores = []
        for v_BD, bank_ND in ((student_BD, self.banks[1]), (target_BD, self.banks[0])):
            gathered_BK1D = torch.index_select(bank_ND, 0, rows_BK1.reshape(-1))
            gathered_BK1D = gathered_BK1D.view(*rows_BK1.shape, -1)
            dots_BK1 = torch.bmm(gathered_BK1D, v_BD[:, :, None])[..., 0]
            scores.append(torch.exp(dots_BK1 / self.temperature))
        if not self.normalizers:
            self.normalizers = [float(score.detach().mean()) * self.images for score in scores]
        noise = (rows_BK1.shape[1] - 1) / self.images
        loss = student_BD.new_zeros(())
        for score_BK1, normalizer in zip(scores, self.normalizers, strict=True):
            p_BK1 = score_BK1 / normalizer
            positive_B = torch.log(p_BK1[:, 0] / (p_BK1[:, 0] + noise))
            negative_BK = torch.log(noise / (p_BK1[:, 1:] + noise))
            loss = loss - (positive_B.sum() + negative_BK.sum()) / len(rows_BK1)
        with torch.no_grad():
            for bank_ND, v_BD in zip(self.banks, (student_BD, target_BD), strict=True):
                rows_B = rows_BK1[:, 0]
                moved_BD = self.momentum * bank_ND[rows_B] + (1 - self.momentum) * v_BD
                bank_ND[rows_B] = functional.normalize(moved_BD, dim=1)
        return loss


class ReferenceStep:
    """Everything a step of RichKD L+F needs, in float32 and torch's default layout.

    ``student`` and ``teacher`` give (logits, pooled features); ``clip_ND`` and ``text_CD`` are stored
    CLIP outputs, one for each training image.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        widths: Sequence[int],
        pixels_NHWC: NDArray[np.uint8],
        labels_N: NDArray[np.int64],
        clip_ND: Tensor,
        text_CD: Tensor,
        *,
        mean: RGB,
        std: RGB,
        negatives: int = 16384,
        width: int = 128,
    ) -> None:
        self.student, self.teacher = student.train(), teacher.eval()
        self.heads = nn.ModuleList(nn.Linear(feature_width, width) for feature_width in widths)
        self.contrast = Contrast(len(labels_N), width, 0.07, 0.5)
        self.pixels_NHWC, self.labels_N = pixels_NHWC, labels_N
        self.clip_ND, self.text_CD = clip_ND, text_CD
        self.lists = negative_lists(labels_N, len(text_CD))
        self.mean, self.std, self.negatives = mean, std, negatives
        self.random = np.random.default_rng(0)
        parameters = [*self.student.parameters(), *self.heads.parameters()]
        self.optimizer = optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=5e-4)

    def load(self, index_B: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented pixels, labels, and rows of the banks: each image's own, then its negatives."""
        images, rows = [], []
        for index in index_B.tolist():
            images.append(load_image(self.pixels_NHWC[index], self.random, self.mean, self.std))
            drawn_K = self.random.choice(self.lists[self.labels_N[index]], self.negatives, replace=True)
            rows.append(np.concatenate([[index], drawn_K]))
        return torch.stack(images), torch.from_numpy(self.labels_N[index_B]), torch.from_numpy(np.stack(rows))

    def __call__(self, index_B: NDArray[np.int64]) -> float:
        """One optimizer step; returns the loss."""
        pixels_B3HW, labels_B, rows_BK1 = self.load(index_B)
        logits_BC, feats_BF = self.student(pixels_B3HW)
        with torch.no_grad():
            teacher_BC, teacher_BF = self.teacher(pixels_B3HW)
        clip_BD = self.clip_ND[index_B]
        fused_BC = 0.7 * teacher_BC + 0.3 * 100 * clip_BD @ self.text_CD.T
        embedded = [
            functional.normalize(head(feats), dim=1)
            for head, feats in zip(self.heads, (feats_BF, teacher_BF, clip_BD), strict=True)
        ]
        target_BD = functional.normalize(0.7 * embedded[1] + 0.3 * embedded[2], dim=1)
        logits_loss = functional.kl_div(
            functional.log_softmax(logits_BC / 3, dim=1),
            functional.softmax(fused_BC / 3, dim=1),
            reduction="batchmean",
        )
        loss = functional.cross_entropy(logits_BC, labels_B) + 3 * 9 * logits_loss
        loss = loss + 0.8 * self.contrast(embedded[0], target_BD, rows_BK1)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())
