"""The command ``richkd evaluate`` and its tables; no logic."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.table import Table

    from richkd.evaluate.run import Evaluation


def evaluate(
    *models: Annotated[str, Parameter(help="student or run folders, or one model name with --weights")],
    data: Annotated[str, Parameter(help="image folder, folder of parquet files, or hub name")],
    weights: Annotated[Path | None, Parameter(help="checkpoint, where MODEL is a name")] = None,
    split: Annotated[str, Parameter(help="train, val, test or calibration")] = "test",
    label_column: Annotated[str | None, Parameter(help="column of the labels")] = None,
    held_out_of_test: Annotated[
        float | None, Parameter(help="share of test that runs were fitted on (a run's own is known)")
    ] = None,
    hierarchy: Annotated[Path | None, Parameter(help="file {superclass: [class, …]}")] = None,
    teachers: Annotated[
        bool, Parameter(negative="", help="also the first run's teachers and their fusion")
    ] = False,
    json: Annotated[bool, Parameter(negative="", help="print everything as JSON")] = False,
) -> None:
    """Judge students, teachers and CLIPs side by side: accuracy, calibration, confidence, meaning, cost.

    For example:

    richkd evaluate runs/small runs/control --data photos/ --teachers

    richkd evaluate cifar_resnet56 --weights cifar100_resnet56.pth --data cifar100/
    """
    from richkd.errors import ConfigError
    from richkd.evaluate.run import evaluate_models

    if not models:
        raise ConfigError("Name what to evaluate", got="no model", fix="richkd evaluate RUN --data DATA")
    found = evaluate_models(
        models,
        data,
        weights=weights,
        split=split,
        label_column=label_column,
        held_out_of_test=held_out_of_test,
        hierarchy=hierarchy,
        teachers=teachers,
    )
    if json:
        print(json_module.dumps(found.to_dict()))
        return
    _print(found, f"{data}, {found.judgements[0].own.n:,} images of {split}")


def _print(found: Evaluation, title: str) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for table in (_accuracy(found, title), _confidence(found), _meaning(found), _pairs(found), _costs(found)):
        if table.row_count:
            console.print(table)
            console.print()


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _accuracy(found: Evaluation, title: str) -> Table:
    table = _table(title, "top-1", "95 %", "top-5", "NLL", "ECE", "95 %", "Brier")
    for judgement in found.judgements:
        rows = [(judgement.name, judgement.own, "ece")]
        if judgement.temperature != 1.0:
            rows.append((f"  at T = {judgement.temperature:.3f}", judgement.calibrated, "calibrated ece"))
        for name, figures, key in rows:
            top1, ece = judgement.intervals["top1"], judgement.intervals[key]
            table.add_row(
                name,
                f"{figures.top1:.2%}",
                f"{100 * top1.low:.1f}–{100 * top1.high:.1f}",
                f"{figures.top5:.2%}",
                f"{figures.nll:.4f}",
                f"{figures.ece:.4f}",
                f"{ece.low:.3f}–{ece.high:.3f}",
                f"{figures.brier:.4f}",
            )
    return table


def _confidence(found: Evaluation) -> Table:
    from richkd.evaluate.confidence import COVERAGES

    surest = [f"wrong in surest {coverage:.0%}" for coverage in COVERAGES]
    table = _table("confidence, calibrated", "right > 0.7", "wrong > 0.7", *surest, "AURC", "AUGRC")
    for judgement in found.judgements:
        row = judgement.confidence
        shares = [f"{share:.1%}" for share in (*row.calibrated, *row.wrong_at)]
        table.add_row(judgement.name, *shares, f"{row.aurc:.4f}", f"{row.augrc:.4f}")
    return table


def _meaning(found: Evaluation) -> Table:
    columns = ("superclass AUROC", "superclass mass", "consistency", "severity of mistakes", "distance")
    table = _table("wrong classes, calibrated", *columns)
    for judgement in found.judgements:
        if judgement.semantics is not None:
            row = judgement.semantics
            figures = (
                row.superclass_auroc,
                row.superclass_mass,
                row.consistency,
                row.mistake_severity,
                row.distance,
            )
            table.add_row(judgement.name, *("" if f is None else f"{f:.4f}" for f in figures))
    return table


def _pairs(found: Evaluation) -> Table:
    table = _table(f"less {found.judgements[0].name}", "top-1", "95 %", "NLL", "95 %", "McNemar's p")
    for pair in found.comparisons:
        table.add_row(
            pair.b,
            f"{100 * pair.top1.estimate:+.2f}",
            f"{100 * pair.top1.low:+.2f} to {100 * pair.top1.high:+.2f}",
            f"{pair.nll.estimate:+.4f}",
            f"{pair.nll.low:+.4f} to {pair.nll.high:+.4f}",
            f"{pair.mcnemar.mid_p:.2g}",
        )
    return table


def _costs(found: Evaluation) -> Table:
    from richkd.evaluate.cost import BATCHES

    times = [f"ms, batch {batch}" for batch in BATCHES]
    table = _table("cost here", "parameters", "MFLOPs an image", "MB", *times)
    for name, cost in found.costs.items():
        milliseconds = [f"{cost.milliseconds[batch]:.1f}" for batch in BATCHES]
        size = (f"{cost.parameters:,}", f"{cost.flops / 1e6:.1f}", f"{cost.megabytes:.1f}")
        table.add_row(name, *size, *milliseconds)
    return table
