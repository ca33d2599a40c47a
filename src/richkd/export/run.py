"""Export a student: write it, open what was written, prove that both agree, and only then keep the file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richkd.core.errors import ConfigError, ModelError, RichKDError
from richkd.core.files import not_written, refuse_unwritable
from richkd.core.regular_files import kind_of
from richkd.core.temporary import remove_abandoned, temporary_folder
from richkd.core.visible import one_line
from richkd.export.artifact import load_artifact
from richkd.export.comparison import TOLERANCE, Comparison, compare_with_student, refuse_difference
from richkd.export.description import Description, describe, name_of
from richkd.export.format import Format, format_named
from richkd.export.from_checkpoint import Which
from richkd.export.graph import graph_of
from richkd.export.pictures import Pictures, pictures_of
from richkd.export.student import Student, load_student

# Pictures of the comparison.
MOST = 500


@dataclass(frozen=True)
class ExportSettings:
    """How a student is exported.

    Attributes:
        to: name of the format.
        out: file of the artifact; None for the name of the run in the current folder.
        raw: leave out preprocessing, temperature and softmax.
        data: labeled images for the comparison; None for those of the run.
        images: images without labels for the comparison, instead of ``data``.
        most: number of pictures of the comparison.
        tolerance: largest difference of a probability that is accepted.
        checkpoint: export this checkpoint of a run instead of its student.
    """

    to: str
    out: Path | None = None
    raw: bool = False
    data: str | None = None
    images: str | None = None
    most: int = MOST
    tolerance: float = TOLERANCE
    checkpoint: Which | None = None


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
        tolerance: largest difference of a probability that was accepted.
    """

    files: tuple[Path, ...]
    format: str
    version: str
    runtime: str
    bytes: int
    description: Description
    comparison: Comparison
    tolerance: float

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
        }


def export_student(
    model: str, settings: ExportSettings, log: Callable[[str], None] = lambda message: None
) -> Export:
    """Export a student to a file, and prove that the file has the student's probabilities.

    An existing file is replaced, after the proof.

    Args:
        model: folder of a student or run, or checkpoint of a run.
        settings: the format and the proof.
        log: receives progress messages, one line each.

    Raises:
        ConfigError: there is no such format, a package of it is missing, or the file has another suffix.
        ModelError: the network cannot be exported, or the artifact differs from it by more than the
            tolerance. Nothing is left on the disk then.
        CheckpointError: the file cannot be written.
        RichKDError: the student or the pictures cannot be opened.
    """
    check_numbers(settings)
    format = format_named(settings.to)
    out = place_of(model, settings, format.suffix)
    student = load_student(model, settings.checkpoint)
    description = describe(student, model, settings.checkpoint, raw=settings.raw)
    pictures = _pictures(model, student, settings, log)
    try:
        with temporary_folder(out.parent) as scratch:
            version = write_graph(format, student, description, scratch / out.name, settings)
            artifact = load_artifact(scratch / out.name)
            log(f"comparing with the student on {pictures.source}")
            comparison = compare_with_student(student, artifact, pictures)
            refuse_difference(student, artifact, comparison, settings.tolerance)
            runtime = artifact.opened.runtime
            del artifact
            files, size = keep(scratch, out)
    except OSError as error:
        raise not_written(out, 0, error) from error
    return Export(files, settings.to, version, runtime, size, description, comparison, settings.tolerance)


def place_of(model: str, settings: ExportSettings, suffix: str, infix: str = "") -> Path:
    """The file of the artifact; its folder can be written.

    Raises:
        ConfigError: ``out`` has another suffix.
        CheckpointError: the folder cannot be written, or ``out`` is no regular file.
    """
    out = settings.out
    if out is None:
        out = Path(f"{name_of(Path(model.removeprefix('local-dir:')))}{infix}{suffix}")
    if out.suffix != suffix:
        raise ConfigError(
            f"A file of the format {settings.to} must end in {suffix}",
            got=f"--out {out}",
            fix=f"--out {out.with_suffix(suffix) if out.name else suffix}",
        )
    if kind := kind_of(out):
        raise not_written(out, 0, OSError(0, f"{kind}, no regular file"))
    refuse_unwritable(out.parent)
    remove_abandoned(out.parent)
    return out


def write_graph(
    format: Format, student: Student, description: Description, path: Path, settings: ExportSettings
) -> str:
    """Write the graph of a student; returns the version of the format.

    Raises:
        ModelError: the network, such as that of a callable, has operations that cannot be exported.
    """
    try:
        return format.write(graph_of(student, raw=settings.raw), path, description.to_texts())
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


def check_numbers(settings: ExportSettings) -> None:
    """Check the numbers of the settings.

    Raises:
        ConfigError: a number is not positive.
    """
    for option, value in {"check-images": settings.most, "tolerance": settings.tolerance}.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"--{option} must be a positive number", got=str(value), fix="omit it.")


def _pictures(model: str, student: Student, settings: ExportSettings, log: Callable[[str], None]) -> Pictures:
    if student.note:
        log(f"model: {student.note}")
    pictures, reason = pictures_of(model, student.class_names, settings.data, settings.images, settings.most)
    if reason is not None:
        log(f"no real pictures, so {pictures.source} are compared (--data or --images): {reason}")
    return pictures
