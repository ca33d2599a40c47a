"""The command ``richkd predict``; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def predict(
    model: Annotated[str, Parameter(help="student folder or run folder")],
    /,
    *images: Annotated[Path, Parameter(help="image files")],
    top: Annotated[int, Parameter(help="number of classes to print per image", show_default=True)] = 5,
) -> None:
    """Print the most probable classes of images.

    For example:

    richkd predict runs/small holiday.jpg garden.png --top 3
    """
    from richkd.core.errors import DataError
    from richkd.export.student import load_student

    if not images:
        raise DataError("No image was given", got="none", fix="richkd predict MODEL IMAGE [IMAGE …]")
    student = load_student(model)
    probs_BC = student.probabilities(images)
    for image, probs_C in zip(images, probs_BC, strict=True):
        best = probs_C.topk(min(top, len(student.class_names)))
        print(image)
        for probability, position in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            print(f"  {probability:6.1%}  {student.class_names[position]}")
