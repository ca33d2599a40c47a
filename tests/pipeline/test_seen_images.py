"""No figure is of images that a model, its teacher or its start was trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from richkd.config.schema import Config, EvaluateConfig
from richkd.core.errors import DataError
from richkd.data.sources import open_data
from richkd.evaluate.run import evaluate_models
from richkd.export.own_data import as_trained
from richkd.pipeline.import_outputs import import_outputs
from richkd.pipeline.seen_images import refuse_leaking_models, run_around, seen_by
from richkd.training.run import distill
from tests.fixtures import CLASSES, SIZE, World, keys_of, refusal

COUNT = 24


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of random pixels, without a test split of their own, so that the seed divides them."""
    root, random = tmp_path_factory.mktemp("noise") / "images", np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for number in range(COUNT):
            pixels_HWC = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels_HWC).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def runs(world: World, noise: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Teachers of two seeds."""
    root = tmp_path_factory.mktemp("runs")
    return [distill(settings(world, noise, root / f"s{seed}", seed), quiet=True).folder for seed in (0, 1)]


def settings(world: World, data: Path, out: Path, seed: int, **changes: object) -> Config:
    given = {"method__name": "ce", "train__epochs": 1, "train__seed": seed, "data__path": str(data)}
    return world.config(out, **(given | changes))


def test_the_second_model_is_not_evaluated_on_its_training_images(runs: list[Path], noise: Path) -> None:
    first, second = map(str, runs)
    error = refusal(evaluate_models, [first, second], str(noise))
    assert isinstance(error, DataError)
    assert second in error.rule
    assert "trained or fitted" in error.rule
    for model in runs:
        assert len(evaluate_models([str(model)], str(noise)).split) > 0


def test_the_images_are_found_wherever_they_and_the_model_lie(
    runs: list[Path], noise: Path, tmp_path: Path
) -> None:
    copy, moved = tmp_path / "copy", tmp_path / "moved"
    shutil.copytree(noise, copy)
    shutil.copytree(runs[1], moved)
    config, seed = as_trained(moved, str(copy))
    assert (config.path, seed) == (str(copy), 1)
    wanted, result = evaluate_models([str(runs[1])], str(noise)), evaluate_models([str(moved)], str(copy))
    assert result.fingerprint == wanted.fingerprint
    (logits_NC,), (wanted_NC,) = ([o.logits_BC for o in r.outputs.values()] for r in (result, wanted))
    assert torch.equal(logits_NC, wanted_NC)
    # With one image less, it is another data set, which the seed of the run does not divide.
    (copy / CLASSES[0] / "0.png").unlink()
    assert as_trained(moved, str(copy))[1] == 0
    assert "another split" in refusal(evaluate_models, [str(moved)], str(copy)).got


def test_another_share_for_calibration_does_not_return_fitted_images(
    world: World, runs: list[Path], noise: Path, tmp_path: Path
) -> None:
    changes = {"data__test_calibration_fraction": 0.5}
    run = distill(settings(world, noise, tmp_path / "run", 0, **changes), quiet=True).folder
    error = refusal(evaluate_models, [str(run)], str(noise), EvaluateConfig(test_calibration_fraction=0.25))
    assert "another split" in error.got
    assert evaluate_models([str(run)], str(noise)).split.name == "test"


@pytest.mark.parametrize("part", ["student", "student/model.safetensors"])
def test_a_teacher_and_a_start_must_not_know_test_images(
    world: World, runs: list[Path], noise: Path, tmp_path: Path, part: str
) -> None:
    named = runs[0] / part
    by_file = {"teachers__1__name": "cifar_resnet8", "teachers__1__weights": str(named)}
    by_folder = {"teachers__1__name": f"local-dir:{named}"}
    teacher = {**(by_file if named.is_file() else by_folder), "method__name": "kd"}
    start = {"student__weights": str(runs[0] / "student" / "model.safetensors")}
    for changes, setting in ((teacher, "teachers.1"), (start, "student.weights")):
        out = tmp_path / setting
        error = refusal(distill, settings(world, noise, out, 1, **changes), quiet=True)
        assert error.rule.startswith(setting)
        assert "test images of this run" in error.rule
        assert str(runs[0]) in error.got
        assert not (out / "student").exists()
        distill(settings(world, noise, out, 0, **changes), quiet=True)


def test_a_cache_in_a_run_folder_is_no_model_of_this_run(
    world: World, runs: list[Path], noise: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs[0], tmp_path / "first")
    cache = {"cache__dir": str(tmp_path / "first" / "cache")}
    changes = {"teachers__1__name": "cache:big", "method__name": "kd", "data__size": SIZE, **cache}
    config = settings(world, noise, tmp_path / "run", 1, **changes)
    keys = keys_of(noise)
    logits_NC = 3 * np.eye(len(CLASSES), dtype=np.float32)[[CLASSES.index(key.split("/")[0]) for key in keys]]
    np.savez(tmp_path / "big.npz", logits=logits_NC, classnames=np.array(CLASSES), files=np.array(keys))
    import_outputs(tmp_path / "big.npz", config)
    messages: list[str] = []
    refuse_leaking_models(config, open_data(config.data, config.train.seed), messages.append)
    assert messages == []


def test_images_on_which_a_run_fits_are_a_warning(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = distill(
        world.config(tmp_path / "all", method__name="ce", train__epochs=1, data__val_fraction=0), quiet=True
    ).folder
    changes = {"method__name": "kd", "train__epochs": 1, "teachers__1__name": f"local-dir:{seen / 'student'}"}
    distill(world.config(tmp_path / "run", **changes))
    output = " ".join(capsys.readouterr().out.split())
    assert "warning: teachers.1.name was trained on 12 of 12 images of val, on which this run fits" in output


def test_copies_in_the_data_themselves_are_no_leak(world: World, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    shutil.copy(images / "train" / CLASSES[0] / "0.png", images / "test" / CLASSES[0] / "copy.png")
    changes = {"data__path": str(images), "data__val_fraction": 0, "train__epochs": 1}
    teacher = distill(world.config(tmp_path / "t", method__name="ce", **changes), quiet=True).folder
    name = f"local-dir:{teacher / 'student'}"
    config = world.config(tmp_path / "r", method__name="kd", teachers__1__name=name, **changes)
    evaluate_models([str(teacher), str(distill(config, quiet=True).folder)], str(images))


def test_a_model_without_a_record_is_not_compared(runs: list[Path], tmp_path: Path) -> None:
    assert run_around(runs[0] / "student" / "model.safetensors") == runs[0]
    for content in ("", "{}", '{"hashed": true, "splits": [1]}', '{"hashed": true, "splits": {"a": {}}}'):
        copy = tmp_path / str(len(content))
        shutil.copytree(runs[0], copy)
        (copy / "inputs.json").write_text(content)
        assert seen_by(copy) is None
    assert seen_by(tmp_path / "nowhere") is None
