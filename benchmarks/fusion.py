"""Fused teachers of Caltech-101 under every scale and way of mixing, fitted on validation, judged on test.

    python benchmarks/fusion.py --data DATA --teacher runs/caltech101/first/teacher/student

DATA holds ``caltech101/`` (parquet) and ``clip-vitb32/caltech101_clip_vitb32.npz``; the teacher is the one
that ``recipes/plans/caltech101.yaml`` trains first. Nothing else is trained; half a minute. Prints a table,
and writes ``fusion.json`` for the pictures of ``benchmarks/fusion_plots.py``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from timing import machine, save
from torch import Tensor

from richkd import load_config
from richkd.config.schema import FusionConfig
from richkd.fusion.alone import measure_target_shift
from richkd.fusion.fuse import fuse
from richkd.fusion.fusion import Fusion
from richkd.fusion.held_out import HeldOut
from richkd.metrics.accuracy import measure
from richkd.pipeline.assemble import Parts, assemble
from richkd.teachers.base import Teacher
from richkd.teachers.predict import outputs_of

CPU = torch.device("cpu")
WAYS: dict[str, dict[str, Any]] = {
    "teacher alone": {"weights": (1, 0)},
    "CLIP alone": {"weights": (0, 100)},
    "`as-released`": {"preset": "as-released"},
    "`paper`": {"preset": "paper"},
    "`temperature`, α 0.7": {"mixing": "alpha", "alpha": 0.7},
    "`temperature`, α 0.5": {"mixing": "alpha", "alpha": 0.5},
    "`linear`": {"mixing": "linear"},
    "`simplex`": {"mixing": "simplex"},
    "`confidence`": {"mixing": "confidence"},
    "`log-pool`": {"mixing": "log-pool"},
    "`zscore`, `log-pool`": {"scale": "zscore", "mixing": "log-pool"},
    "`gate`": {"mixing": "gate"},
    "`per-class`": {"mixing": "per-class"},
    "`default`": {},
}
# Of the curve over α: what is fused, and how.
CURVES: dict[str, dict[str, Any]] = {
    "raw cosines": {"preset": "as-released"},
    "cosines × 100": {"preset": "paper"},
    "both calibrated": {},
}
ALPHAS = [step / 20 for step in range(21)]


def held_out(parts: Parts, split: str) -> HeldOut:
    """What teacher and CLIP say of a split."""
    logits = [_logits(parts, teacher, split) for teacher in parts.teachers]
    return HeldOut(("teacher", "CLIP"), logits, parts.data.splits[split].labels_N, split)


def _logits(parts: Parts, teacher: Teacher, split: str) -> Tensor:
    return outputs_of(teacher, parts.stores.clean(split, teacher.framing), CPU).logits_BC


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of caltech101/ and clip-vitb32/")
    parser.add_argument("--teacher", type=Path, required=True, help="student folder of the teacher's run")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder of the JSON")
    arguments = parser.parse_args()
    settings = {
        "data.path": str(arguments.data / "caltech101"),
        "student.name": "mobilenetv3_small_050",
        "student.size": 64,
        "teachers.1.name": f"local-dir:{arguments.teacher}",
        "clip.name": f"outputs:{arguments.data / 'clip-vitb32' / 'caltech101_clip_vitb32.npz'}",
        "method.variant": "l",
        "fusion.preset": "paper",
    }
    parts = assemble(load_config(overrides=settings), CPU)
    fitted_on, judged_on = held_out(parts, "val"), held_out(parts, "test")
    ways, curves = {}, {}
    print("| | top-1 | NLL | ECE | signal, nats | fitted in |\n|---|---|---|---|---|---|")
    for name, selected in WAYS.items():
        began = time.perf_counter()
        fused: Fusion = fuse(FusionConfig(**selected), (1.0, 100.0), fitted_on)
        seconds = time.perf_counter() - began
        logits_NC = fused.logits(judged_on.logits)
        result = measure(logits_NC, judged_on.labels_N)
        nats = measure_target_shift(logits_NC, judged_on.logits[0], 3.0).nats
        figures = f"{result.top1:.2%} | {result.nll:.3f} | {result.ece:.4f} | {nats:.2g} | {seconds:.1f} s"
        print(f"| {name} | {figures} |")
        ways[name] = {"top1": result.top1, "nll": result.nll, "ece": result.ece, "signal": nats}
    for name, selected in CURVES.items():
        over = [
            fuse(FusionConfig(mixing="alpha", alpha=a, **selected), (1.0, 100.0), fitted_on) for a in ALPHAS
        ]
        metrics = [measure(fused.logits(judged_on.logits), judged_on.labels_N) for fused in over]
        curves[name] = {"top1": [m.top1 for m in metrics], "nll": [m.nll for m in metrics]}
    figures_of_all = {"machine": machine(), "ways": ways, "alphas": ALPHAS, "curves": curves}
    save(arguments.results / "fusion.json", figures_of_all)


if __name__ == "__main__":
    main()
