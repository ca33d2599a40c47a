"""The plan of a comparison: its schema, and reading it from YAML with the lines of its parts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from richkd.compare.plan_file import place_of, read_plan_file
from richkd.config.choices import CORRUPTIONS
from richkd.config.schema import Section
from richkd.core.errors import ConfigError, Problems, nearest
from richkd.evaluate.corruptions import corrupt

Control = Literal["teacher-only", "clip-only", "shuffled", "shuffled-in-class", "text-only"]
CONTROLS: tuple[Control, ...] = ("teacher-only", "clip-only", "shuffled")
DEFAULT_BASELINE = "kd"
# Parts whose entries have names of their own.
NAMED_PARTS = ("first", "methods", "pairs", "data")
EXAMPLE = "write `methods: {kd: {}, richkd: {}}` and `seeds: [0, 1, 2]`, for example."

# Settings of a part of the plan: nested as in a recipe, or by dotted name.
Settings = dict[str, Any]
# NumPy takes no larger seeds.
Seed = Annotated[int, Field(strict=True, ge=0, lt=1 << 32)]
Count = Annotated[int, Field(strict=True, ge=1, lt=1 << 31)]


class Corrupted(Section):
    """Which corrupted test images students are evaluated on.

    Example:
        >>> Corrupted(names=("fog",)).measured
        ('fog',)
    """

    images: Count = Field(500, description="number of test images, evenly spaced; all if there are fewer")
    names: tuple[str, ...] = Field((), description="corruptions (default: the 15 of the published test)")

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the corruptions."""
        return tuple(dict.fromkeys(self.names)) or corrupt.TEST


class Plan(Section):
    """A plan: methods × seeds × pairs × data × budgets.

    Example:
        >>> plan = Plan(methods={"kd": None, "ce": None}, seeds=(0, 1), budgets=(30,))
        >>> plan.controls, list(plan.methods)
        (True, ['kd', 'ce'])
    """

    base: Settings | Path = Field(
        default_factory=dict, description="settings that all runs share, or the path of a recipe"
    )
    methods: dict[str, Settings | str | None] = Field(
        min_length=1,
        description="name: settings of the method, such as {method.name: kd, objective.kd.temperature: 2}; a "
        "name of `--method` needs none",
    )
    seeds: tuple[Seed, ...] = Field(min_length=1, description="seeds of training, the same for all methods")
    first: dict[str, Settings | str | None] = Field(
        default_factory=dict,
        description="name: settings of a run that is done before all others, such as a teacher from labels; "
        "`run:NAME` is its student, as a teacher of other runs; `folds: 5` makes out-of-fold teachers",
    )
    pairs: dict[str, Settings] = Field(
        default_factory=dict, description="name: settings of student and teachers (default: those of base)"
    )
    data: dict[str, Settings | str] = Field(
        default_factory=dict, description="name: settings of the data, or their path (default: those of base)"
    )
    budgets: tuple[Count, ...] = Field(
        (), description="numbers of epochs; each is a comparison of its own (default: train.epochs of base)"
    )
    controls: Annotated[bool, Field(strict=True)] | tuple[Control, ...] = Field(
        True,
        description="controls that are added to each method that fuses a vision teacher with a CLIP; true: "
        "teacher-only (at the temperature that is nearest to the fused target), clip-only and shuffled",
    )
    baseline: str | None = Field(
        None, description="method that the others are compared with (default: kd, else the first one)"
    )
    allow_unequal_budgets: Annotated[bool, Field(strict=True)] = Field(
        False, description="allow methods with other numbers of epochs, images or images in a batch"
    )
    jobs: Count | None = Field(
        None, description="number of runs at once (default: what cores and memory allow; one on a GPU)"
    )
    corruptions: Corrupted | None = Field(
        None, description="also evaluate every student on corrupted test images; {} for the defaults"
    )
    hierarchy: Path | None = Field(
        None, description="YAML file {superclass: [class, …]} (default: that of CIFAR-100, for its classes)"
    )
    cache: Path | None = Field(None, description="folder of the teacher cache that all runs share")
    out: Path | None = Field(None, description="folder of the comparison (default: runs/NAME-OF-THE-PLAN)")

    @property
    def reference(self) -> str:
        """Name of the baseline."""
        first = next(iter(self.methods))
        return self.baseline or (DEFAULT_BASELINE if DEFAULT_BASELINE in self.methods else first)

    @property
    def added_controls(self) -> tuple[Control, ...]:
        """The controls that are added to each fused method."""
        if isinstance(self.controls, tuple):
            return self.controls
        return CONTROLS if self.controls else ()


