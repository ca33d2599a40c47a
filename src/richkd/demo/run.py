"""The demo run: the whole pipeline on real handwritten digits with a tiny CLIP, in a few minutes.

The teacher is trained on five labeled images per class. CLIP was trained on renderings of printed glyphs with
captions, not on handwriting. Students are trained on the labels, on the teacher, on CLIP, and on the fusion
of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from richkd.config.loading import load_config
from richkd.config.resumed import SETTINGS as SETTINGS_FILE
from richkd.core.errors import CheckpointError
from richkd.core.home import expanded
from richkd.core.presence import resolved
from richkd.core.structured import read_yaml
from richkd.core.terminal import Terminal
from richkd.demo.digits import write_digits
from richkd.reporting.report.collect import collect
from richkd.reporting.report.page import write_report
from richkd.training.remove_run import WRITTEN
from richkd.training.run import Run, distill

TINY_CLIP = Path(__file__).parent / "tiny_clip"
TEACHER, STUDENT = "cifar_resnet20", "cifar_resnet8"
DIGITS, TEACHER_FOLDER = "digits", "teacher"
SIZE, LABELS = 16, 5
SETTINGS: dict[str, Any] = {
    "student.size": SIZE,
    # A mirrored digit is no digit, or another one.
    "augment.flip": False,
    "augment.pad": 2,
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 5,
    "train.batch_size": 25,
    "train.eval_every": 50,
    # bfloat16 does not speed up such small networks.
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
# The teachers that a student is trained with, if these are not both.
READS: dict[str, tuple[str, ...]] = {
    "student alone": (),
    "KD from the teacher": ("teacher",),
    "KD from CLIP alone": ("clip",),
}
# The students in the report: the one to deploy, and two baselines.
SHOWN = ("RichKD L", "KD from the teacher", "student alone")


def run_demo(out: str | Path, seed: int = 0) -> dict[str, Any]:
    """Train a teacher and several students on handwritten digits, print a table and write a report.

    Args:
        out: folder of the digits, the runs and the report; runs of an earlier demo are replaced, and no
            others.
        seed: seed of all runs.

    Returns:
        The content of ``summary.json`` of each student, by name.

    Raises:
        CheckpointError: a folder that the demo would replace holds another run.
        RichKDError: ``out`` cannot be written, or the extra ``demo`` is not installed.
    """
    out = Path(out)
    _refuse_other_runs(out, [TEACHER_FOLDER, *map(folder_of, STUDENTS)])
    console = Terminal()
    console.print(
        f"Data: real handwritten digits, {LABELS} labels per class. CLIP: tiny, trained on printed glyphs.",
        soft_wrap=True,
    )
    data = write_digits(out / DIGITS, size=SIZE, train_per_class=LABELS, val_per_class=10, seed=0)
    common = SETTINGS | {"data.path": str(data), "train.seed": seed}
    teacher = _train(
        console,
        f"teacher {TEACHER}",
        common | {"student.name": TEACHER, "method.name": "ce", "train.epochs": EPOCHS},
        out / TEACHER_FOLDER,
    )
    sources: dict[str, dict[str, Any]] = {
        "teacher": {"teachers.1.name": f"local-dir:{teacher.folder / 'student'}"},
        "clip": {"clip.name": f"local-dir:{TINY_CLIP}", "clip.cache": str(out / "cache")},
    }
    common |= {"student.name": STUDENT, "train.epochs": EPOCHS}
    summaries = {}
    for name, settings in STUDENTS.items():
        used = READS.get(name, ("teacher", "clip"))
        selected = common | settings | {key: v for source in used for key, v in sources[source].items()}
        if used:
            selected["cache.dir"] = str(out / "teacher-cache")
        summaries[name] = _train(console, name, selected, out / folder_of(name)).summary
    _print_table(console, summaries)
    console.print()
    console.print(f"The students are in {out}/*/student. To classify test images with one of them:")
    console.print(
        f"  richkd predict {out / 'richkd-lf'} {data / 'test' / 'seven'}/*.png --top 2", soft_wrap=True
    )
    runs = [str(out / folder_of(name)) for name in SHOWN]
    with console.status("writing the report"):
        page = write_report(collect(runs), out / "report")
    console.print()
    console.print(f"Report on {', '.join(SHOWN)}: {page}", soft_wrap=True)
    return summaries


def folder_of(name: str) -> str:
    """The name of the folder of a student of the demo.

    Example:
        >>> folder_of("RichKD L+F")
        'richkd-lf'
    """
    return name.lower().replace(" ", "-").replace("+", "")


def _refuse_other_runs(out: Path, names: Sequence[str]) -> None:
    """Refuse to replace a run that was not trained on the digits of the demo in ``out``."""
    for folder in (out / name for name in names):
        has_files = any(True for pattern in WRITTEN for _ in folder.glob(pattern))
        if has_files and (other := _other_data(folder, out / DIGITS)) is not None:
            raise CheckpointError(
                f"The demo writes to {folder}, and must not replace a run of yours there",
                got=other,
                fix=f"choose another --out, such as --out {out / 'demo'}.",
            )


def _other_data(run: Path, digits: Path) -> str | None:
    """What a run was trained on, for messages; None if these are the digits."""
    try:
        path = str(read_yaml(run / SETTINGS_FILE)["data"]["path"])
        return None if resolved(expanded(path)) == resolved(digits) else f"a run with the data {path}"
    except (OSError, ValueError, LookupError, TypeError):
        return f"a run without a {SETTINGS_FILE} that can be read"


def _train(console: Terminal, name: str, settings: dict[str, Any], folder: Path) -> Run:
    with console.status(f"training {name}"):
        run = distill(load_config(overrides=settings | {"out": str(folder)}), overwrite=True, quiet=True)
    console.print(f"trained {name} in {run.summary['seconds']:.0f} s")
    return run


def _print_table(console: Terminal, summaries: dict[str, Any]) -> None:
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
