"""Everything that is wrong with an evaluation is reported at once, before anything is computed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import richkd.export.hub
from richkd.cli import main
from richkd.config.schema import EvaluateConfig
from richkd.config.teacher_run import recipe_of
from richkd.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ImageError,
    ModelError,
    RichKDError,
)
from richkd.evaluate import run
from richkd.evaluate.models import open_teachers
from richkd.evaluate.run import evaluate_models
from richkd.evaluate.subjects import open_subjects
from richkd.reporting.report.collect import collect
from richkd.reporting.report.run_facts import read_run
from richkd.training.run import distill
from tests.fixtures import World, make_images, refusal


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of computations that were begun."""
    begun: list[str] = []
    for name in ("_predict_split", "measure_shift", "measure_corrupted"):
        original = getattr(run, name)

        def record(*args: Any, name: str = name, original: Any = original, **options: Any) -> Any:
            begun.append(name)
            return original(*args, **options)

        monkeypatch.setattr(run, name, record)
    return begun


def refused(world: World, **changes: Any) -> RichKDError:
    return refusal(evaluate_models, [str(world.teacher)], str(world.images), EvaluateConfig(**changes))


def test_all_problems_are_one_error(world: World, tmp_path: Path, computed: list[str]) -> None:
    make_images(tmp_path / "strange", ("ant", "wolf", "cow"))
    (tmp_path / "tree.yaml").write_text("{all: [ant, bee, wolf]}")
    models = [str(world.teacher), str(tmp_path / "no-model"), "cifar_resnet8=no-weights.pth"]
    shifts = {"a": str(tmp_path / "no-shift"), "b": str(tmp_path / "strange" / "test")}
    config = EvaluateConfig(
        corruptions=True,
        teachers=True,
        shift=shifts,
        hierarchy=tmp_path / "tree.yaml",
        cifar_c=tmp_path / "no-published",
    )
    error = refusal(evaluate_models, models, str(world.images), config)
    assert computed == []
    text = str(error)
    for words in ("no-model", "no-weights.pth", "no-shift", "strange", "tree.yaml", "no-published"):
        assert words in text, words
    assert "--teachers needs the folder of a run" in text
    # The missing folder of published files is one problem, not one for each corruption.
    assert error.rule.startswith("7 problems")


def test_a_model_that_is_called_like_a_teacher_is_refused(world: World, tmp_path: Path) -> None:
    weights = world.teacher / "model.safetensors"
    named = {"teachers__1__name": "cifar_resnet8", "teachers__1__weights": str(weights)}
    config = world.config(tmp_path / "run", method__name="kd", train__epochs=1, **named)
    models = [str(distill(config, quiet=True).folder), f"cifar_resnet8={weights}"]
    error = refusal(evaluate_models, models, str(world.images), EvaluateConfig(teachers=True))
    assert isinstance(error, ConfigError)
    assert error.got == "cifar_resnet8 twice"
    assert len(evaluate_models(models, str(world.images)).outputs) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shift": {"x": "no-shift"}, "corruptions": True}, "no-shift"),
        ({"hierarchy": Path("no-tree.yaml"), "corruptions": True}, "no-tree.yaml"),
        ({"cifar_c": Path("no-published")}, "no-published"),
        ({"split": "tets", "corruptions": True}, "Did you mean 'test'?"),
        ({"teachers": True}, "--teachers"),
    ],
)
def test_one_problem_is_its_own_error(
    world: World, changes: dict[str, Any], words: str, computed: list[str]
) -> None:
    error = refused(world, **changes)
    assert words in str(error)
    assert "problems" not in error.rule
    assert computed == []


def test_a_published_file_of_other_images_is_found_first(
    world: World, tmp_path: Path, computed: list[str]
) -> None:
    np.save(tmp_path / "labels.npy", np.zeros(12, dtype=np.int64))
    assert "labels.npy must hold the labels" in str(refused(world, cifar_c=tmp_path))
    assert computed == []


def test_wrong_data_are_reported_with_wrong_shifts(world: World, tmp_path: Path) -> None:
    error = refusal(
        open_subjects,
        [str(world.teacher)],
        str(tmp_path / "none"),
        EvaluateConfig(shift={"x": str(tmp_path / "no-shift"), "y": str(world.images / "test")}),
    )
    assert error.rule.startswith("2 problems")
    assert "no-shift" in str(error)


def test_unreadable_shifted_images_are_found_before_corruptions(
    world: World, tmp_path: Path, computed: list[str]
) -> None:
    shutil.copytree(world.images / "test", tmp_path / "shift")
    (tmp_path / "shift" / "ant" / "0.png").write_bytes(b"no image")
    shifts = {"home": str(world.images / "test"), "x": str(tmp_path / "shift")}
    error = refused(world, shift=shifts, corruptions=True)
    assert isinstance(error, ImageError)
    assert "ant/0.png" in str(error)
    # Both folders have such a file.
    assert shifts["x"] in error.rule
    assert "measure_corrupted" not in computed


