"""Exported students as models that are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from richkd.core.types import Output
from richkd.data.classes import check_same_classes
from richkd.data.framing import Framing
from richkd.data.split import Data
from richkd.evaluate.predictors import FramedStores, Images, Predictor, stored
from richkd.export.artifact import Artifact, load_artifact


@dataclass(frozen=True)
class ArtifactPredictor:
    """An exported student in its runtime, on the CPU.

    It is given pictures whose short side has already the length after the resize, which its own preprocessing
    leaves as they are; for a crop of less than the whole, this can move the crop by one pixel. The resize of
    the graph is compared with Pillow's when a student is exported.

    Attributes:
        name: name of the model in the evaluation.
        artifact: the artifact.
        note: None, as an artifact is that of a finished student.
    """

    name: str
    artifact: Artifact
    note: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def temperatures(self) -> tuple[float | None, ...]:
        return (stored(self.artifact.description.temperature),)

    @property
    def framings(self) -> tuple[Framing, ...]:
        framing = self.artifact.description.framing
        return (replace(framing, size=framing.resized, crop_pct=1.0),)

    def predict(self, images: Images) -> Sequence[Output]:
        """Logits before the temperature; an artifact has no features."""
        framing = self.framings[0]
        batch, _ = images(framing)
        pixels_BHWC = (batch.crops or {framing.size: batch.pixels_BHWC})[framing.size].cpu().numpy()
        pictures = [Image.fromarray(np.ascontiguousarray(pixels_HWC)) for pixels_HWC in pixels_BHWC]
        logits_BC = self.artifact.outputs(pictures)[1]
        return [Output(logits_BC, torch.empty(len(logits_BC), 0))]

    def with_cache_of(self, stores: FramedStores) -> Predictor:
        """The same predictor, because an artifact is not cached."""
        return self

    def flush(self) -> None:
        """Does nothing, because an artifact has no cache."""

    def for_any_image(self) -> Predictor:
        """The same predictor, because an artifact computes from pixels."""
        return self


def open_artifact(model: str, data: Data, where: str) -> ArtifactPredictor:
    """Open an artifact for an evaluation.

    Raises:
        RichKDError: it cannot be opened, or its classes differ from the data's.
    """
    artifact = load_artifact(model)
    check_same_classes(data.class_names, artifact.class_names, where=f"artifact {model}", reference=where)
    return ArtifactPredictor(model, artifact)
