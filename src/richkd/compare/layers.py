"""The settings of a run from the parts of a plan: base, data, pair and method; later parts win.

A method has the settings of the others only as far as it reads them: a CLIP in ``base`` belongs to the
methods that read a CLIP, and ``objective.kd.temperature`` to those that have this term.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richkd.compare.named_runs import refuse_unknown_run
from richkd.compare.plan import Settings, Source
from richkd.compare.plan_file import place_of
from richkd.config.listing import section_type
from richkd.config.loading import read_recipe
from richkd.config.names import OBJECTIVE, TEACHERS, nearest_setting, setting_names
from richkd.config.schema import Config, Section
from richkd.core.errors import ConfigError, Problems, nearest
from richkd.core.structured import lines_of
from richkd.methods.presets import method_names

# What the plan itself gives.
RESERVED = {
    "train.seed": "write the seeds under seeds: (in a search, the seed as seed:)",
    "out": "write it as out: of the plan, or give --out",
    "cache.dir": "write the folder as cache: of the plan",
}
# The parts that belong to a single run or method.
SINGLE = ("first", "methods")
FOLDS, FROM_LABELS = "folds", "ce"
OF_METHODS = "write it in methods:, because it is what is compared"


@dataclass(frozen=True)
class Given:
    """A setting in a part of the plan.

    Attributes:
        value: its value.
        place: where it is written, for messages.
        part: the part: "base", "data", "pairs", "first", "methods", "space" for what a search tries, or
            "plan" for what the plan itself gives.
    """

    value: Any
    place: str
    part: str


# The settings of a part, by dotted name.
Layer = dict[str, Given]


@dataclass(frozen=True)
class Layers:
    """All parts of a plan as settings by dotted name.

    Attributes:
        folds: number of folds of the first runs that are out-of-fold teachers.
    """

    base: Layer
    first: dict[str, Layer]
    folds: dict[str, int]
    data: dict[str, Layer]
    pairs: dict[str, Layer]
    methods: dict[str, Layer]


def read_layers(source: Source) -> Layers:
    """The settings in a plan.

    Raises:
        ConfigError: settings that do not exist, or that belong to another part; all of them are listed.
    """
    plan, problems = source.plan, Problems(ConfigError)

    def layer_of(part: str, name: str, settings: Settings | None) -> Layer:
        return problems.attempt(_layer, source, part, name, settings or {}) or {}

    base = _base(source)
    data = {name: layer_of("data", name, _of_data(given)) for name, given in plan.data.items()}
    pairs = {name: layer_of("pairs", name, given) for name, given in plan.pairs.items()}
    first, methods, folds = {}, {}, {}
    for name, given in plan.first.items():
        settings = problems.attempt(_of_first, name, given, source.place("first", name))
        first[name] = layer_of("first", name, settings)
        if FOLDS in first[name]:
            folds[name] = problems.attempt(_number_of_folds, first[name].pop(FOLDS))
    for name, given in plan.methods.items():
        named = problems.attempt(_of_method, name, given, source.place("methods", name))
        methods[name] = layer_of("methods", name, named)
    for layer in (base, *data.values(), *pairs.values(), *first.values(), *methods.values()):
        for dotted, setting in layer.items():
            problems.attempt(check_setting, dotted, setting, budgets=bool(plan.budgets))
            problems.attempt(refuse_unknown_run, dotted, setting.value, setting.place, plan, folds)
    problems.refuse_all()
    known = {name: number for name, number in folds.items() if number is not None}
    # A part that is not in the plan has one choice without settings.
    return Layers(base, first, known, data or {"": {}}, pairs or {"": {}}, methods)


def _base(source: Source) -> Layer:
    base = source.plan.base
    if not isinstance(base, Path):
        return _layer(source, "base", None, base)
    content = read_recipe(base)
    lines = lines_of(base.read_text(encoding="utf-8-sig"))
    return _given_once("base", content, lambda path: place_of(base.name, lines, path))


def _layer(source: Source, part: str, name: str | None, settings: Settings) -> Layer:
    above = (part,) if name is None else (part, name)
    return _given_once(part, settings, lambda path: source.place(*above, *path))


def _given_once(part: str, settings: Settings, place_of_path: Callable[[tuple[str, ...]], str]) -> Layer:
    """Settings by dotted name; the same one may not be written twice, once nested and once dotted."""
    layer: Layer = {}
    for dotted, value, path in leaves(settings):
        place = place_of_path(path)
        if dotted in layer:
            raise ConfigError(
                f"A setting must be given once: '{dotted}' ({place})",
                got=f"{value!r}, and {layer[dotted].value!r} in {layer[dotted].place}",
                fix="remove one of them.",
            )
        layer[dotted] = Given(copy.deepcopy(value), place, part)
    return layer


def _of_data(given: Settings | str) -> Settings:
    return {"data.path": given} if isinstance(given, str) else given


def _of_first(name: str, given: Settings | str | None, place: str) -> Settings:
    """The settings of a first run; without a method or a list of terms, it is trained from labels."""
    settings = dict(given) if isinstance(given, dict) else given
    if isinstance(settings, str) or _says_method(settings or {}):
        return _of_method(name, settings, place)
    if name in method_names() and name != FROM_LABELS:
        raise ConfigError(
            f"A first run with the name of a method must say its method ({place})",
            got=f"'{name}' without a method",
            fix=f"add `method: {name}`, or `method: {FROM_LABELS}` for a run from labels.",
        )
    return {"method.name": FROM_LABELS, **(settings or {})}


def _number_of_folds(given: Given) -> int:
    if type(given.value) is not int or given.value < 2:
        raise ConfigError(
            f"'{FOLDS}' of a first run must be a number of folds, 2 or more ({given.place})",
            got=repr(given.value),
            fix="write `folds: 5`, or remove it for a single teacher.",
        )
    return given.value


def _says_method(settings: Settings) -> bool:
    method = settings.get("method")
    named = "method.name" in settings or isinstance(method, str)
    in_section = isinstance(method, Mapping) and "name" in method
    return named or in_section or isinstance(settings.get(OBJECTIVE), list)


def _of_method(name: str, given: Settings | str | None, place: str) -> Settings:
    """The settings of a method; without a method or a list of terms, it is the method of its name."""
    settings = {"method.name": given} if isinstance(given, str) else dict(given or {})
    if isinstance(settings.get("method"), str):
        settings = {"method.name": settings.pop("method"), **settings}
    if _says_method(settings):
        return settings
    if name not in method_names():
        raise ConfigError(
            f"A method must say what it is ({place})",
            got=f"'{name}', which is no name of --method, without method.name and without a list of terms",
            fix=f"{nearest(name, method_names())} Or add `method: richkd` for a method with another name.",
        )
    return {"method.name": name, **settings}


def leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Every setting of nested or dotted settings: its dotted name, its value, and its path in the text."""
    for key, value in tree.items():
        name = str(key)
        section = _section_of(name)
        if name == OBJECTIVE and isinstance(value, Mapping):
            for label, settings in value.items():
                if not isinstance(settings, Mapping) or not settings:
                    yield f"{name}.{label}", settings, (name, str(label))
                else:
                    for leaf, inner in settings.items():
                        yield f"{name}.{label}.{leaf}", inner, (name, str(label), str(leaf))
        elif section is not None and isinstance(value, Mapping):
            yield from _leaves_of_section(section, name, value, (name,))
        else:
            yield name, value, (name,)


