"""Figures of the targets of a run: what their fusions are, how far from the teachers, and how sharp."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from torch import Tensor

from richkd.config.entropy import OWN
from richkd.core.errors import ConfigError
from richkd.fusion.by_label import ALL, LABELED, WITHOUT, read_by_label
from richkd.fusion.entropy import fit_factor
from richkd.methods.objective import logit_temperature, needs_of, softening_terms
from richkd.pipeline.assemble import Parts
from richkd.pipeline.signal import Sample, mean_shift, measure_entropies, sampling_of, shifts_of
from richkd.pipeline.targets import TargetSource, of_kind

# Keys of the summary. With two fusions, the first is that of images without labels: no teacher was trained
# on held-out images either.
TARGET, TARGET_LABELED = "target", "target_labeled"
SUFFIX = {ALL: "", WITHOUT: "", LABELED: "_labeled"}


def target_logits(parts: Parts, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Logits (N, C) of each fusion of the main target for held-out images.

    Args:
        logits: raw logits of each teacher, by its name.
    """
    source = parts.main_source
    assert source is not None
    members = [logits[teacher.name] for teacher in source.teachers]
    fused = {TARGET: source.fusion.logits(members)}
    return fused if source.labeled is None else fused | {TARGET_LABELED: source.labeled.logits(members)}


def describe_target(parts: Parts) -> dict[str, Any]:
    """The part of the summary about targets: fusions, target shift, multiplier of the control, and entropy.

    Shift and entropy are those of the first training views. The shift is about the main target, at the
    temperature of the logit loss.
    """
    source = parts.main_source
    if source is None:
        return {"fusion": None}
    fusions = {f"fusion{SUFFIX[kind]}": fusion.to_dict() for kind, fusion in source.fusions.items()}
    sampling = sampling_of(parts.stores, parts.augmentation, parts.order, parts.device)
    shift = {} if len(source.teachers) < 2 else _shift(parts, source, sampling(source))
    entropies = {
        name: {
            kind: asdict(entropy)
            for kind, entropy in measure_entropies(
                one, sampling(one), logit_temperature([s for s in parts.specs if s.target == name])
            ).items()
        }
        for name, one in parts.sources.items()
        if "logits" in needs_of(parts.specs, name) and _is_fused(parts, one)
    }
    return {**shift, **({"target_entropy_nats": entropies} if entropies else {}), **fusions}


def _shift(parts: Parts, source: TargetSource, sample: Sample) -> dict[str, Any]:
    shifts = shifts_of(source, sample, parts.temperature)
    multipliers = {kind: shift.multiplier for kind, shift in shifts.items()} | _matched(parts, source, sample)
    named = {f"control_multiplier{SUFFIX[kind]}": multiplier for kind, multiplier in multipliers.items()}
    return {"target_shift_nats": mean_shift(shifts, sample), **named}


def _matched(parts: Parts, source: TargetSource, sample: Sample) -> dict[str, float]:
    """The multiplier of the control for each kind of images whose target has a given entropy."""
    name = next(iter(parts.sources))
    if not softening_terms(parts.specs, name):
        return {}
    multipliers = {}
    for kind, entropy in measure_entropies(source, sample, parts.temperature).items():
        if read_by_label(parts.config).of(kind).entropy != OWN:
            alone_NC = sample.alone(source, source.fusions[kind])[of_kind(kind, sample.labels_N)]
            # A teacher of equal logits has no control, and needs none.
            with suppress(ConfigError):
                multipliers[kind] = fit_factor(alone_NC, parts.temperature, entropy.after)
    return multipliers


def _is_fused(parts: Parts, source: TargetSource) -> bool:
    """Whether a target is a fusion, or a control of one."""
    return len(source.teachers) > 1 or parts.config.fusion.control is not None
