"""The tables that ``richkd export`` and ``richkd benchmark`` print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from richkd.core.terminal import Terminal
from richkd.core.visible import counted
from richkd.export.latency import Benchmark
from richkd.export.run import Export
from richkd.metrics.accuracy import Metrics


def print_export(result: Export) -> None:
    """Print what was written, and how closely it follows the student."""
    comparison, about, console = result.comparison, result.description, Terminal()
    rows = {
        "format": f"{result.format}, {result.version}, {about.precision}",
        "size": f"{result.bytes / 1e6:,.2f} MB",
        "input": "normalized pixels" if about.raw else "uint8 pictures (N, H, W, 3)",
        "compared": f"in {result.runtime} with PyTorch, on {comparison.source}",
        "same top-1 class": f"{comparison.agreement:.2%}",
        "difference of probabilities": f"at most {comparison.max_difference:.2g}, "
        f"mean {comparison.mean_difference:.2g}"
        + (f" (accepted: {result.tolerance:g})" if result.int8 is None else ""),
    }
    if result.int8 is not None:
        change = result.int8
        rows["size"] += f" ({change.float_bytes / 1e6:,.2f} MB in float32)"
        rows["calibrated"] = f"on {change.calibrated_on}"
        rows["loss of accuracy"] = f"{change.drop:.2f} points (accepted: {change.max_drop:g})"
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table)
    if comparison.student is not None and comparison.artifact is not None:
        console.print(_metrics({"student": comparison.student, "artifact": comparison.artifact}))
    for file in result.files:
        console.print(f"wrote {file}", soft_wrap=True)


def _metrics(rows: dict[str, Metrics]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "accuracy", "NLL", "calibration error (ECE)"):
        table.add_column(column, justify="left" if not column else "right")
    for name, figures in rows.items():
        table.add_row(name, f"{figures.top1:.2%}", f"{figures.nll:.3f}", f"{figures.ece:.4f}")
    return table


def print_benchmarks(results: Sequence[Benchmark]) -> None:
    """Print the latency of models."""
    console = Terminal()
    table = Table(box=None, pad_edge=False)
    for column in ("", "batch", "median", "10 to 90 %", "images per second"):
        table.add_column(column, justify="left" if not column else "right")
    for one in results:
        for row in one.batches:
            table.add_row(
                one.model if row is one.batches[0] else "",
                str(row.batch),
                f"{row.median:,.2f} ms",
                f"{row.low:,.2f} to {row.high:,.2f}",
                f"{row.images_per_second:,.0f}",
            )
    console.print(table)
    console.print()
    for one in results:
        rounds = min(row.rounds for row in one.batches)
        console.print(
            f"{one.model}: {one.precision}, {one.bytes / 1e6:,.2f} MB, {one.runtime}, "
            f"{counted(one.threads, 'thread')}, "
            f"{one.input}; {one.warmup} batches before at least {rounds} timed ones",
            soft_wrap=True,
        )
