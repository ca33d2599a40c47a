"""The objective of a recipe for a training loop of the user's own: plain PyTorch, Lightning, Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from richkd.core.errors import ConfigError
from richkd.core.types import Batch, LossTerms, Output, Target
from richkd.fusion.fuse import fuse
from richkd.fusion.fusion import Fusion
from richkd.fusion.held_out import HeldOut
from richkd.fusion.presets import needs_held_out
from richkd.loops.batches import Batches, device_of, parts_of
from richkd.loops.models import CLIP, STUDENT, AnyModel, adapted, shapes_of
from richkd.loops.settings import (
    check_features,
    check_steps,
    known_labels,
    members_of,
    positions,
    refuse_new_students,
    settings_of,
)
from richkd.methods.objective import Objective, needs_of, read_objective
from richkd.methods.term import Context, NetworkShapes
from richkd.pipeline.roles import assign_roles
from richkd.pipeline.targets import logs_of


class Distiller(nn.Module):
    """Student, teachers and loss terms as one module; calling it gives the losses of a batch.

    Its parameters are those of the student and of the terms, such as projections of features. All models see
    the pixels of the loop; a teacher that needs another size or normalization is a function that converts
    them first. Teachers are evaluated without gradients. They are moved along with the module, but are no
    part of its state. A training that is resumed restores the state and the attribute ``step``.

    Args:
        student: the model that is trained.
        teachers: vision teachers: modules, or functions from pixels (B, 3, H, W) to logits (B, C).
        clip: a CLIP in the same form, whose logits are cosines.
        clip_scale: factor that turns the cosines into logits, exp(logit_scale) of the model.
        classes: number of classes.
        size: height and width of the images.
        method: name of the method; by default ``richkd`` with a CLIP, and ``kd`` without.
        objective: settings of terms, or a list of terms, as under ``objective`` of a recipe.
        fusion: settings as under ``fusion`` of a recipe: ``preset``, ``scale``, ``mixing``, ``alpha``,
            ``feature_alpha`` and ``weights``. By default the fixed shares of the paper; other presets are
            fitted on held-out images by `fit`.
        labels: the class of each training image, for terms that keep a row for each of them.
        steps: number of optimizer steps of the training, for terms that change during it: with ``warmup``,
            ``annealing`` or ``curriculum``. `richkd.loops.loop.train` sets it from the length of the loader.
        seed: seed of the terms' random numbers.

    Raises:
        ConfigError: unknown settings, settings of a run that a distiller does not read, a term whose teachers
            are not given, or one that needs ``labels``.
        ModelError: a model cannot process such images, or lacks what a term reads.

    Example:
        >>> student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)) for _ in range(2))
        >>> distiller = Distiller(student, [teacher], classes=5, size=2, objective={"kd": {"temperature": 4}})
        >>> optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
        >>> losses = distiller(torch.rand(8, 3, 2, 2), torch.arange(8) % 5)
        >>> losses.total.backward()
        >>> optimizer.step()
        >>> distiller.after_step()
        >>> sorted(losses.terms)
        ['ce', 'kd']
    """

    def __init__(
        self,
        student: AnyModel,
        teachers: Sequence[AnyModel] = (),
        *,
        clip: AnyModel | None = None,
        clip_scale: float = 100.0,
        classes: int,
        size: int,
        method: str | None = None,
        objective: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        fusion: Mapping[str, Any] | None = None,
        labels: Tensor | Sequence[int] | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        config = settings_of(len(teachers), clip is not None, method, objective, fusion)
        self.specs = read_objective(config)
        refuse_new_students(self.specs)
        if steps is not None:
            check_steps(steps, self.specs)
        self._roles, self._steps, self._seed = assign_roles(config, self.specs), steps, seed
        self.student = adapted(student, STUDENT, size)
        everyone = [
            *((f"teacher {n}", t) for n, t in enumerate(teachers, 1)),
            *([(CLIP, clip)] if clip is not None else []),
        ]
        # A tuple, so that the teachers are no part of the state that is trained and saved.
        self._teachers = tuple((name, adapted(model, name, size).eval()) for name, model in everyone)
        self._scales = [1.0] * len(teachers) + [clip_scale] * (clip is not None)
        self._fusion = config.fusion
        self._fusions: dict[str, Fusion] = {}
        if not needs_held_out(config.fusion):
            self._fuse(None)
        self.objective = self._build(classes, size, known_labels(labels, self.specs))
        self.step = 0
        # Images since the last step of the optimizer: with gradient accumulation, a step has several batches.
        self._images = 0
        self._remembered: list[tuple[Tensor, LossTerms]] = []

    def forward(self, pixels_B3HW: Tensor, labels_B: Tensor, index_B: Tensor | None = None) -> LossTerms:
        """The losses of a batch; backpropagate ``.total``.

        Args:
            pixels_B3HW: normalized images.
            labels_B: their classes; -1 for images without a label.
            index_B: their positions among the training images, for terms that keep a row for each.

        Raises:
            ConfigError: the fusion was not fitted, a term needs ``index_B``, or one needs ``steps``.
        """
        check_steps(self._steps, self.specs)
        student = self.student(pixels_B3HW, "maps" in self.objective.needs)
        batch = Batch("train", positions(index_B, labels_B, self.specs), pixels_B3HW, labels_B)
        context = self._context(len(labels_B))
        losses: LossTerms = self.objective(student, self.targets(pixels_B3HW, labels_B), batch, context)
        if losses.memory and self.training:
            self._remembered.append((batch.index_B.to(labels_B.device), losses))
        self._images += len(labels_B) if self.training else 0
        return losses

    def targets(self, pixels_B3HW: Tensor, labels_B: Tensor) -> dict[str, Target]:
        """What the terms compare the student with, by the name of the target.

        Raises:
            ConfigError: the fusion was not fitted.
        """
        if self._roles.vision and not self._fusions:
            raise ConfigError(
                f"The fusion '{self._fusion.preset}' is fitted on held-out images",
                got="no fit",
                fix="make a richkd.Distiller, call its fit(batches) with them, and then train it.",
            )
        outputs = self._outputs(pixels_B3HW, maps="maps" in self.objective.needs)
        targets = {}
        for name, members in members_of(self._roles, len(self._teachers)).items():
            selected = [outputs[member] for member in members]
            target = self._fusions[name](selected, labels_B)
            if "teacher-logits" in needs_of(self.specs, name):
                target = replace(target, logs=logs_of(selected, [self._scales[member] for member in members]))
            targets[name] = target
        return targets

    def fit(self, batches: Batches) -> None:
        """Fit the fusion on held-out images, which no teacher was trained on.

        Args:
            batches: as in `richkd.loops.loop.train`; positions of images are not read.

        Raises:
            DataError: there are no images, a batch has another form, or outputs of a teacher are not finite.
        """
        logits: list[list[Tensor]] = [[] for _ in self._teachers]
        labels: list[Tensor] = []
        for batch in batches:
            pixels_B3HW, labels_B, _ = parts_of(batch, device_of(self))
            for rows, output in zip(logits, self._outputs(pixels_B3HW), strict=True):
                rows.append(output.logits_BC.float().cpu())
            labels.append(labels_B.cpu())
        together = [torch.cat(rows) if rows else torch.empty(0, 1) for rows in logits]
        labels_N = torch.cat(labels) if labels else torch.empty(0, dtype=torch.int64)
        self._fuse(HeldOut([name for name, _ in self._teachers], together, labels_N, "held-out images"))

    def plan(self, steps: int | None) -> None:
        """Set the number of optimizer steps of the whole training, unless it was given before.

        Raises:
            ConfigError: a term changes during the training, and the number is not known.
        """
        self._steps = self._steps or steps or None
        # Without any batch there are no steps, which the loop refuses by itself.
        if steps != 0:
            check_steps(self._steps, self.specs)

    def after_step(self) -> None:
        """Let the terms remember what they asked for; call it after each step of the optimizer."""
        for index_B, losses in self._remembered:
            self.objective.remember(index_B, losses.memory)
        self._remembered, self._images = [], 0
        self.step += 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        """What `to`, `cuda` and `double` do with every tensor; the teachers are no submodules."""
        for _, teacher in self._teachers:
            teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _context(self, images: int) -> Context:
        """Where training is. Of a step's images, only those so far are known, so a batch is its last part."""
        progress = min(self.step / self._steps, 1.0) if self._steps else 0.0
        first, of_step = self._images, self._images + images
        return Context(step=self.step, progress=progress, first=first, of_step=of_step)

    @torch.no_grad()
    def _outputs(self, pixels_B3HW: Tensor, *, maps: bool = False) -> list[Output]:
        with_maps = {
            member
            for name, members in members_of(self._roles, len(self._teachers)).items()
            for member in members
            if maps and "maps" in needs_of(self.specs, name)
        }
        return [model(pixels_B3HW, n in with_maps) for n, (_, model) in enumerate(self._teachers)]

    def _fuse(self, held_out: HeldOut | None) -> None:
        for name, members in members_of(self._roles, len(self._teachers)).items():
            part = held_out and HeldOut(
                [held_out.names[m] for m in members],
                [held_out.logits[m] for m in members],
                held_out.labels_N,
                held_out.split,
            )
            scales = [self._scales[m] for m in members]
            self._fusions[name] = fuse(self._fusion, scales, part, clip=self._roles.clip[name])

    def _build(self, classes: int, size: int, labels_N: Tensor) -> Objective:
        maps = "maps" in needs_of(self.specs)
        student = shapes_of(self.student, STUDENT, size, classes, maps=maps)
        teachers: dict[str, tuple[NetworkShapes, ...]] = {}
        for target, members in members_of(self._roles, len(self._teachers)).items():
            read = "maps" in needs_of(self.specs, target)
            selected = [self._teachers[member] for member in members]
            teachers[target] = tuple(
                shapes_of(model, name, size, classes, maps=read) for name, model in selected
            )
            check_features(self.specs, target, [student, *teachers[target]])
        return Objective(self.specs, student, teachers, labels_N, classes, self._seed)
