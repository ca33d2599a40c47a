"""``richkd probe``: before any training, whether CLIP will make the teacher of these classes better.

Everything is computed from what the experts say of held-out images; nothing is trained but a fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from richkd.assemble import Parts
from richkd.errors import ConfigError, DataError
from richkd.evaluate.metrics import Metrics, fit_temperature, measure
from richkd.evaluate.predict import outputs_of
from richkd.experts import HELD_OUT
from richkd.fusion.choose import Choice, choose, cross_fitted
from richkd.fusion.fit import fit_log_pool, nll_of
from richkd.fusion.fusion import PAPER_ALPHA, HeldOut, Signal, signal
from richkd.fusion.mixing import LogPool
from richkd.fusion.scale import Scale, on_scales
from richkd.teachers.names import NameAdvice, advise_on_names

Say = Callable[[str], None]
NAMES = ("teacher", "CLIP")
ALPHAS = tuple(i / 20 for i in range(21))
# Standard errors that a difference of mean losses has to reach to be called one.
CLEAR = 2.0
# Share of answers that are right on training images beyond which a teacher has nothing left to say there.
SATURATED = 0.99
# Below so many nats the student's target is the teacher's, whatever CLIP says.
NO_SIGNAL = 0.001


@dataclass(frozen=True)
class Expert:
    """One expert, or one fusion, on the held-out images; ``calibrated`` is at its best temperature."""

    name: str
    metrics: Metrics
    calibrated: Metrics


@dataclass(frozen=True)
class ClassGain:
    """A class with its share of right answers by the teacher alone and by the fused teacher."""

    name: str
    images: int
    teacher: float
    fused: float


@dataclass(frozen=True)
class Probe:
    """What a probe found, in the order in which it is told.

    Attributes:
        split, images: the held-out images.
        experts: teacher and CLIP; fusions: the presets, ``default`` cross-fitted.
        both, teacher_only, clip_only, neither: shares of images by who is right.
        choice: how each way of mixing did on images it was not fitted on.
        curve: α, accuracy and NLL of calibrated experts mixed by it.
        classes: those whose accuracy changes, most helped first.
        signals: by preset, how much of the student's target is not the teacher's.
        names: class names that may mislead CLIP.
        train_top1: the teacher's accuracy on its training images, where it is known.
        gain, error: the default fusion's NLL below the teacher's, each calibrated on other images, and its
            standard error.
    """

    split: str
    images: int
    experts: tuple[Expert, ...]
    fusions: tuple[Expert, ...]
    both: float
    teacher_only: float
    clip_only: float
    neither: float
    choice: Choice
    curve: tuple[tuple[float, float, float], ...]
    classes: tuple[ClassGain, ...]
    signals: dict[str, Signal]
    names: tuple[NameAdvice, ...]
    train_top1: float
    gain: float
    error: float

    @property
    def verdict(self) -> str:
        """What to do, in plain words."""
        teacher, clip = self.experts
        fused = self.fusions[-1]
        accuracies = (
            f"right on {fused.metrics.top1:.1%} of {self.images:,} held-out images, the teacher alone on "
            f"{teacher.metrics.top1:.1%} and CLIP alone on {clip.metrics.top1:.1%}; its NLL is lower than "
            f"the teacher's by {self.gain:.3f} ± {self.error:.3f} nats"
        )
        if self.gain <= CLEAR * self.error:
            return f"No: do not use CLIP here, train with --method kd. Fused, both are {accuracies}."
        # Measured on Caltech-101: a fused teacher of 93 % made worse students than one of 55 % alone.
        return (
            f"Yes, for the teacher: fused with CLIP it is {accuracies}. A better teacher is not yet a better "
            "student, least of all with few images and a student from scratch: train the control too, with "
            "--fusion.control teacher-only."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the fused logits, as plain values."""
        return {
            "split": self.split,
            "images": self.images,
            "experts": {e.name: _figures(e) for e in self.experts},
            "fusions": {e.name: _figures(e) for e in self.fusions},
            "right": {
                "both": self.both,
                "teacher only": self.teacher_only,
                "CLIP only": self.clip_only,
                "neither": self.neither,
            },
            "mixing": {
                "chosen": self.choice.name,
                "candidates": [
                    {"name": c.name, "nll": c.nll, "behind": c.behind, "error": c.error}
                    for c in self.choice.candidates
                ],
            },
            "alpha": [{"alpha": a, "top1": top1, "nll": nll} for a, top1, nll in self.curve],
            "classes": [asdict(gain) for gain in self.classes],
            "signals": {name: asdict(found) for name, found in self.signals.items()},
            "names": [asdict(advice) for advice in self.names],
            "teacher on its training images": self.train_top1,
            "gain": {"nats": self.gain, "error": self.error},
            "verdict": self.verdict,
        }


