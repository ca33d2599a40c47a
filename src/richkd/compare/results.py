"""Figures of a comparison: over seeds, against the baseline by seed, and against it by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from richkd.compare.logits import StoredLogits
from richkd.compare.runs import Cell, PlannedRun, by_cell
from richkd.core.errors import CheckpointError
from richkd.evaluate.model_report import RESAMPLES, SEED, correct_of, losses_of
from richkd.metrics.calibration import ece
from richkd.metrics.confidence import confident_rates_at_coverage
from richkd.metrics.intervals import Interval, McNemar, discordant_counts, mcnemar, paired_bootstrap
from richkd.metrics.seeds import OverSeeds, over_seeds

HALF = 0.5


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run on the test split at its last epoch.

    Attributes:
        name: name of the run.
        seed: the seed of training.
        top1: accuracy, a fraction.
        nll: negative log-likelihood with the temperature, in nats.
        temperature: temperature, fitted on held-out images; 1 without any.
        ece: expected calibration error with the temperature.
        half_error: fraction of wrong predictions among the more confident half of the images.
    """

    name: str
    seed: int
    top1: float
    nll: float
    temperature: float
    ece: float
    half_error: float


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline, for the seeds that both have.

    Attributes:
        seeds: these seeds.
        top1: differences in accuracy by seed.
        nll: differences in calibrated NLL by seed.
        top1_images: difference of the mean accuracy over seeds, with a bootstrap interval over images.
        nll_images: the same for NLL.
        mcnemar: McNemar's test for each seed; model a is the baseline.
    """

    seeds: tuple[int, ...]
    top1: OverSeeds
    nll: OverSeeds
    top1_images: Interval
    nll_images: Interval
    mcnemar: tuple[McNemar, ...]


@dataclass(frozen=True)
class MethodFigures:
    """All figures of a method in a cell.

    Attributes:
        name: name of the method.
        control_of: name of the method that it is a control of; None if it is none.
        runs: figures of each finished run.
        failed: reason by seed, of the runs that have no result.
        top1: accuracy over seeds; None without a finished run.
        nll: calibrated NLL over seeds.
        ece: calibration error over seeds.
        half_error: errors among the more confident half, over seeds.
        difference: against the baseline; None for the baseline, and without common seeds.
    """

    name: str
    control_of: str | None
    runs: tuple[RunFigures, ...]
    failed: dict[int, str]
    top1: OverSeeds | None
    nll: OverSeeds | None
    ece: OverSeeds | None
    half_error: OverSeeds | None
    difference: Difference | None


@dataclass(frozen=True)
class CellFigures:
    """All methods of a cell.

    Attributes:
        cell: pair, data and number of epochs.
        images: number of test images; 0 without a finished run.
        baseline: name of the baseline.
        budgets: number of epochs, images and images in a batch, by method.
        methods: figures of each method, in the order of the plan.
    """

    cell: Cell
    images: int
    baseline: str
    budgets: dict[str, str]
    methods: tuple[MethodFigures, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary that can be written as JSON."""
        return asdict(self)


def figures_of(
    runs: Sequence[PlannedRun],
    logits: Mapping[str, StoredLogits],
    failed: Mapping[str, str],
    baseline: str,
    budgets: Mapping[str, str],
) -> tuple[CellFigures, ...]:
    """All figures of a comparison.

    Args:
        runs: all runs of the plan.
        logits: test logits of the finished runs, by name.
        failed: reason by name, of the other runs.
        baseline: name of the method that the others are compared with.
        budgets: the budget of each run, by name.

    Raises:
        CheckpointError: runs of a cell were evaluated on different images.
    """
    return tuple(
        _cell(cell, members, logits, failed, baseline, budgets) for cell, members in by_cell(list(runs))
    )


