"""A search before a run: its method, plain KD and the control are tuned, and the best is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from richkd.compare.merging import is_fused
from richkd.compare.queue import Start
from richkd.config.resumed import SETTINGS, resumed_config
from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.core.presence import exists
from richkd.core.structured import parse_yaml
from richkd.core.terminal import Terminal
from richkd.methods.objective import read_objective
from richkd.methods.presets import DEFAULT_METHOD
from richkd.training.run_folder import RunFolder
from richkd.tune.pages import print_table
from richkd.tune.plan import Budget, TunePlan, of_plan
from richkd.tune.results import SearchResult
from richkd.tune.run import TuneResult, search

KD, CONTROL, USER_METHOD = "kd", "control", "own"
UNITS = {"s": 1 / 60, "m": 1.0, "h": 60.0}
# What the plan of a search gives, instead of the settings that all methods share.
FROM_PLAN = ("method", "objective", "out")


def tuned(
    config: Config,
    minutes: float,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Terminal | None = None,
    start: Start | None = None,
) -> Config:
    """The settings with which a run starts after a search.

    The run's own method, plain KD and, for a fused target, its control (the teacher alone at the nearest
    temperature) have the same budget. The one with the best accuracy on the validation images wins; of equal
    ones the simpler. The folder ``OUT-tune`` has the search. A run that has begun keeps its settings.

    Args:
        config: the settings of the run, which are the first trial.
        minutes: for each of these methods.
        resume, overwrite: as of :func:`~richkd.training.run.distill`.
        console: where to print; by default standard output.
        start: how processes start; see `run_queue`.

    Raises:
        RichKDError: the run cannot start in its folder, or see :func:`~richkd.tune.run.search`.
        Interrupted: a signal came; the same command goes on with the search.
    """
    console = console or Terminal()
    folder = RunFolder(config.out)
    if resume and exists(config.out / SETTINGS):
        console.print(f"the run in {config.out} has begun, and keeps its settings", soft_wrap=True)
        return resumed_config(None, {"out": str(config.out)})
    folder.accept(config, resume=resume, overwrite=overwrite)
    out = config.out.with_name(f"{config.out.name}-tune")
    plan = TunePlan(
        base=_shared(config),
        methods=candidates(config),
        epochs=config.train.epochs,
        budget=Budget(minutes=minutes),
        seed=config.train.seed,
        cache=_cache(config, out),
    )
    result = search(of_plan(plan, out.name, {}), out, console=console, start=start)
    assert result is not None
    print_table(result.methods, result.metric, out, console)
    best = _best(result)
    assert best.config is not None
    others = [one.method.name for one in result.methods if one.best and one.best_value == best.best_value]
    equal = f", as many as for {' and '.join(others[1:])}; it is the simplest" if len(others) > 1 else ""
    console.print(
        f"the run trains {best.method.name}: right for {best.best_value:.2%} of the validation images, which "
        f"chose it{equal} ({out / 'tune.html'})",
        soft_wrap=True,
    )
    return best.config.model_copy(update={"out": config.out})


def minutes_of(text: str) -> float:
    """Minutes from a text such as ``10m``, ``1.5h`` or ``90s``; a number alone is minutes.

    Raises:
        ConfigError: the text is no duration.

    Example:
        >>> minutes_of("10m"), minutes_of("1.5h"), minutes_of("90s"), minutes_of("3")
        (10.0, 90.0, 1.5, 3.0)
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smh]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise ConfigError(
            "Option --tune must be a time", got=repr(text[:50]), fix="write --tune 10m, 1.5h or 90s."
        )
    return float(match[1]) * UNITS[match[2] or "m"]


def candidates(config: Config) -> dict[str, Any]:
    """The methods of a search, the simplest first, as in a plan.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}}
        >>> both = {"teachers": [{"name": "resnet50"}], "clip": {"name": "ViT-B-32:openai"}}
        >>> list(candidates(Config.model_validate(base | both)))
        ['kd', 'control', 'richkd']
        >>> list(candidates(Config.model_validate(base | {"method": {"name": "ce"}})))
        ['ce']
        >>> fused = {"method": {"name": "kd"}, "objective": {"kd": {"target": "fused"}}}
        >>> list(candidates(Config.model_validate(base | both | fused)))
        ['kd', 'control', 'own']
    """
    name = config.method.name or DEFAULT_METHOD
    if isinstance(config.objective, Mapping):
        method = {"name": name} | config.method.model_dump(mode="json", exclude_none=True)
        settings: dict[str, Any] = {"method": method, "objective": config.objective}
    else:
        name, settings = USER_METHOD, {"objective": config.objective}
    methods: dict[str, Any] = {}
    if config.teachers and not _is_plain_kd(config):
        methods[KD] = {"method": KD}
        name = USER_METHOD if name == KD else name
    if is_fused(config) and config.fusion.control is None:
        methods[CONTROL] = settings | {"fusion.control": "teacher-only"}
    return methods | {name: settings}


def _is_plain_kd(config: Config) -> bool:
    return {spec.name for spec in read_objective(config)} == {"ce", KD} and config.clip is None


def _shared(config: Config) -> dict[str, Any]:
    settings = parse_yaml(config.to_yaml())
    assert isinstance(settings, dict)
    for name in FROM_PLAN:
        settings.pop(name, None)
    for section, leaf in (("train", "seed"), ("train", "epochs"), ("cache", "dir")):
        settings.get(section, {}).pop(leaf, None)
    # An empty section would be a setting of its own.
    return {name: value for name, value in settings.items() if value not in ({}, [])}


def _cache(config: Config, out: Path) -> Path | None:
    """The teacher cache of the search, where views repeat."""
    repeats = config.augment.policy == "crop-flip" or config.augment.num_views is not None
    default = out / "cache" if repeats and config.teachers else None
    return config.cache.dir or default


def _best(result: TuneResult) -> SearchResult:
    finished = [one for one in result.methods if one.best is not None]
    if not finished:
        raise ConfigError(
            "A run of the search must finish",
            got="none did",
            fix=f"see {result.out / 'logs'}, or train without --tune.",
        )
    return max(finished, key=lambda one: one.best_value)
