"""The command ``richkd export``; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from richkd.cli.json_output import Json, json_only
from richkd.cli.options import ChosenCheckpoint, place, whole
from richkd.core.quick_imports import quick_imports


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
        int | None,
        Parameter(
            help="number of images of the comparison (default: 500; 5,000 with --int8)", converter=whole
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        Parameter(
            help="largest difference of a probability from the student's (default: 0.01; openvino 0.05)"
        ),
    ] = None,
    int8: Annotated[
        bool, Parameter(help="quantize the network to 8-bit integers (onnx only)", negative="")
    ] = False,
    max_drop: Annotated[
        float | None, Parameter(help="largest loss of accuracy in int8, in points (default: 1)")
    ] = None,
    calibration: Annotated[
        Literal["minmax", "percentile", "entropy"] | None,
        Parameter(help="how int8 finds ranges of activations (default: minmax)"),
    ] = None,
    calibration_images: Annotated[
        int | None, Parameter(help="number of training images for this (default: 256)", converter=whole)
    ] = None,
    reduce_range: Annotated[
        bool, Parameter(help="int8 weights of 7 bits, for x86 processors without VNNI", negative="")
    ] = False,
    float_ends: Annotated[
        bool, Parameter(help="keep the first and the last layer in float32", negative="")
    ] = False,
    json: Json = False,
    checkpoint: ChosenCheckpoint = None,
) -> None:
    """Write a student as one file for another runtime, and prove that it has the same probabilities.

    The file takes decoded pictures of any size (uint8, N x H x W x 3, RGB). Resizing, cropping,
    normalization, temperature and softmax are inside. Class names, temperature and origin are in its
    metadata. It is kept only if its probabilities are those of the student within --tolerance.

    For example:

    richkd export runs/small --to onnx

    richkd export runs/small --to onnx --int8

    richkd predict small.onnx holiday.jpg
    """
    with quick_imports():
        from richkd.cli.export_tables import print_export
        from richkd.core.terminal import log_to_stderr
        from richkd.export.quantization import read_int8_settings
        from richkd.export.run import ExportSettings, export_student

    given = {
        "max_drop": max_drop,
        "calibration": calibration,
        "images": calibration_images,
        "reduce_range": reduce_range,
        "float_ends": float_ends,
    }
    quantized = read_int8_settings(int8, given)
    settings = ExportSettings(to, out, raw, data, images, check_images, tolerance, checkpoint, quantized)
    # The network of a callable may print, too, but not between the results.
    with json_only(True) as write:
        result = export_student(model, settings, log_to_stderr)
        if json:
            write(result.to_dict())
    if not json:
        print_export(result)
