"""``run:NAME`` in the settings of a plan: the student of a first run, or its out-of-fold teachers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from richkd.compare.plan import Plan
from richkd.config.schema import Config
from richkd.core.errors import ConfigError, nearest
from richkd.core.home import expanded
from richkd.core.presence import exists

RUN = "run"
# The settings that name models.
NAMES = re.compile(r"teachers|teachers\.\d+\.name|student\.name|clip\.name")


def refuse_unknown_run(dotted: str, value: Any, place: str, plan: Plan, folds: Collection[str]) -> None:
    """Refuse ``run:NAME`` that is no first run, and a first run where its kind of model cannot be.

    Args:
        dotted: the setting.
        value: its value.
        place: where it is written.
        plan: the plan.
        folds: names of the first runs that are out-of-fold teachers.

    Raises:
        ConfigError: with the nearest name.
    """
    for text in _models(dotted, value):
        name, got = _run_of(text), f"{dotted} {text}"
        if name is None:
            _refuse_other_prefix(text, got, place, plan)
        elif name not in plan.first:
            raise ConfigError(f"There is no first run '{name}' ({place})", got=got, fix=_hint(name, plan))
        elif dotted.startswith("clip."):
            fix = f"write `teachers: [{{name: {text}}}]`."
            raise ConfigError(
                f"A first run can be a teacher or a student, not a CLIP ({place})", got=got, fix=fix
            )
        elif dotted.startswith("student.") and name in folds:
            rule = f"A student must start from one network, not from out-of-fold teachers ({place})"
            raise ConfigError(rule, got=got, fix="name a first run without `folds`.")


def with_models(dotted: str, value: Any, models: Mapping[str, str]) -> Any:
    """The value of a setting with the models that first runs make in place of ``run:NAME``.

    Args:
        dotted: the setting.
        value: its value.
        models: model by name of the first run.

    Example:
        >>> teachers = [{"name": "run:big", "size": 112}, {"name": "resnet18"}]
        >>> with_models("teachers", teachers, {"big": "local-dir:out/first/big/student"})
        [{'name': 'local-dir:out/first/big/student', 'size': 112}, {'name': 'resnet18'}]
    """
    if not NAMES.fullmatch(dotted):
        return value
    if isinstance(value, list):
        return [
            item | {"name": _model(item["name"], models)}
            if isinstance(item, dict) and "name" in item
            else item
            for item in value
        ]
    return _model(value, models)


def runs_named_in(config: Config, models: Mapping[str, str]) -> list[str]:
    """Names of the first runs whose models a run has.

    Example:
        >>> models = {"a": "local-dir:out/first/a/student", "b": "folds:out/first/b"}
        >>> config = Config(data={"path": "photos"}, student={"name": models["a"]})
        >>> runs_named_in(config, models)
        ['a']
    """
    names = {config.student.name, *(teacher.name for teacher in config.teachers)}
    return [name for name, model in models.items() if model in names]


def _models(dotted: str, value: Any) -> Iterator[str]:
    """The names of models in a setting."""
    if NAMES.fullmatch(dotted):
        for item in value if isinstance(value, list) else [value]:
            name = item.get("name") if isinstance(item, Mapping) else item
            if isinstance(name, str):
                yield name


def _run_of(text: Any) -> str | None:
    """The name of the first run in the name of a model; None for other models."""
    prefix, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    return name if colon and prefix == RUN else None


def _model(text: Any, models: Mapping[str, str]) -> Any:
    name = _run_of(text)
    return text if name is None else models[name]


def _refuse_other_prefix(text: str, got: str, place: str, plan: Plan) -> None:
    """Refuse the name of a first run behind another prefix, such as ``folds:`` or ``runs:``."""
    _, colon, name = text.partition(":")
    if colon and name.strip() in plan.first and not exists(expanded(name)):
        fix = f"Did you mean '{RUN}:{name.strip()}'?"
        raise ConfigError(f"A first run is named with `{RUN}:` ({place})", got=got, fix=fix)


def _hint(name: str, plan: Plan) -> str:
    if name in plan.methods and name not in plan.first:
        return f"'{name}' is one of methods:; write the settings of the run under first:."
    if not plan.first:
        return "write the settings of the run under first:."
    return nearest(name, plan.first, f"They are {', '.join(plan.first)}.")
