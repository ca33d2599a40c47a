"""The run folder: settings, logs, checkpoints and results of a run.

::

    richkd.lock        the process that writes to the folder, while it runs
    config.yaml        the resolved settings
    environment.json   versions, hardware and number of threads, also of sessions that resumed the run
    inputs.json        digests of images, and SHA-256 of every file that the settings name, such as weights
    speed.json         precision and compiling of each network, and measured times
    factors.json       factors of fused targets, if fusion.entropy is set
    metrics.jsonl      one line per epoch, without times, so that equal runs give equal bytes
    timing.jsonl       seconds and images/s of each epoch
    events/            TensorBoard curves
    checkpoints/       last and best, and student.json, which describes the network in them
    student/           the trained student
    summary.json       the final figures
    SHA256SUMS         SHA-256 of the files above, checked when they are read
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from richkd.config.resumed import INPUTS, SETTINGS, recorded_inputs
from richkd.config.schema import Config
from richkd.core.checkpoint_file import previous_of
from richkd.core.checksums import SUMS, check_hashes, forget_hashes, record_hashes
from richkd.core.errors import CheckpointError, ConfigError, RichKDError
from richkd.core.files import refuse_unwritable, write_atomically
from richkd.core.folder_lock import LOCK, folder_lock
from richkd.core.json_text import to_json
from richkd.core.presence import exists, is_dir
from richkd.core.regular_files import read_regular
from richkd.core.structured import parse_json, read_json
from richkd.core.temporary import PATTERN, remove_abandoned
from richkd.models.speed import SPEED, read_speeds
from richkd.pipeline.named_files import hash_named_files
from richkd.pipeline.sharpen import FACTORS, Factors, read_factors
from richkd.training.environment import ENVIRONMENT, environment
from richkd.training.remove_run import RESULTS, remove_run
from richkd.training.same_settings import refuse_other_settings

# Records of a run that a resumed run reads or keeps.
RECORDS = (SETTINGS, ENVIRONMENT, INPUTS, SPEED, FACTORS)


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
        # Whether a process that held the lock of the folder was killed.
        self.abandoned = False

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint that a run can be resumed from."""
        return exists(self.last) or exists(previous_of(self.last))

    @property
    def before_checkpoint(self) -> bool:
        """Whether a run began here and was killed before its first checkpoint.

        No results are there then, and at most the line of one epoch: a folder with more is one whose
        checkpoints the user removed. Only a kill while an older run was being removed leaves more lines.
        """
        if self.has_checkpoint or any(True for pattern in RESULTS for _ in self.path.glob(pattern)):
            return False
        began = is_dir(self.last.parent) or exists(self.path / SETTINGS)
        return self.abandoned or (began and len(read_lines(self.metrics)) <= 1)

    def entries(self) -> list[str]:
        """Names in the folder, except for the lock and temporary files; none if there is no folder."""
        if not is_dir(self.path):
            return []
        names = sorted(entry.name for entry in self.path.iterdir())
        return [name for name in names if name != LOCK and not PATTERN.fullmatch(name)]

    def tidy(self) -> None:
        """Remove what a process left in a finished run, because it was killed before its very end."""
        if exists(self.path / LOCK):
            # Who still has the lock is about to end, and removes it.
            with suppress(CheckpointError), self.locked():
                pass

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context in which no other process can write to the folder, which is created.

        Temporary files of killed processes are removed at the start.

        Raises:
            CheckpointError: another process has the folder (the message names it), or it cannot be written.
        """
        self._refuse_unwritable()
        with folder_lock(self.path, f"--out {self.path}") as lock:
            self.abandoned = lock.taken_over
            for folder in (self.path, self.last.parent, self.student):
                remove_abandoned(folder)
            yield

    def finished(self, epochs: int) -> dict[str, Any] | None:
        """The figures of a run that has done this number of epochs; None if it has not.

        A finished run that is being lengthened has the figures of fewer epochs.

        Raises:
            CheckpointError: see `summary`.
        """
        figures = self.summary()
        return figures if figures is not None and figures["epochs"] == epochs else None

    def summary(self) -> dict[str, Any] | None:
        """The figures of a finished run; None if the run is not finished.

        Raises:
            CheckpointError: ``summary.json`` is not as it was written.
        """
        path = self.path / "summary.json"
        if not exists(path):
            return None
        check_run_hashes(self.path, ("summary.json",), CheckpointError)
        try:
            figures: dict[str, Any] = read_json(path)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} must hold the figures of the run",
                got=str(error),
                fix="start again with --overwrite.",
            ) from error
        return figures

    def accept(self, config: Config, *, resume: bool, overwrite: bool) -> None:
        """Check that the run can be started in this folder, without changing anything.

        Raises:
            CheckpointError: the folder is not empty and neither ``resume`` nor ``overwrite`` is set; there is
                no run to resume; a file of the run to resume is damaged; its settings, or the files that
                they name, such as weights, have changed since; the folder cannot be written.
            ConfigError: both ``resume`` and ``overwrite`` are set.
        """
        self._refuse_unwritable()
        entries = self.entries()
        if resume and overwrite:
            raise ConfigError(
                "--resume and --overwrite exclude each other",
                got="both",
                fix="use --resume to resume the run, or --overwrite to replace it.",
            )
        if entries and not resume and not overwrite:
            raise CheckpointError(
                f"--out {self.path} is not empty",
                got=", ".join(entries[:5]),
                fix="resume the run with --resume, replace it with --overwrite, or choose another --out.",
            )
        if resume and not (self.has_checkpoint or self.before_checkpoint):
            raise CheckpointError(
                f"There is no checkpoint in {self.path} to resume from",
                fix="check --out; a new run starts without --resume, or with --overwrite.",
            )
        # A run that was killed before it wrote its settings has nothing that other settings could contradict.
        if resume and (self.has_checkpoint or exists(self.path / SETTINGS)):
            check_run_hashes(
                self.path, RECORDS, CheckpointError, growing=(self.metrics.name, self.timing.name)
            )
            refuse_other_settings(self.path, config, same_length=not self.has_checkpoint)

    def speeds(self) -> dict[str, dict[str, Any]]:
        """Precision and compiling of each network, as they were measured when the run began."""
        return read_speeds(self.path / SPEED)

    def factors(self) -> Factors:
        """The factors of fused targets, as they were fitted when the run began."""
        return read_factors(self.path)

    def inputs(self) -> dict[str, Any]:
        """The record of what the run reads; empty if there is none, as in runs of version 0.1."""
        return recorded_inputs(self.path)

    def create(
        self,
        config: Config,
        speeds: Mapping[str, dict[str, Any]] = MappingProxyType({}),
        *,
        overwrite: bool,
        session: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        factors: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Create the folder and write settings, environment, inputs, speeds and factors.

        Args:
            config: the settings of the run.
            speeds: precision and compiling of each network.
            overwrite: first remove the files of an earlier run.
            session: content of ``environment.json``; by default, the environment of this process.
            inputs: content of ``inputs.json``; by default, without images.
            factors: factors of fused targets.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        try:
            if overwrite:
                remove_run(self.path)
            self.last.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"--out {self.path} cannot be written",
                got=error.strerror or str(error),
                fix="choose another --out.",
            ) from error
        self.write_text(SETTINGS, config.to_yaml())
        self.write_json(ENVIRONMENT, session or environment(config.train.device))
        self.write_json(INPUTS, inputs or {"files": hash_named_files(config)})
        self.write_json(SPEED, dict(speeds))
        if factors:
            self.write_json(FACTORS, factors)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically, and record its hash."""
        forget_hashes(self.path, [name])
        write_atomically(self.path / name, text.encode())
        record_hashes(self.path, [name])

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file atomically, and record its hash."""
        self.write_text(name, to_json(content, indent=2) + "\n")

    def append(self, path: Path, record: Mapping[str, Any]) -> None:
        """Append a line to a ``.jsonl`` file, and record the hash of the file.

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
        record_hashes(self.path, [path.name])

    def forget_after(self, epoch: int) -> None:
        """Remove incomplete lines and lines of epochs after ``epoch``; a resumed run computes these again."""
        for path in (self.metrics, self.timing):
            kept = [line for line in read_lines(path) if line["epoch"] <= epoch]
            self.write_text(path.name, "".join(json.dumps(line) + "\n" for line in kept))

    def _refuse_unwritable(self) -> None:
        try:
            is_other = exists(self.path) and not is_dir(self.path)
        except (OSError, ValueError) as error:
            got = getattr(error, "strerror", None) or str(error)
            raise CheckpointError(
                f"--out {self.path} must be a folder", got=got, fix="choose another --out."
            ) from error
        if is_other:
            raise CheckpointError(
                f"--out {self.path} must be a folder", got="a file", fix="choose another --out."
            )
        refuse_unwritable(self.path)


def check_run_hashes(
    folder: Path, names: Iterable[str], refusal: type[RichKDError], *, growing: Iterable[str] = ()
) -> None:
    """Check files of a run folder against its ``SHA256SUMS``; runs of version 0.1 have none.

    Args:
        folder: the run folder.
        names: the files.
        refusal: class of the error to raise.
        growing: see `check_hashes`.

    Raises:
        RichKDError: of class ``refusal``, if a file is not as it was written; the message names it.
    """
    fix = (
        "restore the file. Settings are changed in a copy of config.yaml outside the folder. "
        f"To accept a changed file, remove {folder / SUMS}."
    )
    check_hashes(folder, names, refusal, fix, growing=growing)


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
    if not exists(path):
        return []
    records = []
    for line in read_regular(path).decode(errors="replace").splitlines():
        try:
            records.append(parse_json(line))
        except ValueError:
            break
    return records
