"""The metrics of a probe."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from richkd.evaluate.model_report import Confidence, Confusion
from richkd.fusion.alone import TargetShift
from richkd.fusion.select import Choice
from richkd.metrics.calibration import Reliability
from richkd.metrics.confidence import Moves
from richkd.reporting.probe.figures import ClassGain, TeacherFigures
from richkd.teachers.clip.class_name_advice import NameAdvice
from richkd.teachers.clip.prompt_weights import PromptTable

# The fused teacher is better if its gain is larger than this many standard errors.
CLEAR = 2.0


@dataclass(frozen=True)
class Probe:
    """All metrics of a probe; made by `run_probe`.

    "Teacher" is the vision teacher, or the mean of several ones.

    Attributes:
        split: name of the split of held-out images.
        images: number of held-out images.
        bare: classes without a held-out image.
        class_count: number of classes.
        labeled: number of labeled training images.
        unlabeled: number of unlabeled training images.
        teachers: the vision teachers (several ones are followed by their mean, "teacher"), then CLIP.
        fusions: the presets; the last one, ``default``, is cross-fitted.
        both: fraction of images that teacher and CLIP classify correctly.
        teacher_only: fraction of images that only the teacher classifies correctly.
        clip_only: fraction of images that only CLIP classifies correctly.
        neither: fraction of images that neither classifies correctly.
        choice: cross-fitted scores of all ways of mixing, and the selected one.
        curve: (α, accuracy, NLL) of calibrated teachers, mixed with the weight α for the teacher.
        reliability: reliability diagrams of teacher, CLIP and default fusion, by name.
        confidence: confident predictions and selective risk of the same three.
        moves: changes in correctness and confidence from the teacher to the default fusion.
        classes: accuracy of each class with the teacher and the default fusion, the largest gain first.
        confusions: the most frequent confusion of each class with CLIP.
        similar_names: pairs of class names with similar text embeddings.
        signals: difference of each preset's target from the teacher's outputs on training views, by preset.
        names: class names that CLIP may misunderstand.
        prompts: accuracy of each prompt template; None if embeddings of single prompts are not available.
        train_top1: accuracy of the first teacher on its training images.
        gain: calibrated NLL of the teacher minus that of the default fusion, both cross-fitted, in nats.
        error: standard error of ``gain``.
    """

    split: str
    images: int
    bare: tuple[str, ...]
    class_count: int
    labeled: int
    unlabeled: int
    teachers: tuple[TeacherFigures, ...]
    fusions: tuple[TeacherFigures, ...]
    both: float
    teacher_only: float
    clip_only: float
    neither: float
    choice: Choice
    curve: tuple[tuple[float, float, float], ...]
    reliability: dict[str, Reliability]
    confidence: tuple[Confidence, ...]
    moves: Moves
    classes: tuple[ClassGain, ...]
    confusions: tuple[Confusion, ...]
    similar_names: tuple[tuple[str, str, float], ...]
    signals: dict[str, TargetShift]
    names: tuple[NameAdvice, ...]
    prompts: PromptTable | None
    train_top1: float
    gain: float
    error: float

    @property
    def teacher(self) -> TeacherFigures:
        """The vision teacher, or the mean of several ones."""
        return self.teachers[-2]

    @property
    def clip(self) -> TeacherFigures:
        """CLIP."""
        return self.teachers[-1]

    @property
    def fused(self) -> TeacherFigures:
        """The default fusion."""
        return self.fusions[-1]

    @property
    def helps(self) -> bool:
        """Whether the fused teacher is better: ``gain`` > 2 standard errors."""
        return self.gain > CLEAR * self.error

    def to_dict(self) -> dict[str, Any]:
        """All fields except the fused logits, as a dictionary that can be written as JSON."""
        plain = {
            name: getattr(self, name)
            for name in ("split", "images", "bare", "labeled", "unlabeled", "gain", "error", "train_top1")
        }
        return plain | {
            "teachers": {teacher.name: teacher.to_dict() for teacher in self.teachers},
            "fusions": {teacher.name: teacher.to_dict() for teacher in self.fusions},
            "right": {
                "both": self.both,
                "teacher only": self.teacher_only,
                "CLIP only": self.clip_only,
                "neither": self.neither,
            },
            "mixing": {"chosen": self.choice.name, "candidates": [asdict(c) for c in self.choice.candidates]},
            "alpha": [{"alpha": a, "top1": top1, "nll": nll} for a, top1, nll in self.curve],
            "reliability": {name: bins.to_dict() for name, bins in self.reliability.items()},
            "confidence": [confidence.to_dict() for confidence in self.confidence],
            "moves": self.moves.to_dict(),
            "classes": [asdict(gain) for gain in self.classes],
            "confusions": [asdict(confusion) for confusion in self.confusions],
            "similar_names": [{"names": [a, b], "cosine": cosine} for a, b, cosine in self.similar_names],
            "signals": {name: asdict(result) for name, result in self.signals.items()},
            "names": [asdict(advice) for advice in self.names],
            "prompts": asdict(self.prompts) if self.prompts else None,
        }
