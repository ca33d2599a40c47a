"""From settings to parts: opens the data, builds the networks, and makes sure that they fit each other.

Everything that can be found wrong before the first step is found here, for training, ``richkd check`` and
``richkd probe`` alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.core.processes import world
from richkd.core.types import Batch, Output, Target
from richkd.data.batches import Store
from richkd.data.effects import read_effects
from richkd.data.order import TrainingOrder
from richkd.data.split import Data
from richkd.data.stores import Stores, open_stores
from richkd.data.views import Augmentation, Views, render_batch
from richkd.data.workers import Lazy
from richkd.fusion.by_label import ByLabel, by_label
from richkd.fusion.fusion import Fusion
from richkd.methods.objective import (
    Objective,
    TermSpec,
    logit_temperature,
    needs_of,
    read_objective,
    reads_teachers_only,
)
from richkd.methods.term import Need, NetworkShapes
from richkd.models.build import Network, build_network
from richkd.models.map_classifier import map_classifier
from richkd.models.speed import Speed, SpeedChooser
from richkd.models.stage_ends import stage_ends
from richkd.pipeline.controls import controlled
from richkd.pipeline.fuse import FUSION_OF, Fitter, describe
from richkd.pipeline.reuse import with_reused_classifier
from richkd.pipeline.roles import FUSED, Roles, assign_roles
from richkd.pipeline.run_data import open_run_data, order_of
from richkd.pipeline.sharpen import Factors, Sharpener, refuse_ambiguous
from richkd.pipeline.signal import sampling_of
from richkd.pipeline.targets import TargetSource, distinct_teachers, teach
from richkd.pipeline.teachers import Log, Networks, Opening, log_resizing, open_networks, with_imported
from richkd.pipeline.unused import refuse_unused
from richkd.teachers.base import Teacher
from richkd.teachers.cache.cached import with_cache


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        specs: the loss terms of the objective.
        sources: the teachers and the fusion of every target that a term reads, the one with most teachers
            first.
        augmentation: how training images are augmented.
        speed: precision of the student, and whether it is compiled.
        speeds: the same for all networks, as the run folder records it.
        factors: factors of fused targets that give them an entropy, as the run folder records them.
    """

    config: Config
    data: Data
    stores: Stores
    student: Network
    specs: tuple[TermSpec, ...]
    sources: dict[str, TargetSource]
    augmentation: Augmentation
    device: torch.device
    speed: Speed
    speeds: Mapping[str, dict[str, Any]]
    factors: Factors

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """Every teacher of the run once: vision teachers, then the CLIP."""
        return distinct_teachers(self.sources)

    @property
    def main_source(self) -> TargetSource | None:
        """The target with most teachers, which figures of "the target" are about; None without teachers."""
        return next(iter(self.sources.values()), None)

    @property
    def fusion(self) -> Fusion | None:
        """The fusion of the main target."""
        return None if self.main_source is None else self.main_source.fusion

    @property
    def temperature(self) -> float:
        """Temperature of the logit loss."""
        return logit_temperature(self.specs)

    @cached_property
    def mapped_teachers(self) -> tuple[Teacher, ...]:
        """Teachers whose intermediate maps a term reads."""
        return tuple(
            teacher
            for name, source in self.sources.items()
            if "maps" in needs_of(self.specs, name)
            for teacher in source.teachers
        )

    def teach(self, batch: Batch, epoch: int) -> dict[str, Target]:
        """The targets of a batch (on `device`) for the views that its images have in an epoch."""
        views = self.augmentation.draw(self.config.train.seed, epoch, batch.index_B)
        logs_for = [name for name in self.sources if "teacher-logits" in needs_of(self.specs, name)]
        return teach(self.sources, batch, views, self.mapped_teachers, logs_for)

    def taught(self, targets: Mapping[str, Target]) -> dict[str, Output]:
        """What each teacher computed for targets, by its role and name."""
        return {
            f"{teacher.role} {teacher.name}": output
            for name, target in targets.items()
            for teacher, output in zip(self.sources[name].teachers, target.teachers, strict=True)
        }

    def student_pixels(self, batch: Batch, epoch: int) -> Tensor:
        """The student's input for the same views."""
        views = self.augmentation.draw(self.config.train.seed, epoch, batch.index_B)
        student = self.student
        return render_batch(batch, views, student.size, student.mean, student.std)

    def training_batches(self, epoch: int, groups: list[Tensor]) -> Iterator[Batch]:
        """The training images of each step of an epoch, rendered for the networks that need them."""
        training = self.stores.training
        assert training is not None

        def view(place: int) -> Views:
            return self.augmentation.draw(self.config.train.seed, epoch, groups[place])

        def sizes(place: int) -> tuple[int, ...]:
            return self._sizes(groups[place], view(place))

        return training.batches(groups, Lazy(view, len(groups)), Lazy(sizes, len(groups)))

    def _sizes(self, index_B: Tensor, views: Views) -> tuple[int, ...]:
        """Input sizes of the student and of the teachers whose outputs for these views are not stored."""
        sizes = [self.student.size]
        for teacher in self.teachers:
            stored = bool(teacher.caches) and teacher not in self.mapped_teachers
            if not (stored and not teacher.lacks("train", index_B, views)):
                sizes += _sizes_of(teacher)
        return tuple(dict.fromkeys(sizes))

    def build_objective(self) -> Objective:
        """The objective with fresh state, a function of the run's seed."""
        shapes = {name: _shapes_of(source, self.specs, name) for name, source in self.sources.items()}
        maps = self.student.map_shapes() if "maps" in needs_of(self.specs) else ()
        return Objective(
            self.specs,
            NetworkShapes(self.student.feature_width, maps),
            shapes,
            self.data.splits["train"].labels_N,
            len(self.data.class_names),
            self.config.train.seed,
        )

    def order(self) -> TrainingOrder:
        """Which images make up each step, over all processes."""
        return order_of(self.config, self.data)

    def exchange_caches(self) -> None:
        """Let all processes read the teacher outputs that each has stored."""
        for teacher in self.teachers:
            teacher.exchange()

    def flush_caches(self) -> None:
        """Write outputs that are not yet in the teacher cache on disk."""
        for teacher in self.teachers:
            teacher.flush()


