"""The command ``richkd probe``; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.options import (
    Bank,
    Clip,
    Data,
    Overrides,
    Recipe,
    Seed,
    Student,
    Teacher,
    TeacherWeights,
    Unlabeled,
    config_of,
)


def probe(
    *overrides: Overrides,
    data: Data = None,
    student: Student = None,
    teacher: Teacher = None,
    teacher_weights: TeacherWeights = None,
    clip: Clip = None,
    bank: Bank = None,
    seed: Seed = None,
    unlabeled: Unlabeled = None,
    out: Annotated[Path | None, Parameter(help="folder for probe.html, a page, and probe.json")] = None,
    config: Recipe = None,
) -> None:
    """Say before any training whether CLIP will make a better teacher of your classes.

    Compares teacher, CLIP and their fusions on held-out images: the validation split, or
    --data.calibration DIR where the teacher was trained on everything.

    For example:

    richkd probe --data photos/ --student mobilenetv3_small_100 --teacher resnet50
    --teacher-weights teacher.pth --clip ViT-B-32:openai
    """
    import torch
    from rich.console import Console

    from richkd.pipeline.assemble import assemble
    from richkd.reporting.probe.page import write_probe
    from richkd.reporting.probe.probe import probe as compare
    from richkd.reporting.probe.terminal import print_probe

    options = {
        "data": data,
        "student": student,
        "teacher": teacher,
        "teacher-weights": teacher_weights,
        "clip": clip,
        "unlabeled": unlabeled,
        "bank": bank,
        "seed": seed,
        # All presets are compared; this one costs nothing to assemble.
        "method": "richkd",
        "variant": "l",
        "preset": "paper",
    }
    console = Console(highlight=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = config_of(config, options, overrides)
    parts = assemble(chosen, device, lambda line: console.print(line, markup=False, soft_wrap=True))
    found = compare(parts)
    parts.flush_banks()
    print_probe(found, console)
    if out is not None:
        page = write_probe(found, out, Path(chosen.data.path).name)
        console.print(f"page: {page}", markup=False, soft_wrap=True)
