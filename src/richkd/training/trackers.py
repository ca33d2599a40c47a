"""Experiment trackers besides the files of the run folder: TensorBoard, W&B, MLflow and Trackio.

A run does not depend on them. A package that is missing is refused before training; a tracker that fails
later, because its server cannot be reached, is left out with a warning.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from richkd.core.errors import ConfigError
from richkd.core.logs import Log

# Folder of TensorBoard's files in the run folder, and name of the project of all other trackers.
EVENTS, PROJECT = "events", "richkd"
# How to use a tracker that cannot be reached.
OFFLINE = {
    "wandb": "run `wandb login`, or export WANDB_MODE=offline to write to this machine only",
    "mlflow": "check MLFLOW_TRACKING_URI; unset it to write to this machine only",
    "trackio": "check its settings; without a Space, it writes to this machine only",
    "tensorboard": "check that the run folder can be written",
}


def refuse_missing_trackers(names: Iterable[str]) -> None:
    """Refuse trackers whose packages are not installed.

    Args:
        names: setting ``train.trackers``.

    Raises:
        ConfigError: names the tracker, and the command that installs it.

    Example:
        >>> refuse_missing_trackers(["tensorboard"])
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"Setting 'train.trackers' names {name}, whose package must be installed",
                got=f"no package {name}",
                fix=f"pip install {name}, or remove it from train.trackers.",
            )
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(
                f"Setting 'train.trackers' names {name}, which needs a newer accelerate",
                got="an accelerate that does not know it",
                fix="pip install --upgrade accelerate",
            )


def trackers_of(names: Iterable[str], run: Path, log: Log) -> list[LastingTracker]:
    """The trackers of a run, which `Accelerator.init_trackers` starts.

    TensorBoard's files are in the folder ``events`` of the run. Other trackers get the project ``richkd`` and
    the name of the run folder as name of the run.

    Args:
        names: setting ``train.trackers``.
        run: the run folder.
        log: receives a line if a tracker fails during training.
    """
    return [LastingTracker(name, partial(_made, name, run), log) for name in dict.fromkeys(names)]


def start_outside(trackers: Iterable[LastingTracker]) -> None:
    """Start the trackers that write outside of the run folder, before anything in it is changed.

    Raises:
        ConfigError: a tracker cannot be started.
    """
    for tracker in trackers:
        if tracker.name != "tensorboard":
            tracker.start()


def _made(name: str, run: Path) -> Any:
    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        return kind(EVENTS, str(run))
    return kind(PROJECT, **{"run_name" if name == "mlflow" else "name": run.absolute().name})


class LastingTracker(GeneralTracker):  # type: ignore[misc]
    """A tracker whose failures do not end the run.

    Args:
        name: name of the tracker.
        make: makes the tracker, which older versions of accelerate start at once.
        log: receives a line when it fails.
    """

    requires_logging_directory = False
    # The trackers of accelerate know themselves which process logs.
    main_process_only = False

    def __init__(self, name: str, make: Callable[[], Any], log: Log) -> None:
        self.name, self._make, self._log = name, make, log
        self._inner: Any = None
        super().__init__()

    @property
    def tracker(self) -> Any:
        """The object of the tracker's own package; None if it failed."""
        return None if self._inner is None else self._inner.tracker

    def start(self) -> None:
        """Start the tracker, once.

        Raises:
            ConfigError: it cannot be started.
        """
        if self._inner is not None:
            return
        try:
            self._inner = self._make()
            # Older versions have started it.
            getattr(self._inner, "start", lambda: None)()
        except Exception as error:  # packages and servers of others can raise anything
            raise ConfigError(
                f"The tracker {self.name} must start",
                got=f"{type(error).__name__}: {error}",
                fix=f"{OFFLINE[self.name]}, or remove it from train.trackers.",
            ) from error

    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        """Log figures of an epoch."""
        self._try(lambda: self._inner.log(values, step=step, **options))

    def finish(self) -> None:
        """Write what is left."""
        self._try(lambda: self._inner.finish())

    def _try(self, act: Callable[[], None]) -> None:
        if self._inner is None:
            return
        try:
            act()
        except Exception as error:
            self._inner = None
            self._log(
                f"warning: tracker {self.name} is left out from now on ({type(error).__name__}: {error}); "
                "metrics.jsonl has all figures"
            )
