"""Export a student: write it, open what was written, prove that both agree, and only then keep the file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richkd.core.errors import CheckpointError, ConfigError, DataError, ModelError, RichKDError
from richkd.core.files import not_written, refuse_unwritable
from richkd.core.logs import Log
from richkd.core.presence import stat_error
from richkd.core.regular_files import kind_of
from richkd.core.temporary import remove_abandoned, temporary_folder
from richkd.core.visible import one_line
from richkd.data.classes import check_same_classes
from richkd.export.artifact import load_artifact
from richkd.export.comparison import (
    ArtifactComparison,
    compare_with_student,
    refuse_batch,
    refuse_difference,
)
from richkd.export.description import FLOAT32, INT8, Description, describe
from richkd.export.format import Format, format_named
from richkd.export.from_checkpoint import Which
from richkd.export.graph import graph_of
from richkd.export.own_data import data_of
from richkd.export.pictures import Pictures, held_out_pictures, pictures_of, training_pictures
from richkd.export.places import name_of
from richkd.export.quantization import Int8Result, Int8Settings, accepted_drop, write_int8
from richkd.export.student import Student, load_student

# Pictures of the comparison, and of the measurement of accuracy.
MOST, MOST_LABELED = 500, 5000


@dataclass(frozen=True)
class ExportSettings:
    """How a student is exported.

    Attributes:
        to: name of the format.
        out: file of the artifact; None for the name of the run in the current folder.
        raw: leave out preprocessing, temperature and softmax.
        data: labeled images for the comparison; None for those of the run.
        images: images without labels for the comparison, instead of ``data``.
        most: number of pictures of the comparison; by default `MOST`, and `MOST_LABELED` with ``int8``.
        tolerance: largest difference of a probability that is accepted; by default that of the format.
        checkpoint: export this checkpoint of a run instead of its student.
        int8: how the network is quantized; None for float32.
    """

    to: str
    out: Path | None = None
    raw: bool = False
    data: str | None = None
    images: str | None = None
    most: int | None = None
    tolerance: float | None = None
    checkpoint: Which | None = None
    int8: Int8Settings | None = None


@dataclass(frozen=True)
class Export:
    """An artifact that was written; made by `export_student`.

    Attributes:
        files: the file of the artifact, and those beside it that belong to it.
        format: name of the format.
        version: version of the format.
        runtime: the runtime in which it was compared.
        bytes: size of all files.
        description: what is stored in it.
        comparison: how closely it follows the student.
        tolerance: largest difference of a probability that was accepted; with ``int8``, accuracy decides.
        int8: what quantization changed; None for float32.
    """

    files: tuple[Path, ...]
    format: str
    version: str
    runtime: str
    bytes: int
    description: Description
    comparison: ArtifactComparison
    tolerance: float
    int8: Int8Result | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary that can be written as JSON."""
        return {
            "files": [str(file) for file in self.files],
            "format": self.format,
            "version": self.version,
            "runtime": self.runtime,
            "bytes": self.bytes,
            "precision": self.description.precision,
            "description": self.description.to_texts(),
            "tolerance": self.tolerance,
            "comparison": self.comparison.to_dict(),
            "int8": None if self.int8 is None else self.int8.to_dict(),
        }


def export_student(model: str, settings: ExportSettings, log: Log = lambda message: None) -> Export:
    """Export a student to a file, and prove that the file has the student's probabilities.

    An existing file is replaced, after the proof.

    Args:
        model: folder of a student or run, checkpoint of a run, or name on the hub.
        settings: the format and the proof.
        log: receives progress messages, one line each.

    Raises:
        ConfigError: there is no such format, a package of it is missing, or the file has another suffix.
        ModelError: the network cannot be exported, or the artifact differs from it by more than the
            tolerance. Nothing is left on the disk then.
        CheckpointError: the file cannot be written.
        RichKDError: the student or the pictures cannot be opened.
    """
    check_settings(settings)
    format = format_named(settings.to)
    if format.raw_only and not settings.raw:
        raise ConfigError(
            f"The format {settings.to} has the network alone, without preprocessing and softmax",
            got="no --raw",
            fix="add --raw, or use another format.",
        )
    tolerance = settings.tolerance or format.tolerance
    out = place_of(model, settings, format.suffix)
    student = load_student(model, settings.checkpoint)
    precision = FLOAT32 if settings.int8 is None else INT8
    description = describe(student, model, raw=settings.raw, precision=precision)
    pictures, calibration = _pictures(model, student, settings, log)
    int8 = None
    try:
        with temporary_folder(out.parent) as scratch, temporary_folder(out.parent) as other:
            file = scratch / out.name
            version = write_graph(format, student, description, file, settings)
            if settings.int8 is not None:
                float_bytes = sum(one.stat().st_size for one in scratch.iterdir())
                log(f"calibrating on {calibration.source}")
                with _explained(student, settings):
                    write_int8(student, description, file, settings.int8, calibration, other)
            artifact = load_artifact(file)
            log(f"comparing with the student on {pictures.source}")
            comparison = compare_with_student(student, artifact, pictures)
            if settings.int8 is None:
                refuse_difference(student, artifact, comparison, tolerance)
            else:
                refuse_batch(artifact, tolerance)
                drop = accepted_drop(comparison, settings.int8.max_drop)
                int8 = Int8Result(drop, settings.int8.max_drop, float_bytes, calibration.source)
            runtime = artifact.opened.runtime
            files, size = keep(scratch, out)
    except OSError as error:
        raise not_written(out, 0, error) from error
    return Export(files, settings.to, version, runtime, size, description, comparison, tolerance, int8)


