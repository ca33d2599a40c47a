"""The command ``richkd predict``; no logic."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.options import ChosenCheckpoint, place, whole
from richkd.cli.usage_errors import options_of, reading_words
from richkd.core.quick_imports import quick_imports


def predict(
    model: Annotated[
        str, Parameter(help="student folder, run folder, checkpoint, or artifact of `richkd export`")
    ],
    /,
    *images: Annotated[
        str,
        Parameter(
            help="image files, folders or patterns; -: paths from standard input", allow_leading_hyphen=True
        ),
    ],
    top: Annotated[
        int, Parameter(help="number of classes to print per image", show_default=True, converter=whole)
    ] = 5,
    json: Annotated[bool, Parameter(help="print one JSON object per image", negative="")] = False,
    csv: Annotated[
        bool,
        Parameter(
            help="print CSV, one row per image and class",
            negative="",
        ),
    ] = False,
    out: Annotated[
        Path | None, Parameter(help="write to this file (.json, .jsonl, .csv or text)", converter=place)
    ] = None,
    checkpoint: ChosenCheckpoint = None,
) -> None:
    """Print the most probable classes of images.

    A run that is not finished predicts with its last checkpoint. Images that cannot be read are listed at the
    end, and the exit status is then not 0. Exact names are in JSON: text shows control characters as \\x1b,
    and in CSV an apostrophe precedes names that a spreadsheet would take for formulas.

    For example:

    richkd predict runs/small holiday.jpg garden.png --top 3

    richkd predict runs/small photos/ --out predictions.csv
    """
    with quick_imports():
        from richkd.cli import app
        from richkd.core.errors import ConfigError, DataError
        from richkd.core.files import refuse_no_file, write_atomically
        from richkd.core.temporary import remove_abandoned
        from richkd.core.terminal import log_to_stderr
        from richkd.export.artifact import open_classifier
        from richkd.export.predict import (
            Prediction,
            find_images,
            format_of,
            keep_errors,
            lines_of,
            predict_files,
            refuse_overwriting,
            unreadable,
            with_stdin,
        )

    if top < 1:
        raise ConfigError("--top must be at least 1", got=str(top), fix="give a number of classes.")
    if json and csv:
        raise ConfigError("Only one format can be written", got="--json and --csv", fix="choose one.")
    with reading_words():
        names = with_stdin(images, options_of(app["predict"].assemble_argument_collection()))
    if not names:
        raise DataError("No image was given", got="none", fix="richkd predict MODEL IMAGE [IMAGE …]")
    if out is not None:
        refuse_no_file(out, "predictions.csv")
    failed: list[Prediction] = []
    results = sys.stdout
    # The network of a callable may print, too, but not between the results.
    with redirect_stdout(sys.stderr):
        student = open_classifier(model, checkpoint)
        if student.note:
            log_to_stderr(f"model: {student.note}")
        files = find_images(names)
        if out is not None:
            refuse_overwriting(out, (*files, Path(model)))
        predictions = keep_errors(predict_files(student, files, top), failed)
        lines = lines_of(predictions, format_of(json=json, csv=csv, out=out))
        if out is None:
            for line in lines:
                print(line, file=results)
        else:
            remove_abandoned(out.parent)
            write_atomically(out, "".join(f"{line}\n" for line in lines).encode())
    if failed:
        raise unreadable(failed)