def _cell(
    cell: Cell,
    members: list[PlannedRun],
    logits: Mapping[str, StoredLogits],
    failed: Mapping[str, str],
    baseline: str,
    budgets: Mapping[str, str],
) -> CellFigures:
    _refuse_other_images(cell, members, logits)
    by_method: dict[str, dict[int, PlannedRun]] = {}
    for run in members:
        by_method.setdefault(run.method, {})[run.seed] = run
    outputs = {
        method: {seed: logits[run.name] for seed, run in by_seed.items() if run.name in logits}
        for method, by_seed in by_method.items()
    }
    first = next((one for by_seed in outputs.values() for one in by_seed.values()), None)
    return CellFigures(
        cell,
        0 if first is None else len(first.labels_N),
        baseline,
        {run.method: budgets[run.name] for run in members if run.name in budgets},
        tuple(
            _method(
                by_seed,
                outputs[method],
                {seed: failed[run.name] for seed, run in by_seed.items() if run.name in failed},
                None if method == baseline else outputs.get(baseline, {}),
            )
            for method, by_seed in by_method.items()
        ),
    )


def _refuse_other_images(cell: Cell, members: list[PlannedRun], logits: Mapping[str, StoredLogits]) -> None:
    evaluated = [(run, logits[run.name]) for run in members if run.name in logits]
    for run, output in evaluated[1:]:
        first, expected = evaluated[0]
        same_size = first.config.student == run.config.student
        if (
            output.keys != expected.keys
            or not torch.equal(output.labels_N, expected.labels_N)
            or (same_size and output.images != expected.images)
        ):
            raise CheckpointError(
                f"All runs of a comparison must be evaluated on the same test images ({cell.title})",
                got=f"other images for {run.name} than for {first.name}",
                fix=f"the data were changed in between: remove the logits and the folder of {run.name}, or "
                "give another --out.",
            )


def _method(
    by_seed: Mapping[int, PlannedRun],
    outputs: Mapping[int, StoredLogits],
    failed: dict[int, str],
    baseline: Mapping[int, StoredLogits] | None,
) -> MethodFigures:
    first = next(iter(by_seed.values()))
    runs = tuple(_run(by_seed[seed], output) for seed, output in sorted(outputs.items()))
    common = sorted(outputs.keys() & baseline.keys()) if baseline is not None else []
    top1, nll, calibration_error, half_error = _over_seeds(runs)
    return MethodFigures(
        first.method,
        first.control_of,
        runs,
        dict(sorted(failed.items())),
        top1,
        nll,
        calibration_error,
        half_error,
        _difference(common, outputs, baseline) if baseline is not None and common else None,
    )


def _over_seeds(runs: Sequence[RunFigures]) -> list[OverSeeds | None]:
    figures = [(run.top1, run.nll, run.ece, run.half_error) for run in runs]
    return [over_seeds(values) for values in zip(*figures, strict=True)] or [None] * 4


def _run(run: PlannedRun, output: StoredLogits) -> RunFigures:
    top1, nll = _values(output).mean(0).tolist()
    probs_NC = (output.logits_NC.double() / output.temperature).softmax(dim=1)
    half = confident_rates_at_coverage(probs_NC, output.labels_N, HALF)
    calibration_error = ece(probs_NC, output.labels_N)
    return RunFigures(run.name, run.seed, top1, nll, output.temperature, calibration_error, half.wrong / HALF)


def _values(output: StoredLogits) -> Tensor:
    """Correctness and calibrated NLL of each image, shape (N, 2)."""
    scaled_NC = output.logits_NC.double() / output.temperature
    return torch.stack([correct_of(scaled_NC, output.labels_N), losses_of(scaled_NC, output.labels_N)], dim=1)


def _difference(
    seeds: list[int], outputs: Mapping[int, StoredLogits], baseline: Mapping[int, StoredLogits]
) -> Difference:
    ours_RNS = torch.stack([_values(outputs[seed]) for seed in seeds])
    theirs_RNS = torch.stack([_values(baseline[seed]) for seed in seeds])
    by_seed_RS = ours_RNS.mean(1) - theirs_RNS.mean(1)
    top1, nll = (over_seeds(column.tolist()) for column in by_seed_RS.unbind(1))
    top1_images, nll_images = paired_bootstrap(
        theirs_RNS.mean(0), ours_RNS.mean(0), seed=SEED, resamples=RESAMPLES
    )
    tests = tuple(
        mcnemar(*discordant_counts(baseline[seed].logits_NC, outputs[seed].logits_NC, outputs[seed].labels_N))
        for seed in seeds
    )
    return Difference(tuple(seeds), top1, nll, top1_images, nll_images, tests)


def results_file(out: Path) -> Path:
    """The file of the figures that do not depend on the speed of the machine."""
    return out / "compare.json"
