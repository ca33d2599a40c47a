"""Errors of the finished runs of a comparison on corrupted test images; they are measured once and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from richkd.compare.logits import SPLIT, StoredLogits
from richkd.compare.plan import Corrupted
from richkd.compare.runs import PlannedRun
from richkd.config.evaluation_data import for_evaluation
from richkd.config.schema import DataConfig
from richkd.core.device import pick_device
from richkd.core.files import write_atomically
from richkd.core.interrupt import Interrupted, catch_stop_signals
from richkd.core.json_text import to_json
from richkd.core.logs import Log
from richkd.core.structured import read_json
from richkd.core.visible import counted
from richkd.data.sources import open_data
from richkd.data.split import Split, evenly_spaced
from richkd.evaluate.corruptions.severity import SEVERITIES
from richkd.evaluate.models import open_network
from richkd.evaluate.predictors import Predictor
from richkd.evaluate.robustness import measure_corrupted

FOLDER = "corrupted"


@dataclass
class _Record:
    """What was measured of a run: error rates by corruption, one for each severity."""

    run: PlannedRun
    path: Path
    origin: dict[str, Any]
    errors: dict[str, list[float]] = field(default_factory=dict)

    def read(self) -> None:
        """Take over what is stored, unless it is of another student or of other images."""
        try:
            stored = read_json(self.path)
            errors = stored.pop("errors")
            if stored == self.origin:
                self.errors = {name: _rates(values) for name, values in errors.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.errors = {}

    def write(self) -> None:
        write_atomically(self.path, (to_json(self.origin | {"errors": self.errors}) + "\n").encode())


def corrupted_errors(
    runs: Sequence[PlannedRun], logits: Mapping[str, StoredLogits], settings: Corrupted, out: Path, log: Log
) -> dict[str, float]:
    """The mean error rate of each run over all corruptions and severities, by its name.

    Students of the same test images are evaluated together, because making the images costs most. What is
    stored is not measured again.

    Args:
        runs: finished runs.
        logits: their test logits.
        settings: which corruptions, and of how many images.
        out: folder of the comparison.
        log: where to say what is measured.

    Raises:
        RichKDError: a student or the images cannot be opened, or a file cannot be written.
        Interrupted: a signal came; what was measured is stored.
    """
    records = [_record(run, logits[run.name], settings, out) for run in runs]
    # Other images can have the same names.
    groups: dict[tuple[str, str], list[_Record]] = {}
    for record in records:
        record.read()
        if any(name not in record.errors for name in settings.measured):
            images = (logits[record.run.name].keys, repr(_data_of(record.run)))
            groups.setdefault(images, []).append(record)
    with catch_stop_signals() as stop:
        for members in groups.values():
            students = _Students(members, logits, settings.images)
            for place, name in enumerate(settings.measured):
                students.measure(name)
                what = f"corruption {place + 1} of {len(settings.measured)}, {name}"
                log(f"{what}: {counted(len(members), 'student')} evaluated")
                if stop.requested:
                    raise Interrupted
    return {record.run.name: _mean(record, settings.measured) for record in records}


class _Students:
    """The students of some runs, and the test images that all of them have."""

    def __init__(self, records: Sequence[_Record], logits: Mapping[str, StoredLogits], images: int) -> None:
        config = records[0].run.config
        data = open_data(_data_of(records[0].run), config.train.seed)
        self.device = pick_device(config.train.device)
        self.records = list(records)
        self.predictors: list[Predictor] = [
            open_network(str(one.run.config.out / "student"), None, data, data.path, self.device)
            for one in records
        ]
        whole = data.splits[SPLIT]
        index_M = evenly_spaced(len(whole), images)
        self.split: Split = whole.select(SPLIT, index_M.numpy())
        names = [predictor.names[0] for predictor in self.predictors]
        stored = [logits[one.run.name] for one in records]
        self.clean = {name: one.logits_NC[index_M] for name, one in zip(names, stored, strict=True)}
        self.temperatures = {name: one.temperature for name, one in zip(names, stored, strict=True)}

    def measure(self, corruption: str) -> None:
        """Measure and store the errors of one corruption for the students that lack them."""
        pairs = zip(self.records, self.predictors, strict=True)
        missing = [(record, one) for record, one in pairs if corruption not in record.errors]
        if not missing:
            return
        predictors = [one for _, one in missing]
        measured = measure_corrupted(
            predictors, self.split, self.clean, self.temperatures, self.device, corruptions=(corruption,)
        )
        for (record, _), figures in zip(missing, measured, strict=True):
            record.errors[corruption] = list(figures.errors[corruption])
            record.write()


def _data_of(run: PlannedRun) -> DataConfig:
    """The settings of the data, as far as the test split depends on them."""
    # Runs with other numbers of labels have the same test images, so their students are measured together.
    return for_evaluation(run.config.data).model_copy(update={"labels_per_class": None})


def _record(run: PlannedRun, output: StoredLogits, settings: Corrupted, out: Path) -> _Record:
    origin = {"weights": output.weights, "images": output.images, "keys": output.keys}
    return _Record(run, out / FOLDER / f"{run.name}.json", origin | {"count": settings.images})


def _rates(values: Any) -> list[float]:
    rates = [float(value) for value in values]
    if len(rates) != len(SEVERITIES) or not all(0 <= rate <= 1 for rate in rates):
        raise ValueError(values)
    return rates


def _mean(record: _Record, names: Sequence[str]) -> float:
    return fmean(rate for name in names for rate in record.errors[name])