def _section_of(dotted: str) -> type[Section] | None:
    """The section of settings with this dotted name; None if there is none."""
    section: type[Section] | None = Config
    for name in dotted.split("."):
        field = None if section is None else section.model_fields.get(name)
        section = None if field is None else section_type(field)
    return section


def _leaves_of_section(
    section: type[Section], name: str, settings: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    for leaf, value in settings.items():
        field = section.model_fields.get(str(leaf))
        inner = None if field is None else section_type(field)
        if inner is not None and isinstance(value, Mapping):
            yield from _leaves_of_section(inner, f"{name}.{leaf}", value, (*path, str(leaf)))
        else:
            yield f"{name}.{leaf}", value, (*path, str(leaf))


def check_setting(dotted: str, setting: Given, *, budgets: bool) -> None:
    """Refuse a setting that does not exist, or that is written in the wrong part.

    Args:
        budgets: whether the plan gives the numbers of epochs.

    Raises:
        ConfigError: what is wrong, where it is written, and where it belongs.
    """
    if not _is_known(dotted):
        raise ConfigError(f"There is no setting '{dotted}' ({setting.place})", fix=nearest_setting(dotted))
    section = dotted.partition(".")[0]
    reason = RESERVED.get(dotted)
    if setting.part == "first" and dotted == "train.seed":
        reason = None
    if setting.part not in SINGLE and section == "method":
        reason = OF_METHODS
    if setting.part == "space" and section == "data":
        reason = "write it in base:, because all trials are judged by the same images"
    if setting.part not in SINGLE and dotted == OBJECTIVE and not isinstance(setting.value, Mapping):
        reason = f"{OF_METHODS}; a mapping of terms may be shared"
    elsewhere = ("data", "pairs", "base", "space") if budgets else ("data", "pairs")
    if dotted == "train.epochs" and setting.part in elsewhere:
        reason = "write the numbers of epochs under budgets: (in a search, the number as epochs:)"
    if reason is not None:
        raise ConfigError(
            f"Setting '{dotted}' must not be given here ({setting.place})",
            got=f"{dotted} {setting.value}",
            fix=f"{reason}.",
        )


def _is_known(dotted: str) -> bool:
    parts = dotted.split(".")
    if parts[0] == OBJECTIVE:
        return len(parts) <= 3
    if parts[0] == TEACHERS:
        return len(parts) == 1 or (len(parts) == 3 and parts[1].isdecimal())
    return dotted in Config.model_fields or dotted in set(setting_names())