def assemble(
    config: Config,
    device: torch.device,
    log: Log = lambda message: None,
    speeds: Mapping[str, dict[str, Any]] | None = None,
    factors: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    fusions: ByLabel | None = None,
) -> Parts:
    """Open and build everything that a run needs.

    Args:
        config: the settings.
        device: where student and teachers run.
        log: receives what was found and fitted, a line at a time.
        speeds: measure how networks are computed fastest, except for these, whose choice is known. None
            measures nothing, for callers that do not train.
        factors: those of the run that is resumed or evaluated, which are not fitted again.
        fusions: settings of the fusions, if they are not those of ``config``.

    Raises:
        RichKDError: whatever does not exist, cannot be read or does not fit, by name.
    """
    specs = read_objective(config)
    roles = assign_roles(config, specs)
    refuse_unused(config, specs, roles)
    settings = fusions or by_label(config)
    refuse_ambiguous(settings, specs, [n for n in roles.targets if len(roles.vision[n]) + roles.clip[n] > 1])
    read_effects(config.augment)  # refuses a policy that timm does not know, before data are opened
    data = open_run_data(config, log)
    student = build_student(config, data)
    log_resizing(student, "student", log)
    if student.loaded is not None:
        log(f"student: starts from {config.student.weights}: {student.loaded}")
    features = "features" in needs_of(specs)
    chooser = _speed_chooser(config, data, device, log, speeds)
    opening = Opening(config, data, device, features, log, chooser, _read_of(specs, roles, "features"))
    networks = open_networks(opening, vision=bool(roles.targets), clip=roles.needs_clip)
    student = with_reused_classifier(student, specs, roles, networks.vision, config.train.seed, log)
    # Measured after the teachers were opened, so that a wrong one is refused at once.
    precision, compiling = config.train.precision, config.train.compile
    speed = chooser.choose("student", student, precision, compiling, trained=True)
    sizes = [size for teacher in networks if teacher is not None for size in _sizes_of(teacher)]
    stores, training = open_stores(
        data.splits,
        config.data,
        config.augment,
        student.framing,
        sizes,
        workers=config.train.workers,
        device=device,
    )
    fitted: Factors = {}
    sampling = sampling_of(stores, training, lambda: order_of(config, data), device)
    sharpener = Sharpener(config, settings, specs, sampling, log, factors, fitted)
    sources = _open_sources(opening, networks, stores, training, roles, sharpener)
    for name, source in sources.items():
        _shapes_of(source, specs, name)  # refuses maps that a teacher does not have
    return Parts(
        config, data, stores, student, specs, sources, training, device, speed, chooser.chosen, fitted
    )


def _speed_chooser(
    config: Config, data: Data, device: torch.device, log: Log, known: Mapping[str, dict[str, Any]] | None
) -> SpeedChooser:
    steps = order_of(config, data).steps * config.train.epochs if "train" in data.splits else 0
    size = -(-config.train.batch_size // world())
    return SpeedChooser(steps, size, device, known is not None, dict(known or {}), log)


def build_student(config: Config, data: Data) -> Network:
    """The student, initialized from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return build_network(config.student, len(data.class_names), role="student", new_classifier=True)


def _open_sources(
    opening: Opening,
    networks: Networks,
    stores: Stores,
    augmentation: Augmentation,
    roles: Roles,
    sharpener: Sharpener,
) -> dict[str, TargetSource]:
    config, log, specs = opening.config, opening.log, sharpener.specs
    fitter = Fitter(config, sharpener.settings, stores, opening.device, opening.features, log)
    mapped = _read_of(specs, roles, "maps")
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


def _read_of(specs: Sequence[TermSpec], roles: Roles, need: Need) -> frozenset[int]:
    """Positions of the vision teachers of which a term reads features, or maps."""
    places = (places for name, places in roles.vision.items() if need in needs_of(specs, name))
    return frozenset(itertools.chain.from_iterable(places))


def _sizes_of(teacher: Teacher) -> list[int]:
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


def _shapes_of(source: TargetSource, specs: Sequence[TermSpec], target: str) -> tuple[NetworkShapes, ...]:
    if "maps" not in needs_of(specs, target):
        return tuple(NetworkShapes(teacher.feature_width) for teacher in source.teachers)
    shapes = []
    for teacher in source.teachers:
        if teacher.network is None:
            labels = [s.label for s in specs if s.target == target and "maps" in s.term.needs]
            raise ConfigError(
                f"Term objective.{labels[0]} reads intermediate maps, which are not stored with outputs",
                got=f"teacher {teacher.name}, which is no single network",
                fix="give the network itself with --teacher, or remove the term.",
            )
        network, maps = teacher.network, teacher.network.map_shapes()
        ends, classifier = stage_ends(network), map_classifier(network)
        shapes.append(NetworkShapes(teacher.feature_width, maps, ends.norms, ends.averaged, classifier))
    return tuple(shapes)
