"""``richkd report``: collect all data of the page from finished runs.

The metrics come from `richkd.evaluate`. This module adds the training curves, settings and environment of the
runs, and example images of errors with the predictions of all models.
"""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from richkd.config.loading import load_config
from richkd.config.model_name import parse_model_name
from richkd.config.schema import EvaluateConfig
from richkd.core.errors import ConfigError, DataError, Problems, RichKDError
from richkd.core.files import refuse_unwritable
from richkd.core.presence import exists, is_dir, is_file
from richkd.core.regular_files import read_regular
from richkd.core.structured import parse_json, read_json
from richkd.data.split import Split
from richkd.evaluate.model_report import Confusion, ModelReport
from richkd.evaluate.run import Evaluation, EvaluationRun, evaluate_models
from richkd.pipeline.assemble import Parts
from richkd.reporting.probe.probe import run_probe
from richkd.reporting.probe.result import Probe
from richkd.training.run_folder import check_run

MISTAKES, CONFUSIONS, EXAMPLES = 12, 6, 4
THUMBNAIL = 96


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


@dataclass(frozen=True)
class Picture:
    """A thumbnail of an image; made by `picture_of`.

    Attributes:
        key: key of the image in the data.
        address: the thumbnail as a ``data:`` URL.
    """

    key: str
    address: str


@dataclass(frozen=True)
class Answer:
    """Prediction of one model for one image.

    Attributes:
        model: name of the model on the page.
        answer: name of the predicted class.
        confidence: calibrated confidence in [0, 1].
    """

    model: str
    answer: str
    confidence: float


@dataclass(frozen=True)
class Mistake:
    """A confident error of the first model, with the predictions of all models for the image.

    Attributes:
        picture: the image.
        truth: name of the correct class.
        answers: predictions of all models, the first model's first.
    """

    picture: Picture
    truth: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Report:
    """All data of the page; made by `collect`.

    Attributes:
        data: name of the data.
        evaluation: metrics of all models.
        names: short name of each model, by its name in the evaluation.
        clip: name of CLIP in the evaluation; None if there is no CLIP.
        students: names of the given models; the first one is the model to ship.
        runs: content of each run folder.
        mistakes: the most confident errors of the first model.
        confusions: the most frequent confusions of the first model, with example images.
        probe: comparison of the first run's teachers; None if the run has no CLIP or no held-out images, or
            is a control.
        fingerprint: SHA-256 of the pixels of the evaluated images.
    """

    data: str
    evaluation: Evaluation
    names: dict[str, str]
    clip: str | None
    students: tuple[str, ...]
    runs: tuple[RunFacts, ...]
    mistakes: tuple[Mistake, ...]
    confusions: tuple[tuple[Confusion, tuple[Picture, ...]], ...]
    probe: Probe | None
    fingerprint: str

    @property
    def shipped(self) -> ModelReport:
        """Metrics of the first student."""
        return self.evaluation.model_reports[0]


def collect(
    runs: Sequence[str | Path],
    config: EvaluateConfig | None = None,
    *,
    out: Path | None = None,
    log: Callable[[str], None] = lambda message: None,
) -> Report:
    """Evaluate the students of runs and the teachers of the first run, and collect all data of the page.

    Args:
        runs: folders of finished runs.
        config: what is measured; ``teachers`` is ignored: teachers are evaluated if the first run has any.
        out: folder of the page, which must be writable.
        log: receives progress messages, one line each.

    Returns:
        All data of the page.

    Raises:
        DataError: folders are not those of a finished run; the message names the missing files.
        CheckpointError: ``out`` cannot be written.
        ConfigError: the runs used different data.
        RichKDError: as `richkd.evaluate.run.evaluate_models`.
    """
    problems = Problems()
    facts = tuple(fact for run in runs if (fact := problems.attempt(read_run, run)) is not None)
    # A missing run is reported by itself; its folder is not what cannot be written.
    if out is not None and (exists(out) or all(is_dir(run) for run in runs)):
        problems.attempt(refuse_unwritable, out)
    problems.refuse_all()
    # Folders of several runs can have the same name.
    short = [short_name(str(run), map(str, runs)) for run in runs]
    facts = tuple(replace(fact, name=name) for fact, name in zip(facts, short, strict=True))
    configs = [load_config(Path(run) / "config.yaml") for run in runs]
    places = {str(Path(run_config.data.path).resolve()) for run_config in configs}
    if len(places) > 1:
        raise ConfigError(
            "All runs of one report must use the same data",
            got=", ".join(sorted(places)),
            fix="write one report per data set.",
        )
    has_teachers = bool(facts[0].summary["teachers"])
    config = (config or EvaluateConfig()).model_copy(update={"teachers": has_teachers})
    result = evaluate_models(runs, configs[0].data.path, config, log=log)
    clip = _clip_of(result.parts)
    names = {name: short_name(name, result.outputs, clip) for name in result.outputs}
    first = result.evaluation.model_reports[0]
    return Report(
        Path(configs[0].data.path).name,
        result.evaluation,
        names,
        clip,
        tuple(map(str, runs)),
        facts,
        _mistakes(result, names),
        tuple((pair, _examples(result, pair)) for pair in first.confusions[:CONFUSIONS]),
        None if result.parts is None else _probe(result.parts, log),
        result.fingerprint,
    )


