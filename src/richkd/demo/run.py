"""The embedded default: the whole pipeline on real handwritten digits with a tiny CLIP, in a few minutes.

A teacher learns from five labels a class; CLIP was trained on captioned renderings of printed glyphs and
has never seen handwriting; students learn from labels, from the teacher, and from both fused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from richkd.config.loading import load_config
from richkd.demo.digits import write_digits
from richkd.reporting.report.collect import collect
from richkd.reporting.report.page import write_report
from richkd.training.run import Run, distill

TINY_CLIP = Path(__file__).parent / "tiny_clip"
TEACHER, STUDENT = "cifar_resnet20", "cifar_resnet8"
SIZE, LABELS = 16, 5
SETTINGS: dict[str, Any] = {
    "student.size": SIZE,
    # A mirrored digit is another sign, or none.
    "augment.flip": False,
    "augment.pad": 2,
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 5,
    "train.batch_size": 25,
    "train.eval_every": 50,
    # So small a network gains nothing from bfloat16.
    "train.precision": "fp32",
}
EPOCHS = 150
NEGATIVES = {"objective.contrastive.num_negatives": 64}
STUDENTS: dict[str, dict[str, Any]] = {
    "student alone": {"method.name": "ce"},
    "KD from the teacher": {"method.name": "kd"},
    "KD from CLIP alone": {"method.name": "kd", "objective.kd.target": "clip"},
    "RichKD L": {"method.variant": "l"},
    "RichKD F": {"method.variant": "f", **NEGATIVES},
    "RichKD L+F": {"method.variant": "lf", **NEGATIVES},
}
# The teachers that each student reads: the vision teacher, CLIP, or both.
READS: dict[str, tuple[str, ...]] = {
    "student alone": (),
    "KD from the teacher": ("teacher",),
    "KD from CLIP alone": ("clip",),
}
# What the page at the end compares: what would be shipped, and its controls.
SHOWN = ("RichKD L", "KD from the teacher", "student alone")


def run_demo(out: Path, seed: int = 0) -> dict[str, Any]:
    """Run the demo and print its table; returns the summary of each student by name.

    Args:
        out: folder of the digits, the teacher and the students; what an earlier demo left is replaced.
        seed: seed of all runs.

    Raises:
        RichKDError: ``out`` cannot be written, or the extra ``demo`` is not installed.
    """
    console = Console(highlight=False)
    console.print(
        f"Real handwritten digits, {LABELS} labels per class, and a tiny CLIP trained on printed glyphs.",
        soft_wrap=True,
    )
    data = write_digits(out / "digits", size=SIZE, train_per_class=LABELS, val_per_class=10, seed=0)
    common = SETTINGS | {"data.path": str(data), "train.seed": seed}
    teacher = _train(
        console,
        f"teacher {TEACHER}",
        common | {"student.name": TEACHER, "method.name": "ce", "train.epochs": EPOCHS},
        out / "teacher",
    )
    sources: dict[str, dict[str, Any]] = {
        "teacher": {"teachers.1.name": f"local-dir:{teacher.folder / 'student'}"},
        "clip": {"clip.name": f"local-dir:{TINY_CLIP}", "clip.cache": str(out / "cache")},
    }
    common |= {"student.name": STUDENT, "train.epochs": EPOCHS}
    summaries = {}
    for name, settings in STUDENTS.items():
        read = READS.get(name, ("teacher", "clip"))
        chosen = common | settings | {key: v for source in read for key, v in sources[source].items()}
        if read:
            chosen["cache.dir"] = str(out / "teacher-cache")
        summaries[name] = _train(console, name, chosen, out / folder_of(name)).summary
    _print_table(console, summaries)
    console.print(f"\nThe students are in {out}/*/student; try one on a digit of the test split:")
    console.print(
        f"  richkd predict {out / 'richkd-lf'} {data / 'test' / 'seven'}/*.png --top 2", soft_wrap=True
    )
    shown = [str(out / folder_of(name)) for name in SHOWN]
    with console.status("writing the report"):
        page = write_report(collect(shown), out / "report")
    console.print(f"\nWhat the first of them is worth, as a page: {page}", soft_wrap=True, markup=False)
    return summaries


def folder_of(name: str) -> str:
    """The folder of a student of the demo."""
    return name.lower().replace(" ", "-").replace("+", "")


def _train(console: Console, name: str, settings: dict[str, Any], folder: Path) -> Run:
    with console.status(f"training {name}"):
        run = distill(load_config(overrides=settings | {"out": str(folder)}), overwrite=True, quiet=True)
    console.print(f"trained {name} in {run.summary['seconds']:.0f} s", markup=False)
    return run


def _print_table(console: Console, summaries: dict[str, Any]) -> None:
    teacher, clip, fused = list(summaries["RichKD L+F"]["teachers"]["test"].items())[:3]
    rows = {
        f"teacher ({TEACHER})": teacher[1],
        "CLIP (tiny, zero-shot)": clip[1],
        "teacher fused with CLIP": fused[1],
    }
    students = {name: summary["splits"]["test"] for name, summary in summaries.items()}
    images = next(iter(students.values()))["n"]
    table = Table(title=f"{images:,} test images", title_justify="left", box=None, pad_edge=False)
    for column in ("", "accuracy", "NLL", "calibration error (ECE)"):
        table.add_column(column, justify="left" if not column else "right")
    for group in (rows, students):
        for name, figures in group.items():
            table.add_row(name, f"{figures['top1']:.2%}", f"{figures['nll']:.3f}", f"{figures['ece']:.4f}")
        table.add_section()
    console.print()
    console.print(table)