def place_of(model: str, settings: ExportSettings, suffix: str) -> Path:
    """The file of the artifact; its folder can be written.

    Raises:
        ConfigError: ``out`` has another suffix.
        CheckpointError: the folder cannot be written, ``out`` is no regular file, or its name is too long.
    """
    out = settings.out
    if out is None:
        infix = "" if settings.int8 is None else ".int8"
        out = Path(f"{name_of(model)}{infix}{suffix}")
    if out.suffix != suffix:
        raise ConfigError(
            f"A file of the format {settings.to} must end in {suffix}",
            got=f"--out {out}",
            fix=f"--out {out.with_suffix(suffix) if out.name else suffix}",
        )
    if kind := kind_of(out):
        raise not_written(out, 0, OSError(0, f"{kind}, no regular file"))
    refuse_unwritable(out.parent)
    if reason := stat_error(out):
        raise CheckpointError(f"--out {out} cannot be written", got=reason, fix="choose another --out.")
    remove_abandoned(out.parent)
    return out


def write_graph(
    format: Format, student: Student, description: Description, path: Path, settings: ExportSettings
) -> str:
    """Write the graph of a student; returns the version of the format.

    Raises:
        ModelError: the network, such as that of a callable, has operations that cannot be exported.
    """
    with _explained(student, settings):
        return format.write(graph_of(student, raw=settings.raw), path, description.to_texts())


@contextmanager
def _explained(student: Student, settings: ExportSettings) -> Iterator[None]:
    """Context in which any exception of a library becomes an error that names the network."""
    try:
        yield
    except (RichKDError, OSError):
        raise
    except Exception as error:
        logging.getLogger(__name__).debug("export failed", exc_info=True)
        raise ModelError(
            f"The network {student.network.name} must be exportable to {settings.to}",
            got=f"{type(error).__name__}: {one_line(error)[:500]}",
            fix="try another format, or --raw.",
        ) from error


def keep(scratch: Path, out: Path) -> tuple[tuple[Path, ...], int]:
    """Move the files of an artifact to their places, its main file last; returns them and their size.

    Raises:
        OSError: a file cannot be moved.
    """
    written = sorted(scratch.iterdir(), key=lambda file: (file.name == out.name, file.name))
    size = sum(file.stat().st_size for file in written)
    files = tuple(file.replace(out.with_name(file.name)) for file in written)
    return tuple(reversed(files)), size


def check_settings(settings: ExportSettings) -> None:
    """Check numbers, and options that exclude each other.

    Raises:
        ConfigError: a number is out of its range, or an option has no effect with the others.
    """
    for option, value in {"check-images": settings.most, "tolerance": settings.tolerance}.items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"--{option} must be a positive number", got=str(value), fix="omit it.")
    if settings.int8 is None:
        return
    settings.int8.check()
    if settings.to != "onnx":
        raise ConfigError("--int8 needs --to onnx", got=f"--to {settings.to}", fix="--to onnx --int8")
    if settings.images is not None:
        raise ConfigError(
            "--int8 needs labeled images, because it measures accuracy",
            got=f"--images {settings.images}",
            fix="give --data, or the folder of a run whose data exist.",
        )


def _pictures(model: str, student: Student, settings: ExportSettings, log: Log) -> tuple[Pictures, Pictures]:
    """The pictures for the comparison, and those for the calibration of integers."""
    if student.note:
        log(f"model: {student.note}")
    if settings.int8 is not None:
        data = data_of(model, settings.data)
        check_same_classes(
            data.class_names, student.class_names, where=f"student {model}", reference=data.path
        )
        measured = held_out_pictures(data, settings.most or MOST_LABELED)
        if measured.labels_N is None:
            raise DataError(f"{data.path} must have labels", got="none", fix="--data with labeled images.")
        return measured, training_pictures(data, settings.int8.images)
    pictures, reason = pictures_of(
        model, student.class_names, settings.data, settings.images, settings.most or MOST
    )
    if reason is not None:
        log(f"no real pictures, so {pictures.source} are compared (--data or --images): {reason}")
    return pictures, pictures