def read_run(folder: str | Path) -> RunFacts:
    """Read the settings, summary, epochs and environment of a finished run.

    Args:
        folder: the run folder.

    Raises:
        DataError: a file is missing, cannot be read, or is not as it was written; the message names it.
    """
    folder = Path(folder)
    for name in ("config.yaml", "summary.json", "metrics.jsonl", "environment.json"):
        if not is_file(folder / name):
            raise DataError(
                f"{folder} must be the folder of a finished run",
                got=f"no {name} in it",
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
    check_run(folder, ("config.yaml", "summary.json", "metrics.jsonl", "environment.json"), DataError)
    return RunFacts(_last_folder(str(folder)), str(folder), settings, summary, epochs, environment)


def _check_figures(summary: Any, environment: Any, epochs: Sequence[Any]) -> None:
    """Check what the page shows without asking."""
    if not all(isinstance(part, dict) for part in (summary, environment, *epochs)):
        raise ValueError("summary.json, environment.json and each line of metrics.jsonl must be objects")
    lacking = {"teachers", "method", "seed", "epochs", "seconds"} - summary.keys()
    if lacking or not isinstance(summary["seconds"], int | float):
        raise ValueError(f"summary.json lacks {', '.join(sorted(lacking)) or 'the number of seconds'}")
    if not all(isinstance(epoch.get("epoch"), int) for epoch in epochs):
        raise ValueError("each line of metrics.jsonl must have the number of its epoch")


def short_name(name: str, all_names: Iterable[str], clip: str | None = None) -> str:
    """Short name of a model for the page: the last folder of its path, with its role.

    Args:
        name: name of the model in the evaluation.
        all_names: names of all models; if two of them have the same last folder, the path is kept.
        clip: name of CLIP.

    Example:
        >>> short_name("runs/small", ["runs/small", "runs/control"])
        'small'
        >>> short_name("runs/a/kd", ["runs/a/kd", "runs/b/kd"])
        'runs/a/kd'
        >>> short_name("local-dir:runs/large/student", [])
        'teacher (large)'
    """
    folder = _last_folder(name)
    if name == clip:
        return folder if folder.startswith("CLIP") else f"CLIP ({folder})"
    if parse_model_name(name).kind == "local-dir":
        return folder if folder == "teacher" else f"teacher ({folder})"
    return name if folder in (_last_folder(other) for other in all_names if other != name) else folder


def _last_folder(name: str) -> str:
    place = Path(parse_model_name(name).value)
    folder = place.parent if place.name == "student" else place
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _clip_of(parts: Parts | None) -> str | None:
    return None if parts is None else next((t.name for t in parts.teachers if t.zero_shot is not None), None)


def _mistakes(result: EvaluationRun, names: Mapping[str, str]) -> tuple[Mistake, ...]:
    """The most confident errors of the first model."""
    probs = _probabilities(result)
    first_NC = next(iter(probs.values()))
    split, labels_N = result.split, result.split.labels_N
    indices = _most_confident(first_NC, first_NC.argmax(dim=1) != labels_N, MISTAKES)
    mistakes = []
    for index in indices:
        answers = [
            Answer(
                names[name], split.class_names[int(probs_NC[index].argmax())], float(probs_NC[index].max())
            )
            for name, probs_NC in probs.items()
        ]
        label = split.class_names[int(labels_N[index])]
        mistakes.append(Mistake(picture_of(split, index), label, tuple(answers)))
    return tuple(mistakes)


def _examples(result: EvaluationRun, pair: Confusion) -> tuple[Picture, ...]:
    """Images of a class for which the first model predicts the other class, the most confident first."""
    split, class_names = result.split, result.split.class_names
    first_NC = next(iter(_probabilities(result).values()))
    of_class_N = split.labels_N == class_names.index(pair.name)
    confused_N = of_class_N & (first_NC.argmax(dim=1) == class_names.index(pair.called))
    return tuple(picture_of(split, index) for index in _most_confident(first_NC, confused_N, EXAMPLES))


def _most_confident(probs_NC: Tensor, selected_N: Tensor, count: int) -> list[int]:
    """Positions of the most confident predictions among the selected images."""
    places = selected_N.nonzero()[:, 0]
    order = probs_NC.amax(dim=1)[places].argsort(descending=True, stable=True)
    positions: list[int] = places[order][:count].tolist()
    return positions


def _probabilities(result: EvaluationRun) -> dict[str, Tensor]:
    """Calibrated probabilities (N, C) of each model."""
    temperatures = {j.name: j.temperature for j in result.evaluation.model_reports}
    return {
        name: (output.logits_BC.double() / temperatures[name]).softmax(dim=1)
        for name, output in result.outputs.items()
    }


def picture_of(split: Split, index: int) -> Picture:
    """The thumbnail of one image of a split, a JPEG in a ``data:`` URL."""
    image = split.read(index)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return Picture(
        split.key(index), f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    )


def _probe(parts: Parts, log: Callable[[str], None]) -> Probe | None:
    if _clip_of(parts) is None or parts.config.fusion.control is not None:
        return None
    try:
        return run_probe(parts)
    except RichKDError as error:
        log(f"the comparison of teacher and CLIP was skipped: {error.rule}")
        return None
