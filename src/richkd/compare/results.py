"""Figures of a comparison: over seeds, against the baseline by seed, and against it by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from richkd.compare.further import NOTHING, Further, corrupted_difference, over_known
from richkd.compare.logits import StoredLogits
from richkd.compare.runs import Cell, PlannedRun, by_cell
from richkd.core.errors import CheckpointError
from richkd.evaluate.model_report import correct_of, losses_of
from richkd.metrics.calibration import ece
from richkd.metrics.confidence import confident_rates_at_coverage
from richkd.metrics.intervals import (
    RESAMPLES,
    RESAMPLING_SEED,
    Interval,
    McNemar,
    discordant_counts,
    mcnemar_test,
    paired_bootstrap,
)
from richkd.metrics.seeds import DIFFERENCE, FRACTION, NLL, OverSeeds, summarize_seeds

HALF = 0.5

# Test logits and further figures of the runs of a method, by seed.
Outputs = Mapping[int, tuple[StoredLogits, Further]]


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
        superclass_auroc, corrupted_error: see `Further`.
    """

    name: str
    seed: int
    top1: float
    nll: float
    temperature: float
    ece: float
    half_error: float
    superclass_auroc: float | None
    corrupted_error: float | None


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
        superclass_auroc: the same over seeds; None without superclasses.
        corrupted_error: error rate on corrupted images over seeds; None if it was not measured.
        difference: against the baseline; None for the baseline, and without common seeds.
        corrupted_difference: difference of ``corrupted_error``, by seed.
    """

    name: str
    control_of: str | None
    runs: tuple[RunFigures, ...]
    failed: dict[int, str]
    top1: OverSeeds | None
    nll: OverSeeds | None
    ece: OverSeeds | None
    half_error: OverSeeds | None
    superclass_auroc: OverSeeds | None
    corrupted_error: OverSeeds | None
    difference: Difference | None
    corrupted_difference: OverSeeds | None


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
    further: Mapping[str, Further] = MappingProxyType({}),
) -> tuple[CellFigures, ...]:
    """All figures of a comparison.

    Args:
        runs: all runs of the plan.
        logits: test logits of the finished runs, by name.
        failed: reason by name, of the other runs.
        baseline: name of the method that the others are compared with.
        budgets: the budget of each run, by name.
        further: further figures of the finished runs, by name.

    Raises:
        CheckpointError: runs of a cell were evaluated on different images.
    """
    return tuple(
        _cell(cell, members, logits, failed, baseline, budgets, further)
        for cell, members in by_cell(list(runs))
    )


def _cell(
    cell: Cell,
    members: list[PlannedRun],
    logits: Mapping[str, StoredLogits],
    failed: Mapping[str, str],
    baseline: str,
    budgets: Mapping[str, str],
    further: Mapping[str, Further],
) -> CellFigures:
    _refuse_other_images(cell, members, logits)
    by_method: dict[str, dict[int, PlannedRun]] = {}
    for run in members:
        by_method.setdefault(run.method, {})[run.seed] = run
    outputs = {
        method: {
            seed: (logits[run.name], further.get(run.name, NOTHING))
            for seed, run in by_seed.items()
            if run.name in logits
        }
        for method, by_seed in by_method.items()
    }
    first = next((one for by_seed in outputs.values() for one, _ in by_seed.values()), None)
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
    outputs: Outputs,
    failed: dict[int, str],
    baseline: Outputs | None,
) -> MethodFigures:
    first = next(iter(by_seed.values()))
    runs = tuple(_run(by_seed[seed], *outputs[seed]) for seed in sorted(outputs))
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
        over_known([run.superclass_auroc for run in runs]),
        over_known([run.corrupted_error for run in runs]),
        _difference(common, _logits(outputs), _logits(baseline)) if baseline and common else None,
        corrupted_difference(_further(outputs), _further(baseline)) if baseline and common else None,
    )


def _logits(outputs: Outputs) -> dict[int, StoredLogits]:
    return {seed: output for seed, (output, _) in outputs.items()}


def _further(outputs: Outputs) -> dict[int, Further]:
    return {seed: further for seed, (_, further) in outputs.items()}


def _over_seeds(runs: Sequence[RunFigures]) -> list[OverSeeds | None]:
    if not runs:
        return [None] * 4
    columns = zip(*((run.top1, run.nll, run.ece, run.half_error) for run in runs), strict=True)
    ranges = (FRACTION, NLL, FRACTION, FRACTION)
    return [
        summarize_seeds(values, possible=possible) for values, possible in zip(columns, ranges, strict=True)
    ]


def _run(run: PlannedRun, output: StoredLogits, further: Further) -> RunFigures:
    top1, nll = _values(output).mean(0).tolist()
    probs_NC = (output.logits_NC.double() / output.temperature).softmax(dim=1)
    half = confident_rates_at_coverage(probs_NC, output.labels_N, HALF)
    return RunFigures(
        run.name,
        run.seed,
        top1,
        nll,
        output.temperature,
        ece(probs_NC, output.labels_N),
        half.wrong / HALF,
        further.superclass_auroc,
        further.corrupted_error,
    )


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
    top1 = summarize_seeds(by_seed_RS[:, 0].tolist(), possible=DIFFERENCE)
    nll = summarize_seeds(by_seed_RS[:, 1].tolist())
    top1_images, nll_images = paired_bootstrap(
        theirs_RNS.mean(0), ours_RNS.mean(0), seed=RESAMPLING_SEED, resamples=RESAMPLES
    )
    tests = tuple(
        mcnemar_test(
            *discordant_counts(baseline[seed].logits_NC, outputs[seed].logits_NC, outputs[seed].labels_N)
        )
        for seed in seeds
    )
    return Difference(tuple(seeds), top1, nll, top1_images, nll_images, tests)


def results_file(out: Path) -> Path:
    """The file of the figures that do not depend on the speed of the machine."""
    return out / "compare.json"
