"""Untrained networks in the places of models that first runs will make, so that other runs can be checked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from richkd.compare.first import FirstRun
from richkd.config.model_name import parse_model_name
from richkd.config.schema import CacheConfig, Config, ModelConfig
from richkd.data.sources import LEFT_OUT
from richkd.data.split import Data
from richkd.export.student import save_student
from richkd.models.build import Network


class StandIns:
    """A temporary folder of untrained students; use it as a context."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="richkd-")
        # The name of the stand-in, by that of the model.
        self._names: dict[str, str] = {}

    def __enter__(self) -> StandIns:
        return self

    def __exit__(self, *error: object) -> None:
        self._temporary.cleanup()

    def add(self, run: FirstRun, student: Network, data: Data) -> None:
        """Save a student, before its training, in the place of the one that the run will make.

        Args:
            run: the run.
            student: its student.
            data: its data.
        """
        folder = Path(self._temporary.name, run.name)
        origin = {"left_out": data.splits[LEFT_OUT].keys()} if LEFT_OUT in data.splits else {}
        save_student(folder / "student", student, data.class_names, 1.0, origin)
        is_fold = run.fold is not None
        self._names[run.model] = f"folds:{folder.parent}" if is_fold else f"local-dir:{folder / 'student'}"

    def in_place(self, config: Config) -> Config | None:
        """The settings with stand-ins in the places of missing models.

        Returns:
            None if the run cannot be checked so: imported outputs of a teacher are in the teacher cache, and
            what an untrained network computes must not be stored there.
        """
        teachers = tuple(self._named(teacher) for teacher in config.teachers)
        student = self._named(config.student)
        if teachers == config.teachers and student == config.student:
            return config
        if any(parse_model_name(teacher.name).kind == "cache" for teacher in teachers):
            return None
        # Runs of one teacher share a cache, so that a check computes its held-out outputs once. A run whose
        # student alone is missing may have no teacher, and then a cache would be refused.
        folder = None if teachers == config.teachers else Path(self._temporary.name, "cache")
        changed = {"student": student, "teachers": teachers, "cache": CacheConfig(dir=folder)}
        return config.model_copy(update=changed)

    def _named(self, model: ModelConfig) -> ModelConfig:
        return model.model_copy(update={"name": self._names.get(model.name, model.name)})


def unfinished(runs: Iterable[FirstRun], finished: Iterable[str]) -> set[str]:
    """Names of the runs that are not finished, or belong to folds of which one is not."""
    runs, done = list(runs), set(finished)
    models = {run.model for run in runs if run.name not in done}
    return {run.name for run in runs if run.model in models}
