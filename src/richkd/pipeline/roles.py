"""Which teachers a run needs: they follow from the targets that the loss terms read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from richkd.config.schema import Config
from richkd.core.errors import ConfigError, nearest
from richkd.methods.objective import LABELS, TermSpec
from richkd.methods.presets import DEFAULT_METHOD

FUSED, TEACHER, CLIP = "fused", "teacher", "clip"
# teacher-1, teacher-2, … are single vision teachers, counted from 1.
ONE_TEACHER = re.compile(r"teacher-([1-9]\d*)")
ADD_CLIP = "add --clip NAME:TAG, local-dir:FOLDER or outputs:FILE"
ADD_TEACHER = "add --teacher NAME --teacher-weights FILE (`richkd teach` trains one)"


@dataclass(frozen=True)
class Roles:
    """The teachers of each target that a term reads.

    Attributes:
        vision: by target, the positions of its vision teachers in the settings.
        clip: by target, whether the CLIP belongs to it.
    """

    vision: dict[str, tuple[int, ...]]
    clip: dict[str, bool]

    @property
    def targets(self) -> tuple[str, ...]:
        """All targets that are read, the one with most teachers first."""
        return tuple(sorted(self.vision, key=lambda name: -len(self.vision[name]) - self.clip[name]))

    @property
    def needs_clip(self) -> bool:
        """Whether any target needs the CLIP."""
        return any(self.clip.values())


def assign_roles(config: Config, specs: Sequence[TermSpec]) -> Roles:
    """The teachers of every target; also makes sure that no given teacher is left without a purpose.

    Raises:
        ConfigError: a target that does not exist or whose teachers are not given; a teacher or a CLIP that
            no term reads; method richkd without a CLIP or without a vision teacher.
    """
    _check_richkd(config)
    roles = Roles({}, {})
    for spec in specs:
        if spec.target != LABELS:
            vision, clip = _members(config, spec)
            if spec.term.one_teacher:
                _check_single(spec, vision, clip)
            roles.vision[spec.target], roles.clip[spec.target] = vision, clip
    _check_all_used(config, specs, roles)
    return roles


def _check_richkd(config: Config) -> None:
    name = config.method.name or DEFAULT_METHOD
    if isinstance(config.objective, list) or name != DEFAULT_METHOD:
        return
    if config.clip is None:
        raise ConfigError(
            f"Method {name} needs a CLIP", got="no clip", fix=f"{ADD_CLIP}, or use --method kd."
        )
    if not config.teachers:
        raise ConfigError(
            f"Method {name} needs a vision teacher",
            got="no teacher",
            fix=f"{ADD_TEACHER}, or distill from CLIP only: --method kd --objective.kd.target clip.",
        )


def _members(config: Config, spec: TermSpec) -> tuple[tuple[int, ...], bool]:
    """Positions of the vision teachers of a term's target, and whether the CLIP belongs to it."""
    everyone, has_clip = tuple(range(len(config.teachers))), config.clip is not None
    where = f"objective.{spec.label}.target is '{spec.target}'"
    if spec.target == FUSED:
        if not everyone and not has_clip:
            raise ConfigError(f"{where}, which needs a teacher", got="no teacher", fix=f"{ADD_TEACHER}.")
        return everyone, has_clip
    if spec.target == CLIP:
        if not has_clip:
            raise ConfigError(f"{where}, which needs a CLIP", got="no clip", fix=f"{ADD_CLIP}.")
        return (), True
    match = ONE_TEACHER.fullmatch(spec.target)
    if spec.target == TEACHER or match:
        if not everyone:
            raise ConfigError(
                f"{where}, which needs a vision teacher", got="no teacher", fix=f"{ADD_TEACHER}."
            )
        if not match:
            return everyone, False
        if int(match[1]) <= len(everyone):
            return (int(match[1]) - 1,), False
    listing = f"A run with {len(everyone)} vision teachers has fused, teacher, teacher-1, … and clip."
    known = [FUSED, TEACHER, CLIP, *(f"teacher-{n + 1}" for n in everyone)]
    raise ConfigError(f"{where}, which this run does not have", fix=nearest(spec.target, known, listing))


def _check_single(spec: TermSpec, vision: tuple[int, ...], clip: bool) -> None:
    """Refuse a target of several teachers, or of a CLIP, for a term that compares two networks."""
    if clip or len(vision) != 1:
        got = f"target {spec.target}: {len(vision)} vision teachers" + (" and a CLIP" if clip else "")
        raise ConfigError(
            f"Term objective.{spec.label} compares the student with one vision teacher",
            got=got,
            fix=f"set objective.{spec.label}.target to teacher-1 or another single vision teacher.",
        )


def _check_all_used(config: Config, specs: Sequence[TermSpec], roles: Roles) -> None:
    read = {position for positions in roles.vision.values() for position in positions}
    terms = ", ".join(f"{spec.label} (target {spec.target})" for spec in specs)
    for position, teacher in enumerate(config.teachers):
        if position not in read:
            raise ConfigError(
                f"Every teacher must be read by a loss term; --teacher {teacher.name} is read by none",
                got=f"terms {terms}",
                fix="remove the teacher (--teacher null removes those of a recipe), or add a term that reads "
                "it, such as --method kd.",
            )
    if config.clip is not None and not roles.needs_clip:
        raise ConfigError(
            f"The CLIP must be read by a loss term; --clip {config.clip.name} is read by none",
            got=f"terms {terms}",
            fix="remove the CLIP (--clip null removes that of a recipe), use --method richkd, or set the "
            "term's target to fused or clip.",
        )
