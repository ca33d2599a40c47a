"""The command ``richkd probe``; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.options import (
    Augmentation,
    Clip,
    Data,
    Overrides,
    Seed,
    Student,
    Teacher,
    TeacherCache,
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
    teacher_cache: TeacherCache = None,
    seed: Seed = None,
    unlabeled: Unlabeled = None,
    out: Annotated[Path | None, Parameter(help="folder for probe.html, a page, and probe.json")] = None,
    config: Augmentation = None,
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
    from richkd.reporting.probe.probe import run_probe
    from richkd.reporting.probe.terminal import print_probe

    options = {
        "data": data,
        "student": student,
        "teacher": teacher,
        "teacher-weights": teacher_weights,
        "clip": clip,
        "unlabeled": unlabeled,
        "teacher-cache": teacher_cache,
        "seed": seed,
        # All presets are compared; this one costs nothing to assemble.
        "method": "richkd",
        "variant": "l",
        "preset": "paper",
    }
    console = Console(highlight=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    selected = config_of(config, options, overrides)
    parts = assemble(selected, device, lambda line: console.print(line, markup=False, soft_wrap=True))
    result = run_probe(parts)
    parts.flush_caches()
    print_probe(result, console)
    if out is not None:
        page = write_probe(result, out, Path(selected.data.path).name)
        console.print(f"page: {page}", markup=False, soft_wrap=True)
