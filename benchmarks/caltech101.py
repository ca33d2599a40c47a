"""Students of Caltech-101 from a teacher trained on the same images and from real CLIP ViT-B/32 outputs.

    python benchmarks/caltech101.py --data DATA --out runs/caltech101

DATA holds ``caltech101/`` (parquet) and ``clip-vitb32/caltech101_clip_vitb32.npz``. Trains the teacher
once, then every configuration below with each seed and the same budget, and prints mean ± standard
deviation of last-epoch test accuracy. What was finished is read back, so a stopped comparison goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from richkd import distill, load_config

STUDENT, TEACHER = "mobilenetv3_small_050", "resnet10t"
COMMON: dict[str, Any] = {
    "student.size": 64,
    "augment.pad": 4,
    # Losses of these configurations differ up to tenfold in size, which AdamW's steps do not follow: one
    # learning rate is then as fair to all as it can be.
    "optim.name": "adamw",
    "optim.lr": 2e-3,
    "optim.weight_decay": 0.05,
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 2,
    "train.batch_size": 32,
    # Depthwise convolutions are slower in bfloat16 than in float32 on a CPU.
    "train.precision": "fp32",
    "train.eval_every": 1000,
    "train.trackers": [],
}
# Memory banks of 1,600 rows have few others to draw from.
NEGATIVES: dict[str, Any] = {"objective.contrastive.num_negatives": 1024}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "labels alone": {"method.name": "ce"},
    "KD": {"method.name": "kd"},
    "KD, logits × 0.7 (control)": {"method.name": "kd", "fusion.weights": [0.7]},
    "RichKD L, as released": {"method.variant": "l", "fusion.preset": "as-released"},
    "RichKD L, paper": {"method.variant": "l", "fusion.preset": "paper"},
    "RichKD L, log-pool": {"method.variant": "l", "fusion.mixing": "log-pool"},
    "RichKD F, log-pool": NEGATIVES | {"method.variant": "f", "fusion.mixing": "log-pool"},
    "RichKD L+F, log-pool": NEGATIVES | {"method.variant": "lf", "fusion.mixing": "log-pool"},
    "CLIP alone (α = 0)": {"method.variant": "l", "fusion.alpha": 0, "fusion.preset": "paper"},
}


def sources_of(
    selected: Mapping[str, Any], teacher: Mapping[str, Any], clip: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of the teachers that a student's method reads; those of others would be refused."""
    method = selected.get("method.name", "richkd")
    return {"ce": {}, "kd": {**teacher}}.get(method, {**teacher, **clip})


def run(settings: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """One run's summary, read back where the run is finished."""
    summary = out / "summary.json"
    if not summary.exists():
        distill(load_config(overrides=dict(settings) | {"out": str(out)}), overwrite=True, quiet=True)
    finished: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return finished


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of caltech101/ and clip-vitb32/")
    parser.add_argument("--out", type=Path, default=Path("runs/caltech101"), help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--teacher-epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    data = {"data.path": str(arguments.data / "caltech101")}
    taught = run(
        COMMON
        | data
        | {"student.name": TEACHER, "method.name": "ce", "train.precision": "auto"}
        | {"train.epochs": arguments.teacher_epochs},
        arguments.out / "teacher",
    )
    print(f"teacher {TEACHER}: {taught['splits']['test']['top1']:.2%} on test", flush=True)
    teacher = {"teachers.1.name": f"local-dir:{arguments.out / 'teacher' / 'student'}"}
    clip = {"clip.name": f"outputs:{arguments.data / 'clip-vitb32' / 'caltech101_clip_vitb32.npz'}"}
    accuracies: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
    for seed in arguments.seeds:
        for name, selected in CONFIGURATIONS.items():
            settings = COMMON | data | {"student.name": STUDENT, "train.epochs": arguments.epochs}
            settings |= sources_of(selected, teacher, clip)
            folder = "".join(c if c.isalnum() else "-" for c in name)
            summary = run(settings | {"train.seed": seed} | selected, arguments.out / f"{folder}-{seed}")
            accuracies[name].append(100 * summary["splits"]["test"]["top1"])
            print(f"seed {seed}  {name:28}  {accuracies[name][-1]:.2f}  {summary['seconds']} s", flush=True)
    print(f"\n{arguments.epochs} epochs, batch 32, seeds {arguments.seeds}: test top-1")
    for name, values in accuracies.items():
        spread = stdev(values) if len(values) > 1 else float("nan")
        print(f"{name:28}  {mean(values):.2f} ± {spread:.2f}")


if __name__ == "__main__":
    main()
