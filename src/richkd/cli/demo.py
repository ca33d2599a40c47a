"""The command ``richkd demo``; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.options import place, whole
from richkd.core.output import lasting
from richkd.core.quick_imports import quick_imports


def demo(
    *,
    out: Annotated[
        Path, Parameter(help="folder for the demo's data and runs", show_default=True, converter=place)
    ] = Path("runs/demo"),
    seed: Annotated[int, Parameter(help="seed of all runs", show_default=True, converter=whole)] = 0,
) -> None:
    """Run the whole pipeline on real handwritten digits with a tiny CLIP; nothing is downloaded.

    For example:

    richkd demo --out runs/demo
    """
    with quick_imports():
        from richkd.core.folder_lock import folder_lock
        from richkd.demo.run import run_demo

    # Two demos would train with each other's files.
    with lasting("stdout"), folder_lock(out, f"--out {out}"):
        run_demo(out, seed)