def probe(parts: Parts) -> Probe:
    """Compare teacher, CLIP and their fusions on held-out images.

    Figures of anything fitted are cross-fitted: each image is judged by what was fitted without its fold.

    Raises:
        ConfigError: not one vision teacher and one CLIP.
        DataError: no held-out images.
    """
    if len(parts.teachers) != 2:
        raise ConfigError(
            "A probe compares one vision teacher and one CLIP",
            got=", ".join(teacher.name for teacher in parts.teachers) or "no teacher",
            fix="give --teacher and --clip, and --method richkd.",
        )
    split = next((name for name in HELD_OUT if name in parts.stores), None)
    if split is None:
        raise DataError(
            "A probe needs images that no expert was trained on",
            got="neither a calibration folder nor a validation split",
            fix="give --data.calibration DIR, or the --data.val_fraction it was trained without.",
        )
    store, device = parts.stores[split], parts.device
    labels_N = store.split.labels_N
    logits = [outputs_of(teacher, store, device).logits_BC for teacher in parts.teachers]
    HeldOut(NAMES, logits, labels_N, split)  # refuses what cannot be compared
    own = [z_NC * t.logit_scale for z_NC, t in zip(logits, parts.teachers, strict=True)]
    scales = [Scale(1 / fit_temperature(z_NC, labels_N)) for z_NC in own]
    logs = on_scales(scales, own)
    choice = choose(logs, labels_N, NAMES)
    chosen_NC = choice.logits_NC
    fused = {
        "as-released": PAPER_ALPHA * logits[0] + (1 - PAPER_ALPHA) * logits[1],
        "paper": PAPER_ALPHA * own[0] + (1 - PAPER_ALPHA) * own[1],
        "default": chosen_NC.float(),
    }
    experts = tuple(_judged(name, z_NC, labels_N) for name, z_NC in zip(NAMES, own, strict=True))
    fusions = tuple(_judged(name, z_NC, labels_N) for name, z_NC in fused.items())
    right_2N = torch.stack([z_NC.argmax(dim=1) == labels_N for z_NC in own])
    losses_N = _loss(cross_fitted(fit_log_pool, own[:1], labels_N), labels_N) - _loss(chosen_NC, labels_N)
    temperature = parts.config.method.temperature
    return Probe(
        split,
        len(labels_N),
        experts,
        fusions,
        both=_share(right_2N[0] & right_2N[1]),
        teacher_only=_share(right_2N[0] & ~right_2N[1]),
        clip_only=_share(~right_2N[0] & right_2N[1]),
        neither=_share(~right_2N[0] & ~right_2N[1]),
        choice=choice,
        curve=tuple(_at_alpha(alpha, logs, labels_N) for alpha in ALPHAS),
        classes=_by_class(own[0], fused["default"], labels_N, parts.data.class_names),
        signals={name: signal(z_NC, logits[0], temperature) for name, z_NC in fused.items()},
        names=tuple(advise_on_names(parts.data.class_names)),
        train_top1=_on_training_images(parts),
        gain=float(losses_N.mean()),
        error=float(losses_N.std() / len(losses_N) ** 0.5),
    )


def _figures(expert: Expert) -> dict[str, Any]:
    return {**expert.metrics.to_dict(), "calibrated": expert.calibrated.to_dict()}


def _judged(name: str, logits_NC: Tensor, labels_N: Tensor) -> Expert:
    calibrated_NC = cross_fitted(fit_log_pool, [logits_NC], labels_N).float()
    return Expert(name, measure(logits_NC, labels_N), measure(calibrated_NC, labels_N))


def _loss(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    return nll_of(LogPool((1.0,)), [logits_NC.double()], labels_N)


def _share(hit_N: Tensor) -> float:
    return float(hit_N.double().mean())


def _at_alpha(alpha: float, logs: Sequence[Tensor], labels_N: Tensor) -> tuple[float, float, float]:
    fused_NC = LogPool((alpha, 1 - alpha))(logs)
    right_N = fused_NC.argmax(dim=1) == labels_N
    return alpha, _share(right_N), float(_loss(fused_NC, labels_N).mean())


def _by_class(
    teacher_NC: Tensor, fused_NC: Tensor, labels_N: Tensor, class_names: Sequence[str]
) -> tuple[ClassGain, ...]:
    gains = []
    for label, name in enumerate(class_names):
        of_class_N = labels_N == label
        if of_class_N.any():
            before, after = (
                _share(z_NC[of_class_N].argmax(dim=1) == label) for z_NC in (teacher_NC, fused_NC)
            )
            gains.append(ClassGain(name, int(of_class_N.sum()), before, after))
    return tuple(sorted(gains, key=lambda gain: gain.teacher - gain.fused))


def _on_training_images(parts: Parts, images: int = 512) -> float:
    """The teacher's accuracy on some of the training images, evenly spread."""
    store = parts.stores["train"]
    places_N = torch.linspace(0, len(store.split) - 1, min(images, len(store.split))).long()
    said = outputs_of(parts.teachers[0], store, parts.device, places_N)
    return measure(said.logits_BC, store.split.labels_N[places_N]).top1
