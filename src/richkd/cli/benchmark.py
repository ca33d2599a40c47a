"""The command ``richkd benchmark``; no logic."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from richkd.cli.json_output import Json, json_only
from richkd.cli.options import whole, wholes
from richkd.core.quick_imports import quick_imports

Batches = Annotated[list[int], Parameter(help="numbers of images", converter=wholes, consume_multiple=1)]


def benchmark(
    *models: Annotated[str, Parameter(help="student or run folders, and artifacts of `richkd export`")],
    batch: Batches = [1, 8, 64],  # noqa: B006 - not changed
    threads: Annotated[
        int | None, Parameter(help="number of CPU threads (default: that of PyTorch)", converter=whole)
    ] = None,
    rounds: Annotated[
        int, Parameter(help="number of timed batches", show_default=True, converter=whole)
    ] = 30,
    warmup: Annotated[
        int, Parameter(help="number of batches before", show_default=True, converter=whole)
    ] = 5,
    picture: Annotated[
        list[int] | None,
        Parameter(
            help="height and width of the pictures that an artifact resizes (default: its own size)",
            converter=wholes,
            consume_multiple=1,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure the latency of students and artifacts on the CPU: medians over repeated batches.

    For example:

    richkd benchmark runs/small small.onnx small.int8.onnx --threads 1

    richkd benchmark small.onnx --picture 480 640 --batch 1
    """
    with quick_imports():
        from richkd.cli.export_tables import print_benchmarks
        from richkd.export.latency import benchmark_all

    with json_only(True) as write:
        results = benchmark_all(
            models, batches=batch, threads=threads, rounds=rounds, warmup=warmup, picture=picture
        )
        if json:
            write([one.to_dict() for one in results])
    if not json:
        print_benchmarks(results)
