"""``richkd probe``: before any training, whether CLIP will make the teacher of these classes better.

Everything is computed from what the teachers say of held-out images; nothing is trained but a fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from richkd.core.errors import ConfigError, DataError
from richkd.core.types import UNLABELED
from richkd.data.held_out import held_out_split
from richkd.data.split import Split, evenly_spaced
from richkd.evaluate.model_report import Confidence, Confusion, confidence_of, confusions_of, losses_of
from richkd.fusion.fusion import HeldOut, TargetShift, alpha_shares, measure_target_shift
from richkd.fusion.mixing import LogPool
from richkd.fusion.scale import Scale, on_scales
from richkd.fusion.select import Choice, choose
from richkd.metrics.accuracy import measure
from richkd.metrics.calibration import Reliability, fit_temperature
from richkd.metrics.confidence import Moves
from richkd.pipeline.assemble import Parts
from richkd.reporting.probe.figures import (
    ClassGain,
    TeacherFigures,
    alike_names,
    calibrated,
    diagram,
    gains_by_class,
    judged,
    moved,
    share,
)
from richkd.teachers.base import Teacher, ZeroShot
from richkd.teachers.clip.class_name_advice import NameAdvice, advise_on_names
from richkd.teachers.clip.prompt_weights import PromptTable, prompt_table
from richkd.teachers.predict import outputs_of

TEACHER, CLIP, FUSED, DEFAULT = "teacher", "CLIP", "fused", "default"
ALPHAS = tuple(i / 20 for i in range(21))
# Standard errors that a difference of mean losses has to reach to be called one.
CLEAR = 2.0
ALIKE_PAIRS = 8


@dataclass(frozen=True)
class Probe:
    """What a probe found, in the order in which it is told.

    Attributes:
        split, images, bare: the held-out images, and the classes that have none of them.
        labeled, unlabeled: the training images, and how many of the former a class has at least.
        teachers: the vision teacher (several ones, and their mean as "teacher"), then CLIP.
        fusions: the presets, ``default`` cross-fitted.
        both, teacher_only, clip_only, neither: shares of images by who is right.
        choice: how each way of mixing did on images it was not fitted on.
        curve: α, accuracy and NLL of calibrated teachers mixed by it.
        reliability: by name, of teacher, CLIP and default.
        confidence: confident answers of these three; moves: from teacher to default.
        classes: each with its accuracy before and after, most helped first.
        confusions: what CLIP calls classes wrongly; alike: pairs of names that are hard to tell apart.
        signals: by preset, how much of the student's target is not the teacher's.
        names: class names that may mislead CLIP.
        prompts: what each prompt template alone is worth, where that is known.
        train_top1: the teacher's accuracy on its training images.
        gain, error: the default fusion's NLL below the teacher's, each calibrated on other images, and its
            standard error.
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
    alike: tuple[tuple[str, str, float], ...]
    signals: dict[str, TargetShift]
    names: tuple[NameAdvice, ...]
    prompts: PromptTable | None
    train_top1: float
    gain: float
    error: float

    @property
    def teacher(self) -> TeacherFigures:
        """All that vision teachers say together."""
        return self.teachers[-2]

    @property
    def clip(self) -> TeacherFigures:
        return self.teachers[-1]

    @property
    def fused(self) -> TeacherFigures:
        return self.fusions[-1]

    @property
    def helps(self) -> bool:
        """Whether the fused teacher is clearly the better one."""
        return self.gain > CLEAR * self.error

    def to_dict(self) -> dict[str, Any]:
        """Everything but the fused logits, as plain values."""
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
            "alike": [{"names": [a, b], "cosine": cosine} for a, b, cosine in self.alike],
            "signals": {name: asdict(result) for name, result in self.signals.items()},
            "names": [asdict(advice) for advice in self.names],
            "prompts": asdict(self.prompts) if self.prompts else None,
        }