@dataclass(frozen=True)
class Source:
    """A plan and where its parts are written.

    Attributes:
        plan: the plan.
        name: the file, as messages name it.
        lines: the line of each part, by its path.
    """

    plan: Plan
    name: str
    lines: dict[tuple[str, ...], int]

    def place(self, *path: str) -> str:
        """A part of the plan for messages, such as ``plan.yaml, line 7``."""
        return place_of(self.name, self.lines, path)


def read_plan(path: Path, baseline: str | None = None) -> Source:
    """Read and validate a plan.

    Args:
        path: the file.
        baseline: replaces the baseline of the plan.

    Raises:
        ConfigError: the file cannot be read, a name or a value is wrong (all of them are listed, each with
            its line), or a key occurs twice.
    """
    plan, lines = read_plan_file(path, Plan, NAMED_PARTS, EXAMPLE)
    if baseline is not None:
        plan = plan.model_copy(update={"baseline": baseline})
    source = Source(plan, path.name, lines)
    _check_names(source, source.place("baseline") if baseline is None else "--baseline")
    return source


def _check_names(source: Source, baseline: str) -> None:
    """Refuse names that cannot be names of folders, values that occur twice, and an unknown baseline.

    Args:
        source: the plan.
        baseline: where the baseline is named, for messages.
    """
    plan, problems = source.plan, Problems(ConfigError)
    for part in NAMED_PARTS:
        for name in getattr(plan, part):
            problems.attempt(check_name, part, name, source.place(part, name))
    for part in ("base", "cache", "out"):
        path = getattr(plan, part)
        if isinstance(path, Path):
            problems.attempt(check_path, part, path, source.place(part))
    for name in plan.corruptions.names if plan.corruptions else ():
        problems.attempt(_check_corruption, name, source.place("corruptions", "names"))
    for part in ("seeds", "budgets"):
        problems.attempt(_check_different, part, getattr(plan, part), source.place(part))
    problems.attempt(_check_baseline, plan.reference, _comparable(plan), baseline)
    problems.refuse_all()


def check_name(part: str, name: str, place: str) -> None:
    """Refuse a name that cannot be part of the name of a folder.

    Raises:
        ConfigError: what is wrong with it, and where it is written.
    """
    wrong = not name.strip() or name != name.strip() or name.startswith(".") or len(name.encode()) > 60
    if wrong or any(sign in "/\\" or not sign.isprintable() for sign in name):
        raise ConfigError(
            f"A name in '{part}' is part of the name of a run folder ({place})",
            got=repr(name),
            fix="use at most 60 letters and signs, without slashes, and no dot or space at its start.",
        )


def check_path(part: str, path: Path, place: str) -> None:
    """Refuse a path without a name, or with characters that are not seen.

    Raises:
        ConfigError: what is wrong with it, and where it is written.
    """
    if (part == "base" and not path.name) or not str(path).isprintable():
        example = "{data: {path: photos/}}`, or `base: recipe.yaml" if part == "base" else "folder/"
        raise ConfigError(
            f"'{part}' of the plan must be a path without hidden characters ({place})",
            got=repr(str(path)),
            fix=f"write `{part}: {example}`.",
        )


def _check_different(part: str, values: tuple[int, ...], place: str) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"No two runs may have the same name: '{part}' has {twice} twice ({place})",
            got=", ".join(map(str, values)),
            fix="remove one of them.",
        )


def _check_corruption(name: str, place: str) -> None:
    if name not in CORRUPTIONS:
        raise ConfigError(
            f"There is no corruption '{name}' ({place})", fix=nearest(name, CORRUPTIONS, CORRUPTIONS.listing)
        )


def _comparable(plan: Plan) -> list[str]:
    """Names of the methods, and of the controls that are added to those of them that are fused."""
    pairs = product(plan.methods, plan.added_controls)
    return [*plan.methods, *(f"{method} {control}" for method, control in pairs)]


def _check_baseline(given: str, known: Collection[str], place: str) -> None:
    if given not in known:
        raise ConfigError(
            f"The baseline must be one of the methods or of their controls ({place})",
            got=repr(given),
            fix=nearest(given, known),
        )
