"""``fusion.entropy``: give a fused target another entropy by a factor, which is fitted once and then kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from richkd.config.entropy import MATCH_TEACHER, OWN
from richkd.config.schema import Config, FusionConfig
from richkd.core.checksums import check_hashes
from richkd.core.errors import CheckpointError, ConfigError, DataError
from richkd.core.logs import Log
from richkd.core.structured import read_json
from richkd.fusion.by_label import ALL, ByLabel, setting_of
from richkd.fusion.entropy import check_nats, fit_factor, mean_entropy
from richkd.methods.objective import TermSpec, softening_terms
from richkd.pipeline.signal import Sample, Sampling, teacher_entropy
from richkd.pipeline.targets import TargetSource, of_kind

# The record of the factors in a run folder.
FACTORS = "factors.json"
# Factor by kind of training images, by target; that of a control has a name of its own.
Factors = dict[str, dict[str, float]]


@dataclass
class Sharpener:
    """Gives targets the entropy that the settings ask for.

    Attributes:
        settings: those of the fusions, by kind of training images.
        sampling: computes the outputs of a target's teachers for the first training views.
        known: factors of the run that is resumed or evaluated, which are not fitted again.
        factors: all factors that were fitted or kept.
    """

    config: Config
    settings: ByLabel
    specs: Sequence[TermSpec]
    sampling: Sampling
    log: Log
    known: Mapping[str, Mapping[str, float]]
    factors: Factors

    def sharpened(self, name: str, source: TargetSource) -> TargetSource:
        """The target with the entropies of the settings.

        Raises:
            ConfigError: no factor gives an entropy.
            DataError: no training view has the fusion.
        """
        wanted = {kind: entropy for kind, entropy in self.wanted(source).items() if entropy != OWN}
        if len(source.teachers) < 2 or not wanted or not softening_terms(self.specs, name):
            return source
        sample = None if self._knows(name, wanted) else self.sampling(source)
        temperature = entropy_temperature(self.specs, name)
        fusions = dict(source.fusions)
        for kind, entropy in wanted.items():
            if sample is None:
                factor = self._keep(name, kind)
            else:
                nats = self._nats(kind, entropy, source, sample, temperature)
                factor = self._fit(name, kind, source, sample, temperature, nats)
            origin = f"{fusions[kind].origin}; factor {factor:.4g} for entropy {_in_words(entropy)}"
            fusions[kind] = replace(fusions[kind], factor=factor, origin=origin)
        return source.with_fusions(fusions, source.teachers)

    def matched(self, name: str, alone: TargetSource, source: TargetSource) -> TargetSource:
        """The target of a control with the entropies of the target that it replaces, where these are set.

        Args:
            alone: the target of the control.
            source: the target that it replaces.
        """
        kinds = [kind for kind, entropy in self.wanted(source).items() if entropy != OWN]
        if not kinds or not softening_terms(self.specs, name):
            return alone
        record, temperature = f"{name}, control", entropy_temperature(self.specs, name)
        known = self._knows(record, kinds)
        fusions = dict(alone.fusions)
        sample = None if known else self.sampling(source)
        control = None if sample is None else replace(sample, outputs=_outputs_of(alone, source, sample))
        for kind in kinds:
            if sample is None or control is None:
                factor = self._keep(record, kind)
            else:
                among_N = of_kind(kind, sample.labels_N)
                nats = mean_entropy(sample.target(source).logits_BC[among_N], temperature)
                factor = self._fit(record, kind, alone, control, temperature, nats)
            origin = f"{fusions[kind].origin}; factor {factor:.4g} for the same entropy"
            fusions[kind] = replace(fusions[kind], factor=factor, origin=origin)
        return alone.with_fusions(fusions, alone.teachers)

    def wanted(self, source: TargetSource) -> dict[str, str | float]:
        """``fusion.entropy`` for each kind of training images."""
        return {kind: self.settings.of(kind).entropy for kind in source.fusions}

    def _knows(self, name: str, kinds: Sequence[str] | Mapping[str, Any]) -> bool:
        return all(kind in self.known.get(name, {}) for kind in kinds)

    def _keep(self, name: str, kind: str) -> float:
        factor = self.known[name][kind]
        self.factors.setdefault(name, {})[kind] = factor
        self.log(f"entropy of target {name}{_images(kind)}: factor {factor:.4g}, as the run began")
        return factor

    def _fit(
        self, name: str, kind: str, source: TargetSource, sample: Sample, temperature: float, nats: float
    ) -> float:
        among_N = of_kind(kind, sample.labels_N)
        if not bool(among_N.any()):
            raise DataError(
                f"Setting '{self._setting(kind)}' is fitted on the first {len(among_N):,} training views",
                got=f"none of them is of the {kind} images",
                fix=f"set data.unlabeled_fraction, or fusion.{kind}.entropy own.",
            )
        logits_NC = sample.target(source).logits_BC[among_N]
        factor = fit_factor(logits_NC, temperature, nats, self._setting(kind))
        self.factors.setdefault(name, {})[kind] = factor
        before = mean_entropy(logits_NC, temperature)
        self.log(
            f"entropy of target {name}{_images(kind)}: {before:.4g} nats; factor {factor:.4g} makes it "
            f"{nats:.4g} nats, at temperature {temperature:g} on {int(among_N.sum()):,} training views"
        )
        return factor

    def _nats(
        self, kind: str, entropy: str | float, source: TargetSource, sample: Sample, temperature: float
    ) -> float:
        if entropy != MATCH_TEACHER:
            return float(entropy)
        if not bool(of_kind(kind, sample.labels_N).any()):
            return math.nan  # refused where the factor is fitted
        nats = teacher_entropy(source, sample, kind, temperature)
        assert nats is not None
        return nats

    def _setting(self, kind: str) -> str:
        return setting_of(self.config.fusion, kind, "entropy")


def refuse_impossible(fusion: FusionConfig, classes: int) -> None:
    """Refuse an entropy that no target of this many classes has, before any model is opened.

    Raises:
        ConfigError: names the setting.
    """
    groups = {"fusion": fusion, "fusion.labeled": fusion.labeled, "fusion.unlabeled": fusion.unlabeled}
    for name, group in groups.items():
        if group is not None and isinstance(group.entropy, float):
            check_nats(group.entropy, classes, f"{name}.entropy")


def entropy_temperature(specs: Sequence[TermSpec], target: str) -> float:
    """The one temperature at which terms read the fused logits of a target.

    Raises:
        ConfigError: there are several, or it changes during training.
    """
    temperatures: dict[str, tuple[float, ...]] = {}
    for spec in softening_terms(specs, target):
        if hasattr(spec.config, "min_temperature"):
            raise ConfigError(
                "fusion.entropy needs a temperature at which the entropy of the target is measured",
                got=f"term objective.{spec.label}, whose temperature is trained",
                fix="set fusion.entropy own, or remove the term.",
            )
        given = getattr(spec.config, "temperatures", None) or (getattr(spec.config, "temperature", 1.0),)
        temperatures[spec.label] = tuple(float(value) for value in given)
    values = {value for given in temperatures.values() for value in given}
    if len(values) == 1:
        return values.pop()
    listed = ", ".join(f"objective.{label} {', '.join(map(str, v))}" for label, v in temperatures.items())
    raise ConfigError(
        f"fusion.entropy needs one temperature at which all terms read target {target}",
        got=listed or "no term that reads its logits",
        fix="give the terms the same temperature, or set fusion.entropy own.",
    )


def refuse_ambiguous(settings: ByLabel, specs: Sequence[TermSpec], several: Sequence[str]) -> None:
    """Refuse an entropy of targets that are read at several temperatures, before any data are opened.

    Args:
        several: the targets with several teachers.

    Raises:
        ConfigError: see `entropy_temperature`.
    """
    asked = {settings.main.entropy, OWN if settings.labeled is None else settings.labeled.entropy} - {OWN}
    for name in several if asked else ():
        if softening_terms(specs, name):
            entropy_temperature(specs, name)


def read_factors(run: Path) -> Factors:
    """The recorded factors of a run; none if it has no record, because it sets no entropy.

    Raises:
        CheckpointError: the record is not as the run wrote it.
    """
    path = run / FACTORS
    if not path.exists():
        return {}
    fix = "restore it, or remove it to fit the factors again."
    check_hashes(run, [FACTORS], CheckpointError, fix)
    try:
        recorded = read_json(path)
        factors = {str(n): {str(k): float(f) for k, f in kinds.items()} for n, kinds in recorded.items()}
        if all(0 < factor < math.inf for kinds in factors.values() for factor in kinds.values()):
            return factors
        got = "a factor that is not positive"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        got = str(error)
    raise CheckpointError(f"{path} must hold the factors of the fused targets", got=got, fix=fix)


def _outputs_of(alone: TargetSource, source: TargetSource, sample: Sample) -> list[Any]:
    """The outputs of the teachers of a control, from those of all teachers."""
    by_teacher = dict(zip(map(id, source.teachers), sample.outputs, strict=True))
    return [by_teacher[id(teacher)] for teacher in alone.teachers]


def _images(kind: str) -> str:
    return "" if kind == ALL else f", {kind} images"


def _in_words(entropy: str | float) -> str:
    return entropy if isinstance(entropy, str) else f"{entropy:g} nats"
