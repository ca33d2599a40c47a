"""What the page says about a run itself: its settings, summary, training curves and machine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richkd.config.model_name import parse_model_name
from richkd.core.errors import DataError
from richkd.core.presence import folder_name, is_dir, is_file
from richkd.core.regular_files import read_regular
from richkd.core.structured import parse_json, read_json
from richkd.training.run_folder import check_run_hashes


@dataclass(frozen=True)
class RunFacts:
    """Content of a run folder; made by `read_run`.

    Attributes:
        name: name of the folder; its path, if another run on the page has that name.
        folder: its path, as it was given.
        settings: text of ``config.yaml``.
        summary: content of ``summary.json``.
        epochs: metrics of each epoch (``metrics.jsonl``).
        environment: content of ``environment.json``: machine and package versions.
    """

    name: str
    folder: str
    settings: str
    summary: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    environment: dict[str, Any]

    @property
    def watt_hours(self) -> float | None:
        """Energy of the processor during training in Wh; None if the machine has no energy counter.

        Example:
            >>> RunFacts("run", "runs/run", "", {"joules": 7200.0}, (), {}).watt_hours
            2.0
        """
        joules = self.summary.get("joules")
        return None if joules is None else joules / 3600

    @property
    def command(self) -> str:
        """The command that repeats the run, for a shell.

        Example:
            >>> RunFacts("small", "my runs/small", "", {"method": "kd"}, (), {}).command
            "richkd distill -c 'my runs/small/config.yaml'"
        """
        verb = "teach" if self.summary["method"] == "ce" else "distill"
        return f"richkd {verb} -c {shlex.quote(str(Path(self.folder, 'config.yaml')))}"


def read_run(folder: str | Path) -> RunFacts:
    """Read the settings, summary, epochs and environment of a finished run.

    Args:
        folder: the run folder.

    Raises:
        DataError: a file is missing, cannot be read, or is not as it was written; the message names it.
    """
    if not str(folder).strip():
        # An empty path, as of an unset variable of the shell, would be the current folder.
        raise DataError(
            "The path of a run must not be empty", got=repr(folder), fix="give the --out folder of a run."
        )
    folder = Path(folder)
    for name in ("config.yaml", "summary.json", "metrics.jsonl", "environment.json"):
        if not is_file(folder / name):
            raise DataError(
                f"{folder} must be the folder of a finished run",
                got=f"no {name} in it" if is_dir(folder) else "no such folder",
                fix="give the --out folder of a run; finish a stopped run with --resume.",
            )
    try:
        summary = read_json(folder / "summary.json")
        environment = read_json(folder / "environment.json")
        lines = read_regular(folder / "metrics.jsonl").decode().splitlines()
        epochs = tuple(parse_json(line) for line in lines if line.strip())
        _check_figures(summary, environment, epochs)
        settings = read_regular(folder / "config.yaml").decode()
    except (OSError, ValueError) as error:
        raise DataError(
            f"The files of the run {folder} cannot be read", got=str(error), fix="run it again."
        ) from error
    check_run_hashes(folder, ("config.yaml", "summary.json", "metrics.jsonl", "environment.json"), DataError)
    return RunFacts(last_folder(str(folder)), str(folder), settings, summary, epochs, environment)


def _check_figures(summary: Any, environment: Any, epochs: Sequence[Any]) -> None:
    """Check what the page shows without asking."""
    if not all(isinstance(part, dict) for part in (summary, environment, *epochs)):
        raise ValueError("summary.json, environment.json and each line of metrics.jsonl must be objects")
    lacking = {"teachers", "method", "seed", "epochs", "seconds"} - summary.keys()
    if lacking or not isinstance(summary["seconds"], int | float):
        raise ValueError(f"summary.json lacks {', '.join(sorted(lacking)) or 'the number of seconds'}")
    if not all(isinstance(epoch.get("epoch"), int) for epoch in epochs):
        raise ValueError("each line of metrics.jsonl must have the number of its epoch")


def last_folder(name: str) -> str:
    """The name of the folder that a path or the name of a model ends with; of ``RUN/student``, the run's.

    Example:
        >>> last_folder("local-dir:runs/large/student")
        'large'
    """
    place = Path(parse_model_name(name).value)
    return folder_name(place.parent if place.name == "student" else place)
