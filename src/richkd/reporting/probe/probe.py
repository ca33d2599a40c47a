"""``richkd probe``: predict before training whether fusing CLIP improves the teacher on these classes.

All metrics are computed from the teachers' outputs for held-out images. Only fusions and temperatures are
fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from richkd.core.errors import ConfigError, DataError
from richkd.core.types import UNLABELED
from richkd.core.waiting import still
from richkd.data.columns import classes_without_images
from richkd.data.held_out import held_out_split
from richkd.data.split import evenly_spaced
from richkd.evaluate.model_report import confidence_of, confusions_of, losses_of
from richkd.fusion.alone import TargetShift, measure_target_shift
from richkd.fusion.held_out import HeldOut
from richkd.fusion.mixing import LogPool
from richkd.fusion.presets import alpha_shares
from richkd.fusion.scale import Scale, on_scales
from richkd.fusion.select import Choice, choose
from richkd.metrics.accuracy import measure
from richkd.metrics.calibration import fit_temperature
from richkd.pipeline.assemble import Parts
from richkd.pipeline.roles import FUSED, TEACHER
from richkd.pipeline.signal import training_outputs
from richkd.reporting.probe.figures import (
    calibrated,
    confidence_moves,
    gains_by_class,
    measure_teachers,
    reliability_of,
    share,
    similar_names,
)
from richkd.reporting.probe.result import Probe
from richkd.teachers.base import Teacher, ZeroShot
from richkd.teachers.clip.class_name_advice import advise_on_names
from richkd.teachers.clip.prompt_weights import PromptTable, measure_prompts
from richkd.teachers.predict import outputs_of

# Names of models on the page; a target is written "clip".
CLIP, DEFAULT = "CLIP", "default"
ALPHAS = tuple(i / 20 for i in range(21))
SIMILAR_PAIRS = 8
# Maximum number of images on which the accuracy on training images is measured.
TRAIN_IMAGES = 512


@dataclass(frozen=True)
class _Logits:
    """Logits (N, C) for the held-out images, by name.

    Attributes:
        teachers: vision teachers, their mean and CLIP, each at the scale of its probabilities.
        fusions: the presets.
        scaled: cross-fitted calibrated logits of all teachers and fusions.
        log_probs: calibrated log-probabilities of the single teachers and CLIP.
        choice: the selected way of mixing.
        scales: the fitted scales of the single teachers and CLIP, which give ``log_probs``.
    """

    teachers: dict[str, Tensor]
    fusions: dict[str, Tensor]
    scaled: dict[str, Tensor]
    log_probs: tuple[Tensor, ...]
    choice: Choice
    scales: tuple[Scale, ...]

    @property
    def compared(self) -> dict[str, Tensor]:
        """Teacher, CLIP and default fusion."""
        return {
            TEACHER: self.teachers[TEACHER],
            CLIP: self.teachers[CLIP],
            FUSED: self.fusions[DEFAULT],
        }


def run_probe(parts: Parts) -> Probe:
    """Compare vision teachers, CLIP and their fusions on held-out images.

    Metrics of fitted models are cross-fitted: each image is evaluated by a fit without the image's fold.

    Args:
        parts: the data, one or several vision teachers, and CLIP as the last teacher.

    Returns:
        All metrics of the comparison.

    Raises:
        ConfigError: there is no vision teacher or no CLIP.
        DataError: there are no held-out images.
    """
    held_out = _held_out_name(parts)
    split, device = parts.data.splits[held_out], parts.device
    labels_N, class_names = split.labels_N, parts.data.class_names
    outputs = [
        outputs_of(teacher, parts.stores.clean(held_out, teacher.framing), device)
        for teacher in parts.teachers
    ]
    with still("fitting the fusions"):
        logits = _fuse(parts, [output.logits_BC for output in outputs], labels_N, held_out)
    teacher_NC, clip_NC, fused_NC = logits.compared.values()
    losses_N = losses_of(logits.scaled[TEACHER], labels_N) - losses_of(logits.scaled[FUSED], labels_N)
    train_N = parts.data.splits["train"].labels_N
    return Probe(
        held_out,
        len(labels_N),
        tuple(classes_without_images(labels_N, class_names)),
        class_count=len(class_names),
        labeled=int((train_N != UNLABELED).sum()),
        unlabeled=int((train_N == UNLABELED).sum()),
        teachers=measure_teachers(logits.teachers, logits.scaled, labels_N),
        fusions=measure_teachers(logits.fusions, logits.scaled, labels_N),
        **_correct_shares(teacher_NC, clip_NC, labels_N),
        choice=logits.choice,
        curve=tuple(_at_alpha(alpha, logits.log_probs, labels_N) for alpha in ALPHAS),
        reliability={name: reliability_of(z_NC, labels_N) for name, z_NC in logits.compared.items()},
        confidence=tuple(
            confidence_of(name, z_NC, logits.scaled[name], labels_N) for name, z_NC in logits.compared.items()
        ),
        moves=confidence_moves(logits.scaled[TEACHER], logits.scaled[FUSED], labels_N),
        classes=gains_by_class(teacher_NC, fused_NC, labels_N, class_names),
        confusions=confusions_of(clip_NC, labels_N, class_names),
        similar_names=_similar_names(parts.teachers[-1].zero_shot, class_names),
        signals=_signals(parts, logits),
        names=tuple(advise_on_names(class_names)),
        prompts=_prompts(parts.teachers[-1], outputs[-1].feats_BF, labels_N),
        train_top1=_train_accuracy(parts),
        gain=float(losses_N.mean()),
        error=float(losses_N.std() / len(losses_N) ** 0.5),
    )


def _held_out_name(parts: Parts) -> str:
    """Check that a probe is possible, and return the name of the split of held-out images."""
    if len(parts.teachers) < 2:
        raise ConfigError(
            "A probe compares one or several vision teachers with CLIP",
            got=", ".join(teacher.name for teacher in parts.teachers) or "no teacher",
            fix="give --teacher and --clip, and --method richkd.",
        )
    split = held_out_split(parts.stores.names)
    if split is None:
        raise DataError(
            "A probe needs images that no teacher was trained on",
            got="neither a calibration folder nor a validation split",
            fix="give --data.calibration DIR, or the --data.val_fraction that the teacher was trained with, "
            "or --data.test_calibration_fraction 0.2.",
        )
    return split


def _fuse(parts: Parts, raw: Sequence[Tensor], labels_N: Tensor, split: str) -> _Logits:
    """Logits of teachers and fusions from the raw logits of the teachers."""
    single = len(raw) == 2
    names = [TEACHER if single else teacher.name for teacher in parts.teachers[:-1]] + [CLIP]
    HeldOut(names, raw, labels_N, split)  # raises if the teachers cannot be compared
    logits = [z_NC * t.logit_scale for z_NC, t in zip(raw, parts.teachers, strict=True)]
    scales = [
        Scale(t.logit_scale / fit_temperature(z_NC, labels_N))
        for t, z_NC in zip(parts.teachers, logits, strict=True)
    ]
    logs = on_scales(scales, raw)
    teacher_NC = logits[0] if single else torch.stack(logs[:-1]).mean(dim=0)
    shares = alpha_shares(None, len(raw))
    choice = choose(logs, labels_N, names, shares)
    # A single vision teacher has the name "teacher"; of several ones, their mean has this name.
    teachers = dict(zip(names[:-1], logits, strict=False)) | {TEACHER: teacher_NC, CLIP: logits[-1]}
    fusions = {
        "as-released": LogPool(shares)(raw),
        "paper": LogPool(shares)(logits),
        DEFAULT: choice.logits_NC.float(),
    }
    scaled = {
        name: calibrated(z_NC, labels_N) for name, z_NC in (teachers | fusions).items() if name != DEFAULT
    }
    # The selected fusion is cross-fitted already.
    scaled[DEFAULT] = scaled[FUSED] = choice.logits_NC
    return _Logits(teachers, fusions, scaled, tuple(logs), choice, tuple(scales))


def _signals(parts: Parts, logits: _Logits) -> dict[str, TargetShift]:
    """The target shift of each preset on training views, which is what a student would learn from."""
    source = parts.main_source
    assert source is not None
    outputs, _ = training_outputs(source, parts.stores, parts.augmentation, parts.order(), parts.device)
    raw = [output.logits_BC for output in outputs]
    scaled = [z_NC * teacher.logit_scale for z_NC, teacher in zip(raw, source.teachers, strict=True)]
    log_probs = on_scales(logits.scales, raw)
    shares = alpha_shares(None, len(raw))
    teacher_NC = raw[0] if len(raw) == 2 else torch.stack(log_probs[:-1]).mean(dim=0)
    targets = {
        "as-released": LogPool(shares)(raw),
        "paper": LogPool(shares)(scaled),
        DEFAULT: logits.choice.mixing(log_probs),
    }
    return {name: measure_target_shift(z_NC, teacher_NC, parts.temperature) for name, z_NC in targets.items()}


def _correct_shares(teacher_NC: Tensor, clip_NC: Tensor, labels_N: Tensor) -> dict[str, float]:
    """Fractions of images that both, only one or neither of the two classifies correctly."""
    teacher_N, clip_N = (z_NC.argmax(dim=1) == labels_N for z_NC in (teacher_NC, clip_NC))
    return {
        "both": share(teacher_N & clip_N),
        "teacher_only": share(teacher_N & ~clip_N),
        "clip_only": share(~teacher_N & clip_N),
        "neither": share(~teacher_N & ~clip_N),
    }


def _similar_names(
    zero_shot: ZeroShot | None, class_names: Sequence[str]
) -> tuple[tuple[str, str, float], ...]:
    if zero_shot is None:
        return ()
    return tuple(similar_names(zero_shot.class_embeddings_CD, class_names, SIMILAR_PAIRS))


def _prompts(clip: Teacher, feats_ND: Tensor, labels_N: Tensor) -> PromptTable | None:
    prompts = None if clip.zero_shot is None else clip.zero_shot.prompts()
    return None if prompts is None else measure_prompts(prompts, feats_ND, labels_N, clip.logit_scale)


def _at_alpha(alpha: float, logs: Sequence[Tensor], labels_N: Tensor) -> tuple[float, float, float]:
    fused_NC = LogPool(alpha_shares(alpha, len(logs)))(logs)
    correct_N = fused_NC.argmax(dim=1) == labels_N
    return alpha, share(correct_N), float(losses_of(fused_NC, labels_N).mean())


def _train_accuracy(parts: Parts) -> float:
    """Accuracy of the first teacher on at most `TRAIN_IMAGES` labeled training images, evenly spaced."""
    labels_N = parts.data.splits["train"].labels_N
    labeled_N = (labels_N != UNLABELED).nonzero()[:, 0]
    places_N = labeled_N[evenly_spaced(len(labeled_N), TRAIN_IMAGES)]
    teacher = parts.teachers[0]
    store = parts.stores.clean("train", teacher.framing)
    outputs = outputs_of(teacher, store, parts.device, places_N)
    return measure(outputs.logits_BC, labels_N[places_N]).top1
