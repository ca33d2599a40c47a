"""The commands: they read options, call the library, and print. No logic lives here."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError
from rich.console import Console
from rich.table import Table

from richkd.cli.cache import cache
from richkd.cli.evaluate import evaluate
from richkd.cli.options import (
    Augmentation,
    Clip,
    Data,
    Epochs,
    Method,
    Out,
    Overrides,
    Overwrite,
    Resume,
    Seed,
    Student,
    Teacher,
    TeacherCache,
    TeacherWeights,
    Unlabeled,
    config_of,
)
from richkd.cli.probe import probe
from richkd.cli.report import report
from richkd.config.loading import settings
from richkd.config.schema import Config
from richkd.core.errors import RichKDError

app = App(
    name="richkd",
    help="Distil a big image classifier, fused with CLIP, into a small one that you would ship.",
    version_flags=["--version"],
)

app.command(cache)
app.command(evaluate)
app.command(report)
app.command(probe)


@app.command
def distill(
    *overrides: Overrides,
    data: Data = None,
    student: Student = None,
    teacher: Teacher = None,
    teacher_weights: TeacherWeights = None,
    clip: Clip = None,
    unlabeled: Unlabeled = None,
    teacher_cache: TeacherCache = None,
    method: Method = None,
    variant: Annotated[str | None, Parameter(help="richkd: l, f or lf (default)")] = None,
    preset: Annotated[str | None, Parameter(help="fusion: default, paper or as-released")] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    out: Out = None,
    config: Augmentation = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a small student from a vision teacher fused with CLIP.

    Any other setting is given as --section.name VALUE (see `richkd settings`).

    For example:

    richkd distill --data photos/ --student mobilenetv3_small_100 --student.size 128
    --teacher local-dir:runs/teacher/student --clip ViT-B-32:datacomp_xl_s13b_b90k --out runs/small
    """
    options = {
        "data": data,
        "student": student,
        "teacher": teacher,
        "teacher-weights": teacher_weights,
        "clip": clip,
        "unlabeled": unlabeled,
        "teacher-cache": teacher_cache,
        "method": method,
        "variant": variant,
        "preset": preset,
        "epochs": epochs,
        "seed": seed,
        "out": out,
    }
    _train(config_of(config, options, overrides), resume=resume, overwrite=overwrite)


@app.command
def teach(
    *overrides: Overrides,
    data: Data = None,
    model: Annotated[str | None, Parameter(help="timm name or package.module:callable")] = None,
    weights: Annotated[Path | None, Parameter(help="checkpoint to start from")] = None,
    folds: Annotated[
        int | None,
        Parameter(help="train so many, each without a fold of the images"),
    ] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    out: Out = None,
    config: Augmentation = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a teacher from labels alone: the same loop with plain cross-entropy.

    The result serves as --teacher local-dir:OUT/student; that of --folds K as --teacher folds:OUT, where
    each image is answered by the teacher that has not learned from it. Settings of the model are those of
    --student.*.

    For example:

    richkd teach --data photos/ --model resnet50 --student.pretrained true --out runs/teacher
    """
    options = {
        "data": data,
        "model": model,
        "weights": weights,
        "epochs": epochs,
        "seed": seed,
        "out": out,
        "method": "ce",
    }
    _train(config_of(config, options, overrides), resume=resume, overwrite=overwrite, folds=folds)


@app.command
def check(
    *overrides: Overrides,
    data: Data = None,
    student: Student = None,
    teacher: Teacher = None,
    teacher_weights: TeacherWeights = None,
    clip: Clip = None,
    unlabeled: Unlabeled = None,
    teacher_cache: TeacherCache = None,
    method: Method = None,
    config: Augmentation = None,
) -> None:
    """Open and try everything a run needs, without training, and print the plan.

    Decodes every image, compares class names and their order across data, teacher and CLIP, runs one
    forward pass, and reports images that are in both train and test.

    For example:

    richkd check --data photos/ --student resnet18 --teacher local-dir:runs/teacher/student
    --clip ViT-B-32:datacomp_xl_s13b_b90k
    """
    from richkd.training.check import check_run

    options = {
        "data": data,
        "student": student,
        "teacher": teacher,
        "teacher-weights": teacher_weights,
        "clip": clip,
        "unlabeled": unlabeled,
        "teacher-cache": teacher_cache,
        "method": method,
    }
    check_run(config_of(config, options, overrides), Console(highlight=False))


@app.command
def predict(
    model: Annotated[str, Parameter(help="student folder or run folder")],
    /,
    *images: Annotated[Path, Parameter(help="image files")],
    top: Annotated[int, Parameter(help="classes to show for each image")] = 5,
) -> None:
    """Print the most probable classes of images.

    For example:

    richkd predict runs/small holiday.jpg garden.png --top 3
    """
    from richkd.core.errors import DataError
    from richkd.export.student import load_student

    if not images:
        raise DataError("No image was given", fix="richkd predict MODEL IMAGE [IMAGE …]")
    student = load_student(model)
    probs_BC = student.probabilities(images)
    for image, probs_C in zip(images, probs_BC, strict=True):
        best = probs_C.topk(min(top, len(student.class_names)))
        print(image)
        for probability, position in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            print(f"  {probability:6.1%}  {student.class_names[position]}")


@app.command(name="settings")
def show_settings() -> None:
    """List every setting with its default: names for recipes and for --section.name VALUE.

    For example:

    richkd settings
    """
    table = Table("setting", "default", "meaning", box=None, pad_edge=False)
    for name, default, description in settings():
        table.add_row(name, default, description)
    Console(highlight=False).print(table)


@app.command
def demo(
    *,
    out: Annotated[Path, Parameter(help="folder for the demo's data and runs")] = Path("runs/demo"),
    seed: Annotated[int, Parameter(help="seed of all runs")] = 0,
) -> None:
    """Run the whole pipeline on real handwritten digits with a tiny CLIP; nothing is downloaded.

    For example:

    richkd demo --out runs/demo
    """
    from richkd.demo.run import run_demo

    run_demo(out, seed)


def main(argv: Iterable[str] | None = None) -> None:
    """Entry point: users' mistakes end with a message and status 1, a stop by signal with 130."""
    console = Console(stderr=True, highlight=False)
    try:
        app(argv, exit_on_error=False, print_error=True)
    except CycloptsError:
        sys.exit(2)
    except RichKDError as error:
        console.print(f"[bold red]error:[/] [bold]{type(error).__name__}[/]")
        console.print(str(error), markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped.")
        sys.exit(130)


def _train(config: Config, *, resume: bool, overwrite: bool, folds: int | None = None) -> None:
    from richkd.core.interrupt import Interrupted
    from richkd.training.run import distill, teach_folds

    try:
        if folds is None:
            distill(config, resume=resume, overwrite=overwrite)
        else:
            teach_folds(config, folds, resume=resume, overwrite=overwrite)
    except Interrupted:
        print("\nstopped and saved; go on with the same command and --resume")
        sys.exit(130)
