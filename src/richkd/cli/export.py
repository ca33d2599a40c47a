"""The command ``richkd export``; no logic."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.options import ChosenCheckpoint, place, whole


def export(
    model: Annotated[str, Parameter(help="student folder, run folder or checkpoint")],
    /,
    *,
    to: Annotated[str, Parameter(help="onnx, pt2, openvino or executorch")],
    out: Annotated[
        Path | None,
        Parameter(help="file of the artifact (default: the name of the run, here)", converter=place),
    ] = None,
    raw: Annotated[
        bool, Parameter(help="leave out preprocessing, temperature and softmax", negative="")
    ] = False,
    data: Annotated[
        str | None, Parameter(help="labeled images for the comparison (default: those of the run)")
    ] = None,
    images: Annotated[
        str | None, Parameter(help="image, folder or pattern for the comparison, without labels")
    ] = None,
    check_images: Annotated[
        int, Parameter(help="number of images of the comparison", show_default=True, converter=whole)
    ] = 500,
    tolerance: Annotated[
        float, Parameter(help="largest difference of a probability from the student's", show_default=True)
    ] = 0.01,
    json: Annotated[bool, Parameter(help="print the result as JSON", negative="")] = False,
    checkpoint: ChosenCheckpoint = None,
) -> None:
    """Write a student as one file for another runtime, and prove that it has the same probabilities.

    The file takes decoded pictures of any size (uint8, N x H x W x 3, RGB). Resizing, cropping,
    normalization, temperature and softmax are inside. Class names, temperature and origin are in its
    metadata. It is kept only if its probabilities are those of the student within --tolerance.

    For example:

    richkd export runs/small --to onnx

    richkd predict small.onnx holiday.jpg
    """
    from richkd.cli.export_tables import print_export
    from richkd.core.json_text import to_json
    from richkd.core.terminal import log_to_stderr
    from richkd.export.run import ExportSettings, export_student

    settings = ExportSettings(to, out, raw, data, images, check_images, tolerance, checkpoint)
    with redirect_stdout(sys.stderr):
        result = export_student(model, settings, log_to_stderr)
    if json:
        print(to_json(result.to_dict()))
        return
    print_export(result)