def test_shifted_images_that_the_run_was_trained_on_are_refused(world: World, tmp_path: Path) -> None:
    run = distill(world.config(tmp_path / "run", method__name="ce", train__epochs=1), quiet=True).folder
    # Copies under other names are known by their content.
    for name in ("ant", "bee"):
        shutil.copytree(world.images / "test" / name, tmp_path / "mixed" / name)
    shutil.copy(world.images / "train" / "bee" / "3.png", tmp_path / "mixed" / "bee" / "copy.png")
    shifts = {"home": str(world.images / "test"), "mixed": str(tmp_path / "mixed")}
    error = refusal(evaluate_models, [str(run)], str(world.images), EvaluateConfig(shift=shifts))
    assert isinstance(error, DataError)
    assert str(run) in error.rule
    assert "1 of 9 images of --shift mixed, first bee/copy.png" in str(error.got)
    del shifts["mixed"]
    assert evaluate_models([str(run)], str(world.images), EvaluateConfig(shift=shifts)).evaluation.shifts
    # A network that comes from no run has no record of its images.
    shifts["train"] = str(world.images / "train")
    assert evaluate_models([str(world.teacher)], str(world.images), EvaluateConfig(shift=shifts))


def test_a_student_that_is_not_on_the_hub_does_not_hide_other_problems(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(name: str) -> Path:
        raise ModelError(f"{name} must be on the hub")

    monkeypatch.setattr(richkd.export.hub, "fetch_student", fetch)
    config = EvaluateConfig(hierarchy=tmp_path / "no-tree.yaml")
    models = [str(world.teacher), "hf-hub:nobody/nothing"]
    error = refusal(evaluate_models, models, str(world.images), config)
    assert error.rule.startswith("2 problems")
    assert "nobody/nothing must be on the hub" in str(error)
    assert "no-tree.yaml" in str(error)


def test_a_link_to_itself_ends_in_words(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model", "weights.pth"):
        (tmp_path / name).symlink_to(tmp_path / name)
    for model in (str(tmp_path / "model"), f"cifar_resnet8={tmp_path / 'weights.pth'}"):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", model, "--data", str(world.images)])
        assert ended.value.code == 1
        printed = capsys.readouterr().err
        assert "error: ModelError\n" in printed
        assert model.rpartition("=")[2] in printed
    shutil.copytree(world.images, tmp_path / "images")
    changes = {"data__path": str(tmp_path / "images"), "method__name": "ce", "train__epochs": 1}
    run_folder = distill(world.config(tmp_path / "run", **changes), quiet=True).folder
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").symlink_to(tmp_path / "images")
    assert isinstance(refusal(collect, [run_folder]), DataError)


def test_an_empty_path_is_not_the_current_folder(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, images = str(world.teacher), str(world.images)
    for folder, words in (
        (world.teacher, ["", "--data", images]),
        (world.images, [model, "--data", ""]),
        (world.images / "test", [model, "--data", images, "--shift", "night="]),
    ):
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", *words])
        assert ended.value.code == 1
        got = "night=" if "--shift" in words else "''"
        assert f"Got: {got}\n" in capsys.readouterr().err


def test_a_report_of_an_empty_path_is_not_that_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / name).write_text("")
    for name in ("summary.json", "environment.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert "must not be empty" in str(refusal(read_run, ""))


def test_a_report_that_cannot_be_written_is_not_computed(
    world: World, tmp_path: Path, computed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (run_folder / name).write_text("")
    for name in ("summary.json", "environment.json"):
        (run_folder / name).write_text("{}")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run_folder), "--out", str(tmp_path / "file" / "page")])
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert "cannot be written" in message
    assert "Got: Not a directory" in message
    assert computed == []


def test_all_runs_that_are_not_finished_are_named(tmp_path: Path) -> None:
    error = refusal(collect, [tmp_path / "a", tmp_path / "b"], out=tmp_path / "a" / "report")
    assert isinstance(error, DataError)
    assert error.rule.startswith("2 problems")
    for name in ("a", "b"):
        assert str(tmp_path / name) in str(error)


def test_a_name_that_is_too_long_ends_in_words(tmp_path: Path) -> None:
    name = "x" * 300
    with pytest.raises(DataError, match="needs the folder of a run"):
        open_teachers(tmp_path / name, "photos", torch.device("cpu"))
    with pytest.raises(DataError, match="must be the folder of a finished run"):
        read_run(tmp_path / name)
    with pytest.raises(CheckpointError, match="must be the folder of a finished run"):
        recipe_of(tmp_path / name)


def test_a_run_folder_that_does_not_exist_is_called_so(tmp_path: Path) -> None:
    error = refusal(read_run, tmp_path / "gone")
    assert str(error.got) == "no such folder"
    assert str(refusal(read_run, tmp_path).got) == "no config.yaml in it"
