"""Figures of first runs: accuracy on the test split, epochs and seconds of each teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from richkd.compare.costs import total_seconds
from richkd.compare.first import FirstRun
from richkd.compare.opened import TEST_SPLIT
from richkd.core.errors import CheckpointError
from richkd.training.run_folder import RunFolder

FIRST_HEADS = ("run", "networks", "top-1", "NLL", "epochs", "training, s")


@dataclass(frozen=True)
class FirstFigures:
    """The figures of a first run after its last epoch.

    Attributes:
        name: its name, with the data where there are several.
        networks: number of networks: that of folds for out-of-fold teachers.
        epochs: number of epochs of each network.
        top1: accuracy on the test split, mean over the networks; None if it has no result.
        nll: negative log-likelihood there, in nats, before calibration; mean over the networks.
        seconds: seconds of all epochs of all networks.
        reason: why it has no result; empty if it has one.
    """

    name: str
    networks: int
    epochs: int
    top1: float | None
    nll: float | None
    seconds: float
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields that do not depend on the speed of the machine."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}


def collect_first_figures(runs: Iterable[FirstRun], failed: Mapping[str, str]) -> tuple[FirstFigures, ...]:
    """The figures of first runs; the folds of one are together.

    Args:
        runs: all first runs.
        failed: reason by name, of those without a result.

    Raises:
        CheckpointError: the ``summary.json`` of a finished run is damaged.
    """
    together: dict[str, list[FirstRun]] = {}
    for run in runs:
        together.setdefault(run.label, []).append(run)
    return tuple(_figures(label, members, failed) for label, members in together.items())


def first_rows(figures: Sequence[FirstFigures]) -> list[list[str]]:
    """The table of first runs as text, with the columns `FIRST_HEADS`.

    Example:
        >>> first_rows([FirstFigures("run:teacher", 1, 20, 0.8341, 0.61, 1234.5)])
        [['run:teacher', '1', '83.41 %', '0.610', '20', '1,234.5']]
    """
    return [
        [
            one.name,
            str(one.networks),
            "failed" if one.top1 is None else f"{100 * one.top1:.2f} %",
            "" if one.nll is None else f"{one.nll:.3f}",
            f"{one.epochs:,}",
            f"{one.seconds:,.1f}",
        ]
        for one in figures
    ]


def first_failures(figures: Sequence[FirstFigures]) -> list[tuple[str, str]]:
    """Name and reason of each first run without a result."""
    return [(one.name, one.reason) for one in figures if one.reason]


def _figures(label: str, members: Sequence[FirstRun], failed: Mapping[str, str]) -> FirstFigures:
    reason = next((failed[run.name] for run in members if run.name in failed), "")
    tests = [] if reason else [_test_of(run) for run in members]
    return FirstFigures(
        label,
        len(members),
        members[0].config.train.epochs,
        fmean(test["top1"] for test in tests) if tests else None,
        fmean(test["nll"] for test in tests) if tests else None,
        sum(total_seconds(run.config.out) for run in members),
        reason,
    )


def _test_of(run: FirstRun) -> dict[str, float]:
    summary = RunFolder(run.config.out).summary()
    try:
        if summary is not None:
            figures: dict[str, float] = summary["splits"][TEST_SPLIT]
            return {name: float(figures[name]) for name in ("top1", "nll")}
    except (KeyError, TypeError, ValueError):
        pass
    raise CheckpointError(
        f"A finished run must have the figures of its test split ({run.config.out / 'summary.json'})",
        got="none",
        fix="remove the folder of the run to train it again.",
    )
