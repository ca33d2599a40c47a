"""The probe: figures that add up, and a verdict that follows the truth of the data."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tests.fixtures import CLASSES, World, refusal
from torch.nn import functional

from richkd.cli import main
from richkd.core.errors import ConfigError, DataError
from richkd.core.types import Batch, Output
from richkd.data.views import Views
from richkd.evaluate.model_report import confusions_of
from richkd.fusion.fusion import identity_fusion
from richkd.fusion.select import Candidate
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.targets import TargetSource
from richkd.reporting.probe.figures import gains_by_class, similar_names
from richkd.reporting.probe.page import render
from richkd.reporting.probe.probe import run_probe
from richkd.reporting.probe.result import Probe
from richkd.reporting.probe.settings import probe_config
from richkd.reporting.probe.terminal import print_probe
from richkd.reporting.probe.verdict import Outcome, decide_outcome, explanation, headline, warnings
from richkd.teachers.base import Teacher

CPU = torch.device("cpu")


class Made(Teacher):
    """A teacher with outputs of a given accuracy, as a function of split and position."""

    def __init__(self, name: str, parts: Parts, strength: float, seed: int, scale: float) -> None:
        self.name, self.feature_width, self.logit_scale = name, 2, 1 / scale
        generator = torch.Generator().manual_seed(seed)
        self.logits = {}
        for split_name, split in parts.data.splits.items():
            truth_NC = functional.one_hot(split.labels_N, 3).float()
            noise_NC = torch.randn(truth_NC.shape, generator=generator)
            self.logits[split_name] = scale * (strength * truth_NC + noise_NC)

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        assert batch.split is not None
        logits_BC = self.logits[batch.split][batch.index_B]
        return Output(logits_BC, torch.ones(len(logits_BC), 2))


@pytest.fixture(scope="module")
def parts(world: World, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """The small world with many validation images, for a probe to have something to go by."""
    images = tmp_path_factory.mktemp("probe") / "images"
    for split, count in (("train", 4), ("val", 150), ("test", 2)):
        for color, name in enumerate(CLASSES):
            folder = images / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16), (i, color, len(split))).save(folder / f"{i}.png")
    config = world.config(Path("unused"), data__path=str(images), method__name="kd")
    return assemble(config, CPU)


def with_teachers(parts: Parts, *teachers: Teacher) -> Parts:
    """The same parts with other teachers; a probe makes its own fusions of them."""
    return replace(parts, sources={"fused": TargetSource(teachers, identity_fusion())})


def probed(parts: Parts, teacher: float, clip: float) -> Probe:
    teachers = (Made("teacher", parts, teacher, 0, 3.0), Made("CLIP", parts, clip, 1, 0.01))
    return run_probe(with_teachers(parts, *teachers))


def test_teachers_that_complement_each_other_are_worth_fusing(parts: Parts) -> None:
    result = probed(parts, 1.5, 1.5)
    assert headline(result).startswith("Yes")
    assert result.fusions[-1].metrics.top1 > max(e.metrics.top1 for e in result.teachers)
    assert result.gain > 5 * result.error
    # As released, what CLIP says does not reach the student.
    assert result.signals["as-released"].nats < 1e-3 < result.signals["default"].nats


def test_a_clip_at_chance_is_not_used(parts: Parts) -> None:
    result = probed(parts, 1.5, 0.0)
    assert headline(result).startswith("No: do not use CLIP here")
    assert "--method kd" in headline(result)
    (warning,) = (line for line in warnings(result) if "near chance" in line)
    # Classes of CLIP are names, which have no order.
    assert "--clip.rename_classes" in warning
    assert "another order" not in warning
    # A pool in which a CLIP at chance hardly counts.
    assert result.gain < result.error


def test_a_teacher_at_chance_is_named_before_anything_else(parts: Parts) -> None:
    result = probed(parts, 0.0, 1.5)
    # CLIP alone is better than a teacher that guesses, so the fusion is, too.
    assert result.helps
    assert headline(result).startswith("No: the teacher is not usable, because its accuracy of ")
    assert "near chance (33.3%)" in headline(result)
    assert messages(result).strip().startswith("No: the teacher is not usable")
    assert "better student" not in explanation(result)
    assert '<div class="verdict no">' in render(result, "photos")
    assert decide_outcome(result) is Outcome.TEACHER_NOT_USABLE


def test_two_teachers_at_chance_are_both_named(parts: Parts) -> None:
    result = probed(parts, 0.0, 0.0)
    assert decide_outcome(result) is Outcome.NOTHING_USABLE
    assert headline(result).startswith("No: the teacher is not usable, and neither is CLIP")
    assert sum("another order" in line for line in warnings(result)) == 1


def judged(images: int, gain: float, error: float, teacher: float = 0.6, clip: float = 0.6) -> Any:
    """As much of a probe as a verdict reads."""
    made = [SimpleNamespace(metrics=SimpleNamespace(top1=top1)) for top1 in (teacher, clip)]
    return SimpleNamespace(
        teacher=made[0],
        clip=made[1],
        class_count=10,
        images=images,
        gain=gain,
        error=error,
        helps=gain > 2 * error,
    )


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (judged(1000, 0.5, 0.01), Outcome.YES),
        (judged(1000, -0.5, 0.01), Outcome.NO),
        (judged(1000, 0.01, 0.01), Outcome.NO),
        # An interval that includes 0 says nothing if there are few images.
        (judged(50, 0.01, 0.01), Outcome.UNDECIDED),
        (judged(50, -0.01, 0.01), Outcome.UNDECIDED),
        (judged(1, 0.5, math.nan, teacher=1.0, clip=1.0), Outcome.UNDECIDED),
        (judged(50, 0.5, 0.01), Outcome.YES),
        (judged(50, -0.5, 0.01), Outcome.NO),
        # 500 images of 10 classes: near chance up to 0.145.
        (judged(500, 0.5, 0.01, teacher=0.145), Outcome.TEACHER_NOT_USABLE),
        (judged(500, 0.5, 0.01, teacher=0.146), Outcome.YES),
        (judged(500, 0.5, 0.01, teacher=0.02), Outcome.TEACHER_NOT_USABLE),
        (judged(500, 0.5, 0.01, clip=0.145), Outcome.CLIP_NOT_USABLE),
        (judged(500, 0.5, 0.01, teacher=0.1, clip=0.145), Outcome.NOTHING_USABLE),
        (judged(50, 0.0, 0.01, teacher=0.1), Outcome.TEACHER_NOT_USABLE),
    ],
)
def test_a_verdict_says_first_what_makes_it_impossible(result: Any, outcome: Outcome) -> None:
    assert decide_outcome(result) is outcome
    assert headline(result).startswith("Yes") == (outcome is Outcome.YES)
    assert headline(result).startswith("Undecided") == (outcome is Outcome.UNDECIDED)


def test_a_teacher_of_few_classes_that_is_far_above_chance_is_not_suspected(parts: Parts) -> None:
    result = probed(parts, 1.5, 1.0)
    # Below 3 × chance, which is 100 % for three classes, but far above guessing on 450 images.
    assert all(0.5 < teacher.metrics.top1 < 1 for teacher in result.teachers)
    assert not any("near chance" in line for line in warnings(result))


def test_figures_add_up(parts: Parts) -> None:
    result = probed(parts, 1.5, 1.0)
    assert result.images == 450
    assert result.both + result.teacher_only + result.clip_only + result.neither == pytest.approx(1)
    assert result.both + result.teacher_only == pytest.approx(result.teachers[0].metrics.top1)
    assert result.both + result.clip_only == pytest.approx(result.teachers[1].metrics.top1)
    curve = {alpha: (top1, nll) for alpha, top1, nll in result.curve}
    assert curve[1.0][0] == pytest.approx(result.teachers[0].metrics.top1)
    assert curve[0.0][0] == pytest.approx(result.teachers[1].metrics.top1)
    weighted = sum(gain.images * gain.fused for gain in result.classes) / result.images
    assert weighted == pytest.approx(result.fusions[-1].metrics.top1)
    gains = [gain.fused - gain.teacher for gain in result.classes]
    assert gains == sorted(gains, reverse=True)
    # NLL by its definition, on logits at CLIP's own scale.
    clip = Made("CLIP", parts, 1.0, 1, 0.01)
    z_NC = 100 * clip.logits["val"].double()
    labels_N = parts.data.splits["val"].labels_N
    expected = -z_NC.log_softmax(1)[np.arange(450), labels_N].mean().item()
    assert result.teachers[1].metrics.nll == pytest.approx(expected, rel=1e-5)


def test_a_teacher_that_knows_the_held_out_images_is_doubted(parts: Parts) -> None:
    text = messages(probed(parts, 40.0, 1.0))
    assert "it was probably trained on these images" in text


def test_confident_answers_and_moves_add_up(parts: Parts) -> None:
    result = probed(parts, 1.5, 1.0)
    for row, teacher in zip(result.confidence, (*result.teachers, result.fused), strict=True):
        # Confidence beyond which answers count is the same, so both parts are of all that are right or wrong.
        assert 0 <= row.raw[0] <= teacher.metrics.top1
        assert 0 <= row.raw[1] <= 1 - teacher.metrics.top1 + 1e-9
        assert row.wrong_at[0] <= row.wrong_at[1] + 0.05
    counts = np.array(result.moves.counts)
    assert counts.sum() == pytest.approx(450)
    assert counts[:2].sum() == pytest.approx(450 * result.teacher.metrics.top1)
    assert counts[:, :2].sum() == pytest.approx(450 * result.fused.metrics.top1)
    assert counts[[0, 2]].sum() == pytest.approx(0.8 * 450)
    for bins, teacher in zip(result.reliability.values(), (*result.teachers, result.fused), strict=True):
        assert sum(bins.count) == 450
        assert bins.ece == pytest.approx(teacher.metrics.ece, abs=1e-5)


def test_intervals_hold_their_figures_and_are_as_wide_as_shares_vary(parts: Parts) -> None:
    result = probed(parts, 1.5, 1.0)
    for teacher in (*result.teachers, *result.fusions):
        top1, nll = teacher.intervals["top1"], teacher.intervals["nll"]
        assert top1.estimate == pytest.approx(teacher.metrics.top1)
        assert nll.estimate == pytest.approx(teacher.calibrated.nll, rel=1e-4)
        assert top1.low < top1.estimate < top1.high
        assert nll.low < nll.estimate < nll.high
        # The normal interval of a share, which 450 images come close to.
        width = 2 * 1.96 * (top1.estimate * (1 - top1.estimate) / 450) ** 0.5
        assert top1.high - top1.low == pytest.approx(width, rel=0.2)


def test_several_vision_teachers_stand_together_beside_clip(parts: Parts) -> None:
    vision = [Made(name, parts, 1.5, seed, 3.0) for seed, name in enumerate(("one", "two", "three"))]
    result = run_probe(with_teachers(parts, *vision, Made("CLIP", parts, 1.0, 7, 0.01)))
    assert [teacher.name for teacher in result.teachers] == ["one", "two", "three", "teacher", "CLIP"]
    assert result.teacher.metrics.top1 > max(teacher.metrics.top1 for teacher in result.teachers[:3])
    assert result.both + result.teacher_only == pytest.approx(result.teacher.metrics.top1)
    alpha, top1, _ = result.curve[-1]
    assert (alpha, top1) == (1.0, pytest.approx(result.teacher.metrics.top1))


def test_classes_confusions_and_names_that_are_alike() -> None:
    labels_N = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    before_NC = functional.one_hot(torch.tensor([0, 1, 1, 2, 1, 1, 0, 0]), 3).float()
    after_NC = functional.one_hot(torch.tensor([0, 0, 0, 0, 1, 0, 0, 0]), 3).float()
    gains = {gain.name: gain for gain in gains_by_class(before_NC, after_NC, labels_N, CLASSES)}
    assert (gains["ant"].teacher, gains["ant"].fused, gains["ant"].images) == (0.25, 1.0, 4)
    # Three images changed, all for the better: mid-p is twice half the probability of 3 of 3.
    assert gains["ant"].p == pytest.approx(0.5**3)
    assert [gain.fused - gain.teacher for gain in gains.values()] == [0.75, 0.0, -0.5]
    result = [(c.name, c.called, c.share) for c in confusions_of(before_NC, labels_N, CLASSES)]
    assert result == [("cow", "ant", 1.0), ("ant", "bee", 0.5)]
    text_CD = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.3]])
    (first, second, cosine), *rest = similar_names(text_CD, CLASSES, 9)
    assert (first, second) == ("ant", "cow")
    assert cosine == pytest.approx(1 / (1 + 0.1**2) ** 0.5)
    assert len(rest) == 2


def test_a_class_without_held_out_images_and_few_images_are_told(parts: Parts) -> None:
    result = replace(probed(parts, 1.5, 1.0), bare=("cow",), images=50)
    lines = warnings(result)
    assert any(line.startswith("50 held-out images are few") for line in lines)
    assert any("without a held-out image: 1, first cow" in line for line in lines)


def test_what_to_expect_of_a_student_hangs_on_unlabeled_images(parts: Parts) -> None:
    result = probed(parts, 1.5, 1.5)
    assert "--tune 5m" in explanation(result)
    assert "Expect a better student, too" in explanation(replace(result, unlabeled=9 * result.labeled))


def test_a_teacher_that_adds_little_to_clip_is_told(parts: Parts) -> None:
    result = probed(parts, 1.5, 1.5)
    least, name = result.choice.candidates[0].nll, f"{result.clip.name} alone"

    def text_of(nll: float) -> str:
        choice = replace(
            result.choice,
            candidates=(Candidate("log-pool", least, 0.02), Candidate(name, nll, 0.02)),
            threshold=least + 0.02,
        )
        return explanation(replace(result, choice=choice, unlabeled=9 * result.labeled))

    assert "compare --fusion.control clip-only" in text_of(least + 0.01)
    assert "--fusion.control" not in text_of(least + 0.03)


def messages(result: Probe) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    print_probe(result, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_report_begins_with_the_verdict(parts: Parts) -> None:
    result = probed(parts, 1.5, 1.5)
    text = messages(result)
    assert text.strip().startswith("Yes")
    for words in ("← default", "largest gains", "CLIP only", "negligible", "fused, paper"):
        assert words in text, words


def test_the_command(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found"
    command: list[Any] = ["probe", "--data", world.images, "--student", "cifar_resnet8", "--out", out]
    command += ["--teacher", f"local-dir:{world.teacher}", "--clip", f"outputs:{world.clip}"]
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in command])
    assert end.value.code in (0, None), capsys.readouterr()
    assert "ways of mixing" in capsys.readouterr().out
    assert json.loads((out / "probe.json").read_text())["images"] == 6
    assert (out / "probe.html").read_text().startswith("<!doctype html>")


def test_what_a_probe_needs(world: World, parts: Parts) -> None:
    error = refusal(run_probe, parts)
    assert isinstance(error, ConfigError)
    assert "--clip" in str(error.fix)
    config = world.config(Path("unused"), fusion__preset="paper", data__val_fraction=0)
    error = refusal(run_probe, assemble(config, CPU))
    assert isinstance(error, DataError)
    assert "--data.calibration" in str(error.fix)


@pytest.mark.parametrize(
    ("given", "got", "fix"),
    [
        ((), "neither --teacher nor --clip", "`richkd check --method ce` checks data and student"),
        (("--clip",), "no --teacher", "`richkd check --method ce` checks data and student"),
        (("--teacher",), "no --clip", "add --clip"),
    ],
)
def test_what_is_missing_is_found_before_anything_is_opened(
    given: tuple[str, ...], got: str, fix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    command = ["probe", "--data", str(tmp_path / "none"), "--student", "cifar_resnet8"]
    command += [word for option in given for word in (option, "none")]
    with pytest.raises(SystemExit) as end:
        main([*command, "--out", str(tmp_path / "file" / "probe")])
    assert end.value.code == 1
    message = capsys.readouterr().err
    for words in (f"Got: {got}", fix, "2 problems", "cannot be written"):
        assert words in message


RECIPES: tuple[dict[str, Any], ...] = (
    {"fusion__features": "phi-s", "fusion__feature_alpha": 0.5},
    {"objective": [{"ce": {}}, {"kd": {"target": "fused", "temperature": 3}}]},
    {"method__name": "kd"},
    {"fusion__mixing": "gate", "fusion__control": "shuffled"},
)


@pytest.mark.parametrize("changes", RECIPES)
def test_the_recipe_of_any_run_can_be_probed(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    given = {"teachers.1.name": f"local-dir:{world.teacher}", "clip.name": f"outputs:{world.clip}"}
    config = world.config(tmp_path / "run", **given, **changes)
    (tmp_path / "recipe.yaml").write_text(config.to_yaml())
    with pytest.raises(SystemExit) as end:
        main(["probe", "-c", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "probe")])
    assert end.value.code in (0, None)
    plain = world.config(tmp_path / "run", **given)
    parts = assemble(probe_config(plain), CPU)
    figures = json.loads((tmp_path / "probe" / "probe.json").read_text())
    assert figures["fusions"] == json.loads(json.dumps(run_probe(parts).to_dict()))["fusions"]