def run_probe(parts: Parts) -> Probe:
    """Compare vision teachers, CLIP and their fusions on held-out images.

    Figures of anything fitted are cross-fitted: each image is judged by what was fitted without its fold.

    Raises:
        ConfigError: not vision teachers and one CLIP.
        DataError: no held-out images.
    """
    if len(parts.teachers) < 2:
        raise ConfigError(
            "A probe compares a vision teacher, or several, with one CLIP",
            got=", ".join(teacher.name for teacher in parts.teachers) or "no teacher",
            fix="give --teacher and --clip, and --method richkd.",
        )
    split = held_out_split(parts.stores)
    if split is None:
        raise DataError(
            "A probe needs images that no teacher was trained on",
            got="neither a calibration folder nor a validation split",
            fix="give --data.calibration DIR, or the --data.val_fraction it was trained without, or "
            "--data.test_calibration_fraction 0.2.",
        )
    store, device = parts.stores[split], parts.device
    labels_N, class_names = store.split.labels_N, parts.data.class_names
    outputs = [outputs_of(teacher, store, device) for teacher in parts.teachers]
    logits = [output.logits_BC for output in outputs]
    single = len(logits) == 2
    names = [TEACHER if single else teacher.name for teacher in parts.teachers[:-1]] + [CLIP]
    HeldOut(names, logits, labels_N, split)  # refuses what cannot be compared
    own = [z_NC * t.logit_scale for z_NC, t in zip(logits, parts.teachers, strict=True)]
    logs = on_scales([Scale(1 / fit_temperature(z_NC, labels_N)) for z_NC in own], own)
    teacher_NC, clip_NC = own[0] if single else torch.stack(logs[:-1]).mean(dim=0), own[-1]
    choice = choose(logs, labels_N, names)
    chosen_NC = choice.logits_NC.float()
    shares = alpha_shares(None, len(logits))
    fused = {
        "as-released": LogPool(shares)(logits),
        "paper": LogPool(shares)(own),
        DEFAULT: chosen_NC,
    }
    # A single vision teacher is called "teacher", and several are so together.
    teachers = dict(zip(names[:-1], own, strict=False)) | {TEACHER: teacher_NC, CLIP: clip_NC}
    main = {TEACHER: teacher_NC, CLIP: clip_NC, FUSED: chosen_NC}
    # What was chosen is fitted without each image's fold already.
    scaled = {
        name: calibrated(z_NC, labels_N) for name, z_NC in (teachers | fused).items() if name != DEFAULT
    }
    scaled[DEFAULT] = scaled[FUSED] = choice.logits_NC
    right_2N = torch.stack([z_NC.argmax(dim=1) == labels_N for z_NC in (teacher_NC, clip_NC)])
    losses_N = losses_of(scaled[TEACHER], labels_N) - losses_of(scaled[FUSED], labels_N)
    train_N = parts.data.splits["train"].labels_N
    temperature, zero_shot = parts.temperature, parts.teachers[-1].zero_shot
    return Probe(
        split,
        len(labels_N),
        _bare(store.split),
        class_count=len(class_names),
        labeled=int((train_N != UNLABELED).sum()),
        unlabeled=int((train_N == UNLABELED).sum()),
        teachers=judged(teachers, scaled, labels_N),
        fusions=judged(fused, scaled, labels_N),
        both=share(right_2N[0] & right_2N[1]),
        teacher_only=share(right_2N[0] & ~right_2N[1]),
        clip_only=share(~right_2N[0] & right_2N[1]),
        neither=share(~right_2N[0] & ~right_2N[1]),
        choice=choice,
        curve=tuple(_at_alpha(alpha, logs, labels_N) for alpha in ALPHAS),
        reliability={name: diagram(z_NC, labels_N) for name, z_NC in main.items()},
        confidence=tuple(confidence_of(name, z_NC, scaled[name], labels_N) for name, z_NC in main.items()),
        moves=moved(scaled[TEACHER], scaled[FUSED], labels_N),
        classes=gains_by_class(teacher_NC, chosen_NC, labels_N, class_names),
        confusions=confusions_of(clip_NC, labels_N, class_names),
        alike=_alike(zero_shot, class_names),
        signals={name: measure_target_shift(z_NC, teacher_NC, temperature) for name, z_NC in fused.items()},
        names=tuple(advise_on_names(class_names)),
        prompts=_prompts(parts.teachers[-1], outputs[-1].feats_BF, labels_N),
        train_top1=_on_training_images(parts),
        gain=float(losses_N.mean()),
        error=float(losses_N.std() / len(losses_N) ** 0.5),
    )


def _alike(zero_shot: ZeroShot | None, class_names: Sequence[str]) -> tuple[tuple[str, str, float], ...]:
    if zero_shot is None:
        return ()
    return tuple(alike_names(zero_shot.class_embeddings_CD, class_names, ALIKE_PAIRS))


def _prompts(clip: Teacher, feats_ND: Tensor, labels_N: Tensor) -> PromptTable | None:
    prompts = None if clip.zero_shot is None else clip.zero_shot.prompts()
    return None if prompts is None else prompt_table(prompts, feats_ND, labels_N, clip.logit_scale)


def _bare(split: Split) -> tuple[str, ...]:
    counts_C = torch.bincount(split.labels_N, minlength=len(split.class_names)).tolist()
    return tuple(name for name, count in zip(split.class_names, counts_C, strict=True) if not count)


def _at_alpha(alpha: float, logs: Sequence[Tensor], labels_N: Tensor) -> tuple[float, float, float]:
    fused_NC = LogPool(alpha_shares(alpha, len(logs)))(logs)
    right_N = fused_NC.argmax(dim=1) == labels_N
    return alpha, share(right_N), float(losses_of(fused_NC, labels_N).mean())


def _on_training_images(parts: Parts, images: int = 512) -> float:
    """The first teacher's accuracy on some of the labeled training images, evenly spread."""
    store = parts.stores["train"]
    known_N = (store.split.labels_N != UNLABELED).nonzero()[:, 0]
    places_N = known_N[evenly_spaced(len(known_N), images)]
    outputs = outputs_of(parts.teachers[0], store, parts.device, places_N)
    return measure(outputs.logits_BC, store.split.labels_N[places_N]).top1
