"""``richkd report``: collect all data of the page from finished runs.

The metrics come from `richkd.evaluate`. This module adds the training curves, settings and environment of the
runs, and example images of errors with the predictions of all models.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from richkd.config.loading import load_config
from richkd.config.model_name import parse_model_name
from richkd.config.schema import EvaluateConfig
from richkd.core.errors import ConfigError, DataError, Problems, RichKDError
from richkd.core.files import refuse_unwritable
from richkd.core.home import expanded
from richkd.core.logs import Log
from richkd.core.presence import exists, folder_name, is_dir, resolved
from richkd.data.split import Split
from richkd.evaluate.model_report import Confusion, ModelReport
from richkd.evaluate.run import Evaluation, EvaluationRun, evaluate_models
from richkd.pipeline.assemble import Parts
from richkd.reporting.probe.probe import run_probe
from richkd.reporting.probe.result import Probe
from richkd.reporting.report.run_facts import RunFacts, last_folder, read_run

MISTAKES, CONFUSIONS, EXAMPLES = 12, 6, 4
THUMBNAIL = 96


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
    data: str | None = None,
    out: Path | None = None,
    log: Log = lambda message: None,
) -> Report:
    """Evaluate the students of runs and the teachers of the first run, and collect all data of the page.

    Args:
        runs: folders of finished runs.
        config: what is measured; ``teachers`` is ignored: teachers are evaluated if the first run has any.
        data: data to evaluate on; by default the data of the runs. Needed if these have moved.
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
    place = _data_of(runs) if data is None else data
    has_teachers = bool(facts[0].summary["teachers"])
    config = (config or EvaluateConfig()).model_copy(update={"teachers": has_teachers})
    try:
        result = evaluate_models(runs, place, config, log=log)
    except DataError as error:
        if data is None and not error.problems and not exists(expanded(place)):
            raise _moved(error) from error
        raise
    clip = _clip_of(result.parts)
    names = {name: short_name(name, result.outputs, clip) for name in result.outputs}
    first = result.evaluation.model_reports[0]
    return Report(
        folder_name(place),
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
    folder = last_folder(name)
    if name == clip:
        return folder if folder.startswith("CLIP") else f"CLIP ({folder})"
    if parse_model_name(name).kind == "local-dir":
        return folder if folder == "teacher" else f"teacher ({folder})"
    return name if folder in (last_folder(other) for other in all_names if other != name) else folder


def _data_of(runs: Sequence[str | Path]) -> str:
    """The data of the runs, which all runs must have in common."""
    paths = [load_config(Path(run) / "config.yaml").data.path for run in runs]
    places = {str(resolved(expanded(path))) for path in paths}
    if len(places) > 1:
        raise ConfigError(
            "All runs of one report must use the same data",
            got=", ".join(sorted(places)),
            fix="write one report per data set, or say where the data are now: --data DIR.",
        )
    return paths[0]


def _moved(error: DataError) -> DataError:
    """The error that data cannot be opened, with advice if they were moved after the run."""
    moved = "if the data are elsewhere now, say where: --data DIR."
    return DataError(error.rule, got=error.got, fix=f"{error.fix or ''} {moved}".strip())


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


def _probe(parts: Parts, log: Log) -> Probe | None:
    if _clip_of(parts) is None or parts.config.fusion.control is not None:
        return None
    try:
        return run_probe(parts)
    except RichKDError as error:
        log(f"the comparison of teacher and CLIP was skipped: {error.rule}")
        return None
