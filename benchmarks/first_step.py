"""Run ``richkd distill`` and write down when its first step began and when it was done.

    python benchmarks/first_step.py BEGAN FILE once|whole OPTIONS…

BEGAN is the clock (seconds since 1970) when the command was started; times in FILE are seconds since then.
With "once" the run is left after its first step. Nothing of the run is changed but the step's two marks.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from richkd.cli import main
from richkd.training.trainer import Trainer

began, file, extent, *options = sys.argv[1:]
marks: dict[str, float] = {}
train_step = Trainer.train_step


def marked_step(self: Trainer, *arguments: Any) -> Any:
    """The trainer's step, marked once."""
    first = not marks
    if first:
        marks["first step begins"] = time.time() - float(began)
    terms = train_step(self, *arguments)
    if first:
        marks["first step is done"] = time.time() - float(began)
        Path(file).write_text(json.dumps(marks), encoding="utf-8")
        if extent == "once":
            sys.exit()
    return terms


Trainer.train_step = marked_step  # type: ignore[method-assign]
sys.argv = ["richkd", "distill", *options]
main()
