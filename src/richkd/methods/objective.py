"""The objective: the list of terms that the student minimizes, read from the settings, and as one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from richkd.config.choices import TERMS
from richkd.config.loading import OBJECTIVE_FIX, OBJECTIVE_FORM, explain, first_error
from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.core.processes import gather_rows
from richkd.core.seeds import mix_seed
from richkd.core.types import Batch, LossTerms, Output, Targets
from richkd.data.mixup import Mix
from richkd.data.shares import Share
from richkd.methods.annealing import annealed
from richkd.methods.presets import DEFAULT_VARIANT, preset_of
from richkd.methods.standardize import (
    SETTING,
    check_standardized,
    standardized_output,
    standardized_target,
)
from richkd.methods.term import Context, LogitConfig, Need, NetworkShapes, Setup, Term, TermConfig
from richkd.methods.view import View
from richkd.models.joint_batch import JointBatch

# The key of an entry that names its term, where its label is another word.
TERM = "term"
LABELS = "labels"
# Labels are names of submodules; these names are taken.
TAKEN = nn.ModuleDict()


@dataclass(frozen=True)
class TermSpec:
    """A term of the objective before it is built.

    Attributes:
        label: its name in logs and settings; the term's own name unless the settings give another.
        name: the registered name of the term.
        term: the registered class.
        config: its settings.
        target: what it compares the student with; ``"labels"`` for a term that reads labels only.
    """

    label: str
    name: str
    term: type[Term]
    config: TermConfig
    target: str

    @property
    def standardized(self) -> bool:
        """Whether the term gets z-scores of logits."""
        return isinstance(self.config, LogitConfig) and self.config.standardize


def read_objective(config: Config) -> tuple[TermSpec, ...]:
    """The terms that the settings ask for, in order.

    A list under ``objective`` is the whole objective. A mapping changes settings of the method's terms, and
    adds the terms that the method does not have.

    Raises:
        ConfigError: an unknown method, term or setting, or a value that a setting does not take; a list
            together with a method.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}, "method": {"name": "kd"}}
        >>> config = Config.model_validate(base | {"objective": {"kd": {"temperature": 2}, "at": None}})
        >>> [(spec.label, spec.target) for spec in read_objective(config)]
        [('ce', 'labels'), ('kd', 'teacher'), ('at', 'fused')]
        >>> read_objective(config)[1].config.temperature
        2.0
    """
    entries = _entries(config)
    specs = tuple(_spec(label, dict(settings or {})) for label, settings in entries.items())
    if not specs:
        raise ConfigError("The objective must have at least one term", got="none", fix="add {ce: {}}.")
    return specs


def _entries(config: Config) -> dict[str, dict[str, Any]]:
    given = config.objective
    if isinstance(given, Mapping):
        terms = preset_of(config.method).terms
        return {label: terms.get(label, {}) | (given.get(label) or {}) for label in {**terms, **given}}
    if config.method.name is not None or config.method.variant is not None:
        raise ConfigError(
            "A list of terms under objective is the whole objective, so no method may be named",
            got=f"method {config.method.name or config.method.variant} and objective with {len(given)} terms",
            fix="remove the method, or write objective as a mapping that changes the method's terms.",
        )
    entries: dict[str, dict[str, Any]] = {}
    for entry in given:
        if len(entry) != 1:
            raise ConfigError(
                f"Setting 'objective' must be {OBJECTIVE_FORM}", got=repr(entry), fix=OBJECTIVE_FIX
            )
        ((label, settings),) = entry.items()
        if label in entries:
            raise ConfigError(
                f"Every term of the objective must have its own label; '{label}' occurs twice",
                fix=f"give one of them a label of its own: {label}2: {{term: {label}, …}}.",
            )
        entries[label] = settings or {}
    return entries


def _spec(label: str, settings: dict[str, Any]) -> TermSpec:
    name = str(settings.pop(TERM, label))
    term: type[Term] = TERMS[name]
    _check_label(label)
    if SETTING in settings and not (issubclass(term.Config, LogitConfig) and "logits" in term.needs):
        raise ConfigError(
            f"Setting 'objective.{label}.{SETTING}' belongs to terms that compare logits with a target",
            got=f"term {name}, which does not",
            fix=f"remove objective.{label}.{SETTING}.",
        )
    try:
        config = term.Config.model_validate(settings)
    except ValidationError as error:
        raise explain(first_error(error), f"objective.{label}", list(term.Config.model_fields)) from None
    return TermSpec(label, name, term, config, getattr(config, "target", LABELS))


def _check_label(label: str) -> None:
    """Refuse a label that PyTorch does not take as the name of a module."""
    if not label or "." in label or hasattr(TAKEN, label):
        raise ConfigError(
            f"Setting 'objective.{label}': the label of a term must be a name without dots that is no "
            "attribute of PyTorch's modules, such as train or type",
            got=repr(label),
            fix="use letters, digits, - and _, such as kd-soft.",
        )


def method_label(config: Config) -> str:
    """The method in a few words: its preset, or its terms where the settings change which there are.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}}
        >>> method_label(Config.model_validate(base))
        'richkd lf'
        >>> method_label(Config.model_validate(base | {"objective": [{"ce": None}, {"kd": {"weight": 1}}]}))
        'ce + kd'
    """
    specs = read_objective(config)
    if isinstance(config.objective, Mapping):
        preset = preset_of(config.method)
        if set(preset.terms) == {spec.label for spec in specs}:
            variant = config.method.variant or DEFAULT_VARIANT
            return f"{preset.name} {variant}" if preset.needs_clip else preset.name
    return " + ".join(spec.label for spec in specs)


def needs_of(specs: Sequence[TermSpec], target: str | None = None) -> frozenset[Need]:
    """What the terms read of the student, or of one target's teachers.

    Example:
        >>> config = Config.model_validate({"data": {"path": "."}, "student": {"name": "resnet18"}})
        >>> sorted(needs_of(read_objective(config)))
        ['features', 'logits']
    """
    return frozenset(need for spec in specs if target in (None, spec.target) for need in spec.term.needs)


def reads_teachers_only(specs: Sequence[TermSpec], target: str) -> bool:
    """Whether terms read the logits of a target's teachers one by one, and none reads the fused logits.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}}
        >>> config = Config.model_validate(base | {"method": {"name": "aver"}})
        >>> reads_teachers_only(read_objective(config), "teacher")
        True
    """
    needs = needs_of(specs, target)
    return "teacher-logits" in needs and "logits" not in needs


def softening_terms(specs: Sequence[TermSpec], target: str) -> tuple[TermSpec, ...]:
    """The terms that read the fused logits of a target on their own scale, so not as z-scores.

    Example:
        >>> config = Config.model_validate({"data": {"path": "."}, "student": {"name": "resnet18"}})
        >>> [spec.label for spec in softening_terms(read_objective(config), "fused")]
        ['kd']
    """
    return tuple(
        spec
        for spec in specs
        if spec.target == target and "logits" in spec.term.needs and not spec.standardized
    )


def logit_temperature(specs: Sequence[TermSpec], default: float = 1.0) -> float:
    """The temperature of the first term that softens a target's logits, or ``default`` without such a term.

    Example:
        >>> config = Config.model_validate({"data": {"path": "."}, "student": {"name": "resnet18"}})
        >>> logit_temperature(read_objective(config))
        3.0
    """
    for spec in specs:
        if spec.target == LABELS:
            continue
        if "logits" in spec.term.needs:
            return float(getattr(spec.config, "temperature", 1.0))
        # Terms may read the logits of teachers for weights only, without softening them.
        if "teacher-logits" in spec.term.needs and hasattr(spec.config, "temperature"):
            return float(spec.config.temperature)
    return default


class Objective(nn.Module):
    """All terms as one module: their state, their weighted losses, and mixup or CutMix.

    Args:
        specs: the terms.
        student: shapes of the student's outputs.
        teachers: shapes of each target's teachers, by target.
        labels_N: labels of the training images.
        classes: number of classes.
        seed: seed of the run.

    Example:
        >>> settings = {"data": {"path": "."}, "student": {"name": "resnet18"}, "objective": [{"ce": None}]}
        >>> specs = read_objective(Config.model_validate(settings))
        >>> labels_B = torch.tensor([1, 0])
        >>> objective = Objective(specs, NetworkShapes(features=8), {}, labels_B, classes=2, seed=0)
        >>> student = Output(torch.zeros(2, 2), torch.zeros(2, 8))
        >>> batch = Batch("train", torch.arange(2), torch.zeros(2, 4, 4, 3), labels_B)
        >>> losses = objective(student, {}, batch, Context())
        >>> round(float(losses.terms["ce"]), 4)  # ln 2
        0.6931
    """

    def __init__(
        self,
        specs: Sequence[TermSpec],
        student: NetworkShapes,
        teachers: Mapping[str, tuple[NetworkShapes, ...]],
        labels_N: Tensor,
        classes: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.specs = {spec.label: spec for spec in specs}
        self.needs = needs_of(specs)
        self.terms = nn.ModuleDict()
        for spec in specs:
            if spec.standardized:
                check_standardized(spec.label, classes)
            term_seed = mix_seed(seed, spec.term.stream or spec.label)
            setup = Setup(student, teachers.get(spec.target, ()), labels_N, classes, term_seed)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(term_seed)
                self.terms[spec.label] = spec.term(spec.config, setup)

    def forward(
        self,
        student: Output,
        targets: Targets,
        batch: Batch,
        context: Context,
        mix: Mix | None = None,
        share: Share | None = None,
    ) -> LossTerms:
        """Every term's weighted loss for a batch; with ``mix``, the student saw mixed images.

        With a ``share`` of several processes, a loss is this process's summand of the loss of all images, and
        the rows to remember are those of all images.
        """
        here = View(student, targets, batch, context, mix)
        divided = share if share is not None and share.divided else None
        seeing_all = [label for label in self.terms if divided and self._sees_all(label, context)]
        joint = here.gathered(divided, *self._read_of(seeing_all)) if divided and seeing_all else here
        values: dict[str, Tensor] = {}
        memory: dict[str, dict[str, Tensor]] = {}
        for label in self.terms:
            if divided is None:
                values[label], rows = self._loss(label, here)
            elif label in seeing_all:
                # All processes compute the same loss, so each has an equal part of it.
                value, rows = self._loss(label, joint)
                values[label] = value / len(divided.sizes)
            else:
                with JointBatch(divided):
                    value, rows = self._loss(label, here)
                values[label] = divided.weight * value
                rows = {name: gather_rows(rows_BX, divided.sizes) for name, rows_BX in rows.items()}
            if rows:
                memory[label] = rows
        return LossTerms(values, memory)

    def _sees_all(self, label: str, context: Context) -> bool:
        term = self.specs[label].term
        compares = term.least_images > 1 if term.compares_images is None else term.compares_images
        return compares or (term.looks_at_first and context.step == 0)

    def _read_of(self, labels: Sequence[str]) -> tuple[frozenset[str], bool]:
        """Targets that these terms read, and whether they read maps."""
        specs = [self.specs[label] for label in labels]
        return frozenset(spec.target for spec in specs), "maps" in needs_of(specs)

    def _loss(self, label: str, view: View) -> tuple[Tensor, dict[str, Tensor]]:
        spec, term, mix = self.specs[label], self.terms[label], view.mix
        student, batch, context = view.student, view.batch, view.context
        target = view.targets.get(spec.target)
        if mix is not None and not spec.term.linear:
            target = mix.target(target)
        if spec.standardized:
            assert target is not None
            student, target = standardized_output(student), standardized_target(target)
        loss = term(student, target, batch, context)
        weight = annealed(spec.config.weight, spec.config.annealing, context.progress)
        value: Tensor = weight * loss.value
        if mix is not None and spec.term.linear:
            partner = term(student, mix.partners(target), mix.batch(batch), context)
            value = torch.lerp(weight * partner.value, value, mix.share)
        return value, dict(loss.memory)

    def remember(self, index_B: Tensor, memory: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Hand each term the rows that it returned for these images, after the optimizer step."""
        for label, rows in memory.items():
            term = self.terms[label]
            assert isinstance(term, Term)
            term.remember(index_B, rows)
