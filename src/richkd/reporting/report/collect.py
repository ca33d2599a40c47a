"""``richkd report``: everything that a careful engineer would look at before shipping, collected from runs.

The figures come from `richkd.evaluate`; here are the stories beside them: how training went, what was run,
which pictures a student gets wrong and what everybody else said of these.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from richkd.config.loading import load_config
from richkd.config.model_name import parse_model_name
from richkd.config.schema import EvaluateConfig
from richkd.core.errors import ConfigError, DataError, RichKDError
from richkd.data.split import Split
from richkd.evaluate.model_report import Confusion, ModelReport
from richkd.evaluate.run import Evaluation, EvaluationRun, evaluate_models
from richkd.pipeline.assemble import Parts
from richkd.reporting.probe.probe import Probe, run_probe

MISTAKES, CONFUSIONS, EXAMPLES = 12, 6, 4
THUMBNAIL = 96


@dataclass(frozen=True)
class RunFacts:
    """What a run folder says of itself: settings, figures at the end, epochs, machine."""

    name: str
    settings: str
    summary: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    environment: dict[str, Any]

    @property
    def watt_hours(self) -> float | None:
        """What the processor's energy counter said of training, where there was one."""
        joules = self.summary.get("joules")
        return None if joules is None else joules / 3600


@dataclass(frozen=True)
class Picture:
    """An image of the split, small, as a ``data:`` address, and its key in the data."""

    key: str
    address: str


@dataclass(frozen=True)
class Answer:
    """What one model calls a picture, and how sure it is, calibrated."""

    model: str
    answer: str
    confidence: float


@dataclass(frozen=True)
class Mistake:
    """A picture that the first model is surely wrong about, and what everybody says of it."""

    picture: Picture
    truth: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        names: what models are called on the page, by their names in the evaluation.
        clip: the name in the evaluation of the CLIP among the teachers.
        students: those of the evaluation's models that were named, the first being what would be shipped.
        confusions: the pairs of classes that the first model confuses most, with examples.
        probe: whether CLIP helps the first run's teacher; None where there is none, or nothing to judge on.
        fingerprint: SHA-256 of the pixels that were judged.
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
        """The first student's model_report."""
        return self.evaluation.model_reports[0]


def collect(
    runs: Sequence[str],
    config: EvaluateConfig | None = None,
    *,
    log: Callable[[str], None] = lambda message: None,
) -> Report:
    """Evaluate runs side by side, with the first one's teachers, and collect what explains the figures.

    Args:
        config: what is measured; teachers are evaluated if the first run has any.

    Raises:
        DataError: a folder that is not a finished run, with what it lacks.
        ConfigError: runs on different data.
        RichKDError: as `richkd.evaluate.run.evaluate_models`.
    """
    facts = tuple(read_run(Path(run)) for run in runs)
    configs = [load_config(Path(run) / "config.yaml") for run in runs]
    places = {str(Path(run_config.data.path).resolve()) for run_config in configs}
    if len(places) > 1:
        raise ConfigError(
            "Runs of one report must be of the same data",
            got=", ".join(sorted(places)),
            fix="write a report for each.",
        )
    has_teachers = bool(facts[0].summary["teachers"])
    config = (config or EvaluateConfig()).model_copy(update={"teachers": has_teachers})
    judged = evaluate_models(runs, configs[0].data.path, config, log=log)
    clip = _clip_of(judged.parts)
    names = {name: short_name(name, judged.outputs, clip) for name in judged.outputs}
    first = judged.evaluation.model_reports[0]
    return Report(
        Path(configs[0].data.path).name,
        judged.evaluation,
        names,
        clip,
        tuple(runs),
        facts,
        _mistakes(judged, names),
        tuple((pair, _examples(judged, pair)) for pair in first.confusions[:CONFUSIONS]),
        None if judged.parts is None else _probed(judged.parts, log),
        judged.fingerprint,
    )


