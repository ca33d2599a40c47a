"""The command ``richkd evaluate``; no logic."""

from __future__ import annotations

import json as json_module
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.options import ChosenCheckpoint, evaluating, place
from richkd.config.schema import EvaluateConfig
from richkd.core.quick_imports import quick_imports


@evaluating()
def evaluate(
    *models: Annotated[
        str,
        Parameter(
            help="student or run folders, checkpoints of runs, artifacts of `richkd export`, and networks as "
            "NAME=CHECKPOINT"
        ),
    ],
    config: EvaluateConfig,
    data: Annotated[str, Parameter(help="image folder, folder of parquet files, or hub name")],
    weights: Annotated[
        Path | None, Parameter(help="checkpoint, if the only model is a network's name", converter=place)
    ] = None,
    json: Annotated[bool, Parameter(help="print all figures as JSON")] = False,
    checkpoint: ChosenCheckpoint = None,
) -> None:
    """Compare students, teachers and CLIPs: accuracy, calibration, confidence, semantics, robustness, cost.

    For example:

    richkd evaluate runs/small runs/control --data photos/ --teachers --corruptions

    richkd evaluate runs/small --data photos/ --shift sketches=sketches/ --shift night=night/

    richkd evaluate runs/small cifar_resnet56=resnet56.pth --data cifar100/ --cifar-c CIFAR-100-C/
    """
    with quick_imports():
        from richkd.cli.evaluate_tables import print_evaluation
        from richkd.core.terminal import log_to_stderr
        from richkd.evaluate.run import evaluate_models

    # The network of a callable may print, but not between the results.
    with redirect_stdout(sys.stderr):
        result = evaluate_models(
            models, data, config, weights=weights, checkpoint=checkpoint, log=log_to_stderr
        ).evaluation
    if json:
        print(json_module.dumps(result.to_dict()))
        return
    print_evaluation(result, f"{data}, {result.model_reports[0].uncalibrated.n:,} images of {config.split}")
