"""The plan of a search: which settings of which methods are tried, and with what budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from richkd.compare.plan import Count, Plan, Seed, Settings, Source, check_name, check_path
from richkd.compare.plan_file import read_plan_file
from richkd.config.schema import Section
from richkd.core.errors import ConfigError, Problems

EXAMPLE = "write `methods: {kd: {}}`, `epochs: 30` and `budget: {epochs: 300}`, for example."

Metric = Literal["top1", "nll"]


class Budget(Section):
    """What a method may spend: epochs of all its runs, or minutes.

    Example:
        >>> Budget(minutes=10).epochs is None
        True
    """

    epochs: Count | None = Field(None, description="epochs of all runs of a method together")
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="minutes for all runs of a method; one epoch is timed to find the number of epochs"
    )


class TunePlan(Section):
    """A plan of ``richkd tune``.

    Example:
        >>> plan = TunePlan(methods={"kd": None}, epochs=30, budget=Budget(epochs=300))
        >>> plan.metric, plan.seed
        ('top1', 0)
    """

    base: Settings | Path = Field(
        default_factory=dict, description="settings that all runs share, or the path of a recipe"
    )
    methods: dict[str, Settings | str | None] = Field(
        min_length=1,
        description="name: settings of the method; settings that it gives itself are not searched",
    )
    space: dict[str, Any] | None = Field(
        None,
        description="name of a setting: {low: …, high: …, log: true}, or a list of values; or any name: "
        "{choice: settings, …}",
    )
    epochs: Count = Field(description="number of epochs of the recipes, and of the longest runs")
    budget: Budget = Field(description="epochs or minutes of all runs of a method together")
    seed: Seed = Field(0, description="seed of training and of the search")
    metric: Metric = Field("top1", description="figure of the validation split: top1, or nll (calibrated)")
    jobs: Count | None = Field(None, description="number of runs at once (default: what the machine allows)")
    cache: Path | None = Field(None, description="folder of the teacher cache that all runs share")
    out: Path | None = Field(None, description="folder of the search (default: runs/NAME-OF-THE-PLAN)")


@dataclass(frozen=True)
class TuneSource:
    """A plan of a search.

    Attributes:
        plan: the plan.
        source: the same as a plan of one comparison, whose settings are read and merged in the same way.
    """

    plan: TunePlan
    source: Source


def read_tune_plan(path: Path) -> TuneSource:
    """Read and validate a plan.

    Raises:
        ConfigError: the file cannot be read, a name or a value is wrong (all of them are listed, each with
            its line), or a key occurs twice.
    """
    plan, lines = read_plan_file(path, TunePlan, ("methods",), EXAMPLE)
    return of_plan(plan, path.name, lines)


def of_plan(plan: TunePlan, name: str, lines: dict[tuple[str, ...], int]) -> TuneSource:
    """A plan that is already in memory.

    Args:
        name: what messages call it.
        lines: the line of each part; may be empty.

    Raises:
        ConfigError: a name, a path or the budget is wrong.
    """
    comparison = Plan(
        base=plan.base,
        methods=plan.methods,
        seeds=(plan.seed,),
        budgets=(plan.epochs,),
        controls=False,
        cache=plan.cache,
    )
    source = Source(comparison, name, lines)
    problems = Problems(ConfigError)
    for method in plan.methods:
        problems.attempt(check_name, "methods", method, source.place("methods", method))
    for part in ("base", "cache", "out"):
        value = getattr(plan, part)
        if isinstance(value, Path):
            problems.attempt(check_path, part, value, source.place(part))
    problems.attempt(_check_budget, plan.budget, source.place("budget"))
    problems.refuse_all()
    return TuneSource(plan, source)


def _check_budget(budget: Budget, place: str) -> None:
    if (budget.epochs is None) == (budget.minutes is None):
        raise ConfigError(
            f"The budget must be a number of epochs or of minutes ({place})",
            got="both" if budget.epochs is not None else "none",
            fix="write `budget: {epochs: 300}` or `budget: {minutes: 30}`.",
        )