def read_run(folder: Path) -> RunFacts:
    """What a finished run left behind.

    Raises:
        DataError: naming the file that is missing or cannot be read.
    """
    for name in ("config.yaml", "summary.json", "metrics.jsonl", "environment.json"):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder} must be the folder of a finished run",
                got=f"no {name} in it",
                fix="give what --out was; a run that was stopped is finished by --resume.",
            )
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        epochs = tuple(json.loads(line) for line in lines if line.strip())
    except ValueError as error:
        raise DataError(
            f"The files of the run {folder} cannot be read", got=str(error), fix="run it again."
        ) from error
    settings = (folder / "config.yaml").read_text(encoding="utf-8")
    return RunFacts(folder.name, settings, summary, epochs, environment)


def short_name(name: str, all_names: Iterable[str], clip: str | None = None) -> str:
    """A model's name without the folders it lies in, as long as it is then the only one of that name.

    A teacher's says that it is one, and ``clip``'s that it is the CLIP.
    """
    own = _last_folder(name)
    if name == clip:
        return own if own.startswith("CLIP") else f"CLIP ({own})"
    if parse_model_name(name).kind == "local-dir":
        return own if own == "teacher" else f"teacher ({own})"
    return name if own in (_last_folder(other) for other in all_names if other != name) else own


def _last_folder(name: str) -> str:
    place = Path(parse_model_name(name).value)
    return (place.parent if place.name == "student" else place).name


def _clip_of(parts: Parts | None) -> str | None:
    return None if parts is None else next((t.name for t in parts.teachers if t.zero_shot is not None), None)


def _mistakes(judged: EvaluationRun, names: Mapping[str, str]) -> tuple[Mistake, ...]:
    probs = _probabilities(judged)
    first_NC = next(iter(probs.values()))
    sure_N, guess_N = first_NC.max(dim=1)
    labels_N = judged.split.labels_N
    wrong = (guess_N != labels_N).nonzero()[:, 0]
    worst = wrong[sure_N[wrong].argsort(descending=True, stable=True)][:MISTAKES].tolist()
    result = []
    for index in worst:
        answers = [
            Answer(
                names[name],
                judged.split.class_names[int(probs_NC[index].argmax())],
                float(probs_NC[index].max()),
            )
            for name, probs_NC in probs.items()
        ]
        truth = judged.split.class_names[int(labels_N[index])]
        result.append(Mistake(picture_of(judged.split, index), truth, tuple(answers)))
    return tuple(result)


def _examples(judged: EvaluationRun, pair: Confusion) -> tuple[Picture, ...]:
    """Pictures of a class that the first model calls by the other name, the surest first."""
    class_names = judged.split.class_names
    first_NC = next(iter(_probabilities(judged).values()))
    sure_N, guess_N = first_NC.max(dim=1)
    confused = (judged.split.labels_N == class_names.index(pair.name)) & (
        guess_N == class_names.index(pair.called)
    )
    places = confused.nonzero()[:, 0]
    order = sure_N[places].argsort(descending=True, stable=True)
    return tuple(picture_of(judged.split, index) for index in places[order][:EXAMPLES].tolist())


def _probabilities(judged: EvaluationRun) -> dict[str, Tensor]:
    temperatures = {j.name: j.temperature for j in judged.evaluation.model_reports}
    return {
        name: (output.logits_BC.double() / temperatures[name]).softmax(dim=1)
        for name, output in judged.outputs.items()
    }


def picture_of(split: Split, index: int) -> Picture:
    """One image of a split as a small JPEG inside an address."""
    image = split.read(index)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return Picture(
        split.key(index), f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    )


def _probed(parts: Parts, log: Callable[[str], None]) -> Probe | None:
    if _clip_of(parts) is None or parts.config.fusion.control is not None:
        return None
    try:
        return run_probe(parts)
    except RichKDError as error:
        log(f"no probe: {error.rule}")
        return None
