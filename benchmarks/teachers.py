"""Published CIFAR-100 teachers as several teachers: how good a teacher each way of mixing makes of them.

    python benchmarks/teachers.py --data DATA

Fitted on a fifth of the test split, judged on the other four fifths, as a run with
``data.test_calibration_fraction 0.2`` does. The best part stands beside them, at a temperature
fitted on the same images.
Prints them, and writes ``teachers.json`` for the pictures of ``benchmarks/fusion_plots.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from timing import machine, save

from richkd.config.loading import load_config
from richkd.config.schema import FusionConfig
from richkd.fusion.fuse import fuse
from richkd.fusion.held_out import HeldOut
from richkd.metrics.accuracy import measure
from richkd.metrics.calibration import fit_temperature
from richkd.pipeline.assemble import assemble
from richkd.teachers.predict import outputs_of

CPU = torch.device("cpu")
TEACHERS = ("cifar_resnet56", "cifar_resnet44", "cifar_resnet32")
WAYS: dict[str, dict[str, str]] = {
    "mean of logits": {"scale": "raw", "mixing": "alpha"},
    "`temperature`, equal": {"scale": "temperature", "mixing": "alpha"},
    "`confidence`": {"mixing": "confidence"},
    "`simplex`": {"mixing": "simplex"},
    "`linear`": {"mixing": "linear"},
    "`log-pool`": {"mixing": "log-pool"},
    "`zscore`, `log-pool`": {"scale": "zscore", "mixing": "log-pool"},
    "`gate`": {"mixing": "gate"},
    "`per-class`": {"mixing": "per-class"},
    "`default`": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of cifar100/, cifar100-teachers/")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder of the JSON")
    arguments = parser.parse_args()
    weights = arguments.data / "cifar100-teachers"
    teachers = [
        {"name": name, "weights": str(weights / f"cifar100_{name.removeprefix('cifar_')}.pth")}
        for name in TEACHERS
    ]
    settings = {
        "data.path": str(arguments.data / "cifar100"),
        "data.label_column": "fine_label",
        "data.val_fraction": 0,
        "data.test_calibration_fraction": 0.2,
        "student.name": "cifar_resnet20",
        "teachers": teachers,
        "method.name": "kd",
        "fusion.scale": "raw",
        "fusion.mixing": "alpha",
    }
    parts = assemble(load_config(overrides=settings), CPU)
    fit_N, test_N = (parts.data.splits[name].labels_N for name in ("calibration", "test"))
    before, after = (
        [
            outputs_of(teacher, parts.stores.clean(name, teacher.framing), CPU).logits_BC
            for teacher in parts.teachers
        ]
        for name in ("calibration", "test")
    )
    print(f"fitted on {len(fit_N):,} images, judged on {len(test_N):,}")
    ways = {}
    for name, fit_NC, test_NC in zip(TEACHERS, before, after, strict=True):
        _judge(name, test_NC, test_N)
        calibrated = f"{name}, calibrated"
        ways[calibrated] = _judge(calibrated, test_NC / fit_temperature(fit_NC, fit_N), test_N)
    held_out = HeldOut(TEACHERS, before, fit_N, "calibration")
    for name, selected in WAYS.items():
        fused = fuse(FusionConfig(**selected), (1.0,) * len(TEACHERS), held_out, clip=False)  # type: ignore[arg-type]
        ways[name] = _judge(name, fused.logits(after), test_N)
        print(f"    {fused.origin}")
    save(arguments.results / "teachers.json", {"machine": machine(), "ways": ways})


def _judge(name: str, logits_NC: torch.Tensor, labels_N: torch.Tensor) -> dict[str, float]:
    figures = measure(logits_NC, labels_N)
    print(f"{name:32} {figures.top1:.2%}  NLL {figures.nll:.4f}  ECE {figures.ece:.4f}", flush=True)
    return {"top1": figures.top1, "nll": figures.nll, "ece": figures.ece}


if __name__ == "__main__":
    main()
