"""From settings to parts: opens the data, builds the networks, and makes sure that they fit each other.

Everything that can be found wrong before the first step is found here, for training, ``richkd check`` and
``richkd probe`` alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from richkd.config.schema import Config
from richkd.core.logs import Log
from richkd.core.processes import on_first, world
from richkd.core.types import Batch, Output, Target
from richkd.data.effects import read_effects
from richkd.data.order import TrainingOrder
from richkd.data.split import Data
from richkd.data.stores import Stores, open_stores
from richkd.data.views import Augmentation, Views, render_batch
from richkd.data.workers import Lazy
from richkd.fusion.by_label import ByLabel, read_by_label
from richkd.fusion.fusion import Fusion
from richkd.methods.objective import (
    Objective,
    TermSpec,
    logit_temperature,
    needs_of,
    read_objective,
)
from richkd.methods.term import NetworkShapes
from richkd.models.build import Network, build_network
from richkd.models.small_maps import pad_small_maps
from richkd.models.speed import Speed, SpeedChooser
from richkd.pipeline.reuse import with_reused_classifier
from richkd.pipeline.roles import Roles, assign_roles
from richkd.pipeline.run_data import open_run_data, order_of
from richkd.pipeline.seen_images import refuse_leaking_models
from richkd.pipeline.sharpen import Factors, Sharpener, refuse_ambiguous, refuse_impossible
from richkd.pipeline.signal import sampling_of
from richkd.pipeline.sources import open_sources, read_of, shapes_of, sizes_of
from richkd.pipeline.targets import TargetSource, distinct_teachers, teach
from richkd.pipeline.teachers import Opening, log_resizing, open_networks
from richkd.pipeline.unused import refuse_unused, warn_of_endless_warmup
from richkd.teachers.base import Teacher


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
                sizes += sizes_of(teacher)
        return tuple(dict.fromkeys(sizes))

    def build_objective(self) -> Objective:
        """The objective with fresh state, a function of the run's seed."""
        shapes = {name: shapes_of(source, self.specs, name) for name, source in self.sources.items()}
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
    settings = fusions or read_by_label(config)
    _check_settings(config, specs, roles, settings, log)
    data = open_run_data(config, log)
    refuse_impossible(config.fusion, len(data.class_names))
    # One process reads the files of held-out images, and the others wait.
    on_first(lambda: refuse_leaking_models(config, data, log))
    student = _open_student(config, data, log)
    features = "features" in needs_of(specs)
    chooser = _speed_chooser(config, data, device, log, speeds)
    opening = Opening(config, data, device, features, log, chooser, read_of(specs, roles, "features"))
    networks = open_networks(opening, vision=bool(roles.targets), clip=roles.needs_clip)
    student = with_reused_classifier(student, specs, roles, networks.vision, config.train.seed, log)
    # Measured after the teachers were opened, so that a wrong one is refused at once.
    train = config.train
    speed = chooser.choose("student", student, train.precision, train.compile, trained=True)
    sizes = [size for teacher in networks if teacher is not None for size in sizes_of(teacher)]
    stores, training = open_stores(
        data.splits, config.data, config.augment, student.framing, sizes, workers=train.workers, device=device
    )
    fitted: Factors = {}
    sampling = sampling_of(stores, training, lambda: order_of(config, data), device)
    sharpener = Sharpener(config, settings, specs, sampling, log, factors, fitted)
    sources = open_sources(opening, networks, stores, training, roles, sharpener)
    for name, source in sources.items():
        shapes_of(source, specs, name)  # refuses maps that a teacher does not have
    return Parts(
        config, data, stores, student, specs, sources, training, device, speed, chooser.speeds, fitted
    )


def _check_settings(
    config: Config, specs: Sequence[TermSpec], roles: Roles, fusions: ByLabel, log: Log
) -> None:
    """Refuse what can be found wrong before data are opened."""
    refuse_unused(config, specs, roles)
    warn_of_endless_warmup(config, log)
    fused = [name for name in roles.targets if len(roles.vision[name]) + roles.clip[name] > 1]
    refuse_ambiguous(fusions, specs, fused)
    read_effects(config.augment)  # refuses a policy that timm does not know


def _open_student(config: Config, data: Data, log: Log) -> Network:
    student = build_student(config, data)
    log_resizing(student, "student", log)
    if student.loaded is not None:
        log(f"student: starts from {config.student.weights}: {student.loaded}")
    return student


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
        student = build_network(config.student, len(data.class_names), role="student", new_classifier=True)
    pad_small_maps(student)
    return student
