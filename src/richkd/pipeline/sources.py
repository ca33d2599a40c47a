"""Open the teachers of a run behind their caches, and make a target of the teachers that each target has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.data.batches import Store
from richkd.data.stores import Stores
from richkd.data.views import Augmentation
from richkd.methods.objective import (
    TermSpec,
    logit_temperature,
    needs_of,
    reads_teachers_only,
)
from richkd.methods.term import Need, NetworkShapes
from richkd.models.map_classifier import map_classifier
from richkd.models.stage_ends import find_stage_ends
from richkd.pipeline.controls import controlled
from richkd.pipeline.fuse import FUSION_OF, Fitter, describe
from richkd.pipeline.roles import FUSED, Roles
from richkd.pipeline.sharpen import Sharpener
from richkd.pipeline.targets import TargetSource
from richkd.pipeline.teachers import Networks, Opening, with_imported
from richkd.teachers.base import Teacher
from richkd.teachers.cache.cached import with_cache


def open_sources(
    opening: Opening,
    networks: Networks,
    stores: Stores,
    augmentation: Augmentation,
    roles: Roles,
    sharpener: Sharpener,
) -> dict[str, TargetSource]:
    """The teachers and the fusion of every target that a term reads.

    Args:
        opening: settings, data and device.
        networks: the networks of all teachers.
        stores: the images.
        augmentation: how training images are augmented.
        roles: which teachers each target has.
        sharpener: gives fused targets their entropy.

    Raises:
        ConfigError: ``fusion.control`` does not fit the targets of the terms.
    """
    config, log, specs = opening.config, opening.log, sharpener.specs
    fitter = Fitter(config, sharpener.settings, stores, opening.device, opening.features, log)
    mapped = read_of(specs, roles, "maps")
    vision: list[Teacher] = []
    for position, teacher in enumerate(with_imported(networks.vision, opening, stores, augmentation)):
        if position in mapped:
            log(f"teacher {teacher.name} runs at every step: its intermediate maps are not cached")
            vision.append(teacher)
        else:
            vision.append(_cached(teacher, opening, stores, augmentation))
    clip = None
    if networks.clip is not None:
        clip = fitter.weigh_prompts(_cached(networks.clip, opening, stores, augmentation))
    for teacher in (*vision, *([clip] if clip else [])):
        log(f"{teacher.role}: {teacher.name}, feature width {teacher.feature_width}")
    sources = {}
    for name in roles.targets:
        with_clip = clip if roles.clip[name] else None
        members = (*(vision[place] for place in roles.vision[name]), *([with_clip] if with_clip else []))
        alone = reads_teachers_only(specs, name)
        source = fitter.source(members, clip=with_clip is not None, averaged=alone)
        sources[name] = sharpener.sharpened(name, source)
    if config.fusion.control is not None:
        name = FUSED if FUSED in sources else roles.targets[0]
        _refuse_clip_besides(name, roles)
        _refuse_temperature_control(config, specs, name)
        source = controlled(config, name, sources[name], stores, sharpener, logit_temperature(specs))
        sources[name] = source
        for kind, fusion in source.fusions.items():
            images = FUSION_OF[kind].removeprefix("fusion")
            log(f"control{images}: {config.fusion.control} ({describe(fusion, source.teachers)})")
    return sources


def _refuse_clip_besides(controlled_target: str, roles: Roles) -> None:
    """A control replaces CLIP in one target, so no other target may contain it."""
    others = [name for name in roles.targets if name != controlled_target and roles.clip[name]]
    if others:
        raise ConfigError(
            f"fusion.control replaces CLIP in target {controlled_target}; no other target may contain CLIP",
            got=f"target {', '.join(others)}",
            fix="remove the terms that read it, or fusion.control.",
        )


def _refuse_temperature_control(config: Config, specs: Sequence[TermSpec], target: str) -> None:
    """Refuse the control whose temperature is part of the fusion, for a term that reads each teacher."""
    labels = [s.label for s in specs if s.target == target and "teacher-logits" in s.term.needs]
    if config.fusion.control == "teacher-only" and labels:
        raise ConfigError(
            f"Control 'teacher-only' changes the fused logits, and term objective.{labels[0]} reads each "
            "teacher by itself",
            got=f"target {target}",
            fix=f"remove fusion.control, and set objective.{labels[0]}.target to teacher or teacher-1.",
        )


def read_of(specs: Sequence[TermSpec], roles: Roles, need: Need) -> frozenset[int]:
    """Positions of the vision teachers of which a term reads features, or maps."""
    places = (places for name, places in roles.vision.items() if need in needs_of(specs, name))
    return frozenset(itertools.chain.from_iterable(places))


def sizes_of(teacher: Teacher) -> list[int]:
    """The input sizes of a teacher's networks."""
    return [member.framing.size for member in teacher.members if member.framing]


def _cached(teacher: Teacher, opening: Opening, stores: Stores, training: Augmentation) -> Teacher:
    """A teacher with caches; each member of a blend has its own, so another share needs no new outputs."""
    return teacher.with_members(lambda member: _member_cached(member, opening, stores, training))


def _member_cached(teacher: Teacher, opening: Opening, stores: Stores, training: Augmentation) -> Teacher:
    config = opening.config
    images: dict[str, Store] = {}
    augmentations: dict[str, Augmentation] = {}
    for name in stores.names if teacher.only_splits is None else teacher.only_splits:
        if name == "train" and stores.training is not None:
            images[name], augmentations[name] = stores.training, training
        else:
            clean = stores.clean(name, teacher.framing)
            images[name], augmentations[name] = clean, clean.clean
    return with_cache(
        teacher,
        config.cache,
        images,
        augmentations,
        opening.data.class_names,
        seed=config.train.seed,
        features=opening.features,
        log=opening.log,
    )


def shapes_of(source: TargetSource, specs: Sequence[TermSpec], target: str) -> tuple[NetworkShapes, ...]:
    """Shapes of the outputs of each teacher of a target, with maps only if a term reads them.

    Raises:
        ConfigError: a term reads maps, and a teacher is no single network.
    """
    if "maps" not in needs_of(specs, target):
        return tuple(NetworkShapes(teacher.feature_width) for teacher in source.teachers)
    shapes = []
    for teacher in source.teachers:
        if teacher.network is None:
            labels = [s.label for s in specs if s.target == target and "maps" in s.term.needs]
            raise ConfigError(
                f"Term objective.{labels[0]} reads intermediate maps, which are not stored with outputs",
                got=f"teacher {teacher.name}, of which there are only outputs",
                fix="give the network itself with --teacher and without train.shard_teachers, or remove "
                "the term.",
            )
        network, maps = teacher.network, teacher.network.map_shapes()
        ends, classifier = find_stage_ends(network), map_classifier(network)
        shapes.append(NetworkShapes(teacher.feature_width, maps, ends.norms, ends.averaged, classifier))
    return tuple(shapes)
