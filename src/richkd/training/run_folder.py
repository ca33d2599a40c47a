"""The run folder: settings, logs, checkpoints and results of a run.

::

    config.yaml        the resolved settings
    environment.json   versions, hardware and number of threads, also of sessions that resumed the run
    inputs.json        digests of images and other files that the run reads
    speed.json         precision and compiling of each network, and measured times
    metrics.jsonl      one line per epoch, without times, so that equal runs give equal bytes
    timing.jsonl       seconds and images/s of each epoch
    events/            TensorBoard curves
    checkpoints/       last and best, and student.json, which describes the network in them
    student/           the trained student
    summary.json       the final figures
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from richkd.config.schema import Config
from richkd.core.errors import CheckpointError, ConfigError
from richkd.core.files import write_atomically
from richkd.models.speed import SPEED, read_speeds
from richkd.training.environment import ENVIRONMENT, environment
from richkd.training.same_settings import refuse_other_settings

# Files that a run writes; --overwrite removes these and no others.
WRITTEN = (
    *("config.yaml", "environment.json", "inputs.json", "speed.json", "metrics.jsonl", "timing.jsonl"),
    *("summary.json", ".*.tmp"),
    *("checkpoints/student.json", "checkpoints/last*.ckpt", "checkpoints/best*.ckpt", "checkpoints/.*.tmp"),
    *("student/README.md", "student/config.json", "student/model.safetensors", "student/.*.tmp"),
    *("events/**/events.out.tfevents.*", "events/**/hparams.yml"),
)


class RunFolder:
    """Paths inside a run folder, and functions that write its small files.

    Args:
        path: the run folder; it need not exist.

    Example:
        >>> folder = RunFolder(Path("runs/small"))
        >>> folder.last.as_posix(), folder.student.as_posix()
        ('runs/small/checkpoints/last.ckpt', 'runs/small/student')
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "checkpoints" / "last.ckpt"
        self.best = path / "checkpoints" / "best.ckpt"
        self.student = path / "student"
        self.metrics = path / "metrics.jsonl"
        self.timing = path / "timing.jsonl"

    def summary(self) -> dict[str, Any] | None:
        """The figures of a finished run; None if the run is not finished."""
        path = self.path / "summary.json"
        if not path.exists():
            return None
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return figures

    def accept(self, config: Config, *, resume: bool, overwrite: bool) -> None:
        """Check that the run can be started in this folder, without changing anything.

        Raises:
            CheckpointError: the folder is not empty and neither ``resume`` nor ``overwrite`` is set; there is
                no checkpoint to resume; the settings differ from those of the run to resume; the folder
                cannot be written.
            ConfigError: both ``resume`` and ``overwrite`` are set.
        """
        occupied = self.path.is_dir() and any(self.path.iterdir())
        if self.path.exists() and not self.path.is_dir():
            raise CheckpointError(
                f"--out {self.path} must be a folder", got="a file", fix="choose another --out."
            )
        if resume and overwrite:
            raise ConfigError(
                "--resume and --overwrite exclude each other",
                got="both",
                fix="use --resume to resume the run, or --overwrite to replace it.",
            )
        if occupied and not resume and not overwrite:
            raise CheckpointError(
                f"--out {self.path} is not empty",
                got=", ".join(sorted(entry.name for entry in self.path.iterdir())[:5]),
                fix="resume the run with --resume, replace it with --overwrite, or choose another --out.",
            )
        if resume and not self.last.exists():
            raise CheckpointError(
                f"There is no checkpoint in {self.path} to resume from",
                fix="start it without --resume; add --overwrite if it stopped before its first checkpoint.",
            )
        if resume:
            refuse_other_settings(self.path, config)
        nearest_folder = next(
            folder for folder in (self.path, *self.path.absolute().parents) if folder.exists()
        )
        if not nearest_folder.is_dir() or not os.access(nearest_folder, os.W_OK):
            raise CheckpointError(
                f"--out {self.path} cannot be written",
                got=f"{nearest_folder} is not a folder with write permission",
                fix="choose another --out.",
            )

    def speeds(self) -> dict[str, dict[str, Any]]:
        """Precision and compiling of each network, as they were measured when the run began."""
        return read_speeds(self.path / SPEED)

    def create(
        self,
        config: Config,
        speeds: Mapping[str, dict[str, Any]] = MappingProxyType({}),
        *,
        overwrite: bool,
        session: Mapping[str, Any] | None = None,
    ) -> None:
        """Create the folder and write ``config.yaml``, ``environment.json`` and ``speed.json``.

        Args:
            config: the settings of the run.
            speeds: precision and compiling of each network.
            overwrite: first remove the files of an earlier run.
            session: content of ``environment.json``; by default, the environment of this process.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        try:
            if overwrite:
                self._clear()
            self.last.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"--out {self.path} cannot be written",
                got=error.strerror or str(error),
                fix="choose another --out.",
            ) from error
        self.write_text("config.yaml", config.to_yaml())
        self.write_json(ENVIRONMENT, session or environment(config.train.device))
        self.write_json(SPEED, dict(speeds))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        write_atomically(self.path / name, text.encode())

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file atomically."""
        self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def append(self, path: Path, record: Mapping[str, Any]) -> None:
        """Append a line to a ``.jsonl`` file.

        Raises:
            CheckpointError: the file cannot be written.
        """
        line = json.dumps(record) + "\n"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise CheckpointError(
                f"{path} could not be written ({len(line):,} bytes)",
                got=error.strerror or str(error),
                fix="free space, then resume the run with --resume.",
            ) from error

    def forget_after(self, epoch: int) -> None:
        """Remove incomplete lines and lines of epochs after ``epoch``; a resumed run computes these again."""
        for path in (self.metrics, self.timing):
            kept = [line for line in read_lines(path) if line["epoch"] <= epoch]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def _clear(self) -> None:
        # Other files in the folder belong to the user.
        for pattern in WRITTEN:
            for file in self.path.glob(pattern):
                file.unlink()
        for name in ("checkpoints", "student", "events"):
            folders = [f for f in (self.path / name).rglob("*") if f.is_dir() and not f.is_symlink()]
            for folder in sorted(folders, reverse=True):
                if not any(folder.iterdir()):
                    folder.rmdir()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a ``.jsonl`` file, without an incomplete last line; empty if the file does not exist.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "metrics.jsonl"
        >>> size = path.write_text('{"epoch": 0}\\n{"epoch": 1, "tra')
        >>> read_lines(path)
        [{'epoch': 0}]
        >>> folder.cleanup()
    """
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
