"""The run folder: settings, logs, checkpoints and results of a run.

::

    config.yaml        the resolved settings
    environment.json   versions, hardware and thread counts
    inputs.json        SHA-256 of every file that the settings name, such as weights
    speed.json         precision and compiling of each network, and measured times
    metrics.jsonl      one line per epoch, without times, so that equal runs give equal bytes
    timing.jsonl       seconds and images/s of each epoch
    events/            TensorBoard curves
    checkpoints/       last and best
    student/           the trained student
    summary.json       the final figures
    SHA256SUMS         SHA-256 of the files above, checked when they are read
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml

from richkd.config.schema import Config
from richkd.core.checksums import SUMS, check_hashes, forget_hashes, record_hashes
from richkd.core.errors import CheckpointError, ConfigError, RichKDError
from richkd.core.files import write_atomically
from richkd.models.speed import SPEED, read_speeds
from richkd.pipeline.inputs import INPUTS, hash_inputs, refuse_changed

PACKAGES = (
    "richkd",
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "datasets",
    "accelerate",
    "numpy",
    "pillow",
)

# Files that a run writes; --overwrite removes these and no others.
WRITTEN = (
    *(SUMS, "config.yaml", "environment.json", INPUTS, SPEED, "metrics.jsonl", "timing.jsonl"),
    *("summary.json", ".*.tmp"),
    *("checkpoints/last*.ckpt", "checkpoints/best*.ckpt", "checkpoints/.*.tmp"),
    *(
        f"student/{SUMS}",
        "student/README.md",
        "student/config.json",
        "student/model.safetensors",
        "student/.*.tmp",
    ),
    *("events/**/events.out.tfevents.*", "events/**/hparams.yml"),
)


# Records of a run that a resumed run reads or keeps.
RECORDS = ("config.yaml", "environment.json", INPUTS, SPEED)

# Settings on which no result depends. A run that lacked memory can be resumed with fewer workers.
MAY_DIFFER = frozenset({"train.workers"})


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
        """The figures of a finished run; None if the run is not finished.

        Raises:
            CheckpointError: ``summary.json`` is not as it was written.
        """
        path = self.path / "summary.json"
        if not path.exists():
            return None
        check_run(self.path, ("summary.json",), CheckpointError)
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return figures

    def accept(self, config: Config, *, resume: bool, overwrite: bool) -> None:
        """Check that the run can be started in this folder, without changing anything.

        Raises:
            CheckpointError: the folder is not empty and neither ``resume`` nor ``overwrite`` is set; there is
                no checkpoint to resume; a file of the run to resume is damaged; its settings, or the files
                that they name, such as weights, have changed since; the folder cannot be written.
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
            check_run(self.path, RECORDS, CheckpointError, growing=(self.metrics.name, self.timing.name))
            self._refuse_other_settings(config)
            refuse_changed(self.inputs(), config, self.path / INPUTS)
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

    def inputs(self) -> dict[str, dict[str, str]]:
        """SHA-256 of the files that the settings named when the run began; none in runs of version 0.1."""
        path = self.path / INPUTS
        try:
            recorded: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} must be readable", got=str(error), fix="remove it to resume without a comparison."
            ) from error
        return recorded

    def create(
        self, config: Config, speeds: Mapping[str, dict[str, Any]] = MappingProxyType({}), *, overwrite: bool
    ) -> None:
        """Create the folder and write settings, environment, hashes of input files, and speeds.

        Args:
            config: the settings of the run.
            speeds: precision and compiling of each network.
            overwrite: first remove the files of an earlier run.

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
        self.write_json("environment.json", environment())
        self.write_json(INPUTS, hash_inputs(config))
        self.write_json(SPEED, dict(speeds))

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically, and record its hash."""
        forget_hashes(self.path, [name])
        write_atomically(self.path / name, text.encode())
        record_hashes(self.path, [name])

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file atomically, and record its hash."""
        self.write_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

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

    def _refuse_other_settings(self, config: Config) -> None:
        try:
            saved = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CheckpointError(
                f"{self.path / 'config.yaml'} must hold the settings of the run to resume",
                got=f"{type(error).__name__}: {error}",
                fix="start again with --overwrite.",
            ) from error
        was, now = _flat(saved), _flat(yaml.safe_load(config.to_yaml()))
        names = sorted((was.keys() | now.keys()) - MAY_DIFFER)
        others = [name for name in names if was.get(name) != now.get(name)]
        if others:
            shown = [f"{name} {now.get(name)} where the run has {was.get(name)}" for name in others[:3]]
            difference = "; ".join(shown) + (f"; and {len(others) - 3} more" if len(others) > 3 else "")
            raise CheckpointError(
                f"A run must be resumed with the settings it was started with ({self.path / 'config.yaml'})",
                got=difference,
                fix=f"repeat the first command, or `-c {self.path / 'config.yaml'} --resume`.",
            )

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


def check_run(
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
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    return {name: v for key, inner in tree.items() for name, v in _flat(inner, f"{prefix}{key}.").items()}


def environment() -> dict[str, Any]:
    """Versions and hardware that a result can depend on.

    Example:
        >>> "torch" in environment()["packages"]
        True
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "packages": versions,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _commit() -> str | None:
    """The git commit of the source tree; None if it is not a git checkout."""
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
