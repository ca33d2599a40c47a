"""A search from its plan to its recipes: the same after kills, and honest about what failed."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from richkd.config.loading import load_config
from richkd.core.terminal import Terminal
from richkd.training.run_folder import RunFolder
from richkd.tune import budget
from richkd.tune.run import tune
from tests.fixtures import World, refusal
from tests.tune.plans import content, in_child, of_labels, run, write


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    run(write(folder, content(world)), folder / "out")
    return folder


@pytest.mark.slow
def test_a_search_that_was_killed_ten_times_ends_as_if_nothing_had_happened(
    world: World, whole: Path, tmp_path: Path
) -> None:
    path, draws = write(tmp_path, content(world)), random.Random(0)
    for _ in range(10):
        child = in_child(path, tmp_path / "out")
        time.sleep(draws.uniform(0.2, 2.0))
        child.kill()
        child.join()
    run(path, tmp_path / "out")
    for name in ("tune.json", "tune.md", "richkd.yaml"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / "out" / name).read_bytes()


def test_the_recipe_has_the_best_settings_and_their_evidence(whole: Path) -> None:
    recipe = whole / "out" / "richkd.yaml"
    (method,) = json.loads((whole / "out" / "tune.json").read_text())["methods"]
    longest = method["rungs"][-1]
    figures = {
        trial["index"]: run["top1"]
        for trial in method["trials"]
        for run in trial["runs"]
        if run["epochs"] == longest
    }
    assert len(method["trials"]) == 6
    assert method["rungs"] == [1, 3]
    assert figures[method["best"]] == max(figures.values())
    assert 0 in figures, "the settings of the plan go to the end"
    config = load_config(recipe)
    point = method["trials"][method["best"]]["point"]
    assert config.optim.lr == pytest.approx(point["optim.lr"], rel=0.01)
    assert config.train.epochs == 3
    text = recipe.read_text()
    assert f"{figures[method['best']]:.2%}" in text
    assert "16 epochs" not in text
    assert f"{figures[0]:.2%}" in text


def test_figures_are_those_of_the_runs(whole: Path) -> None:
    (method,) = json.loads((whole / "out" / "tune.json").read_text())["methods"]
    count = 0
    for trial in method["trials"]:
        for one in trial["runs"]:
            summary = RunFolder(
                whole / "out" / "runs" / f"richkd-t{trial['index']:03}-e{one['epochs']}"
            ).summary()
            assert summary is not None
            assert one["top1"] == summary["splits"]["val"]["top1"]
            count += 1
    assert count == len(list((whole / "out" / "runs").iterdir()))


def test_nothing_runs_again_and_a_lost_study_is_made_again(whole: Path) -> None:
    files = [file for file in (whole / "out" / "runs").rglob("*") if file.is_file()]
    before = {file: file.stat().st_mtime_ns for file in files}
    table = (whole / "out" / "tune.json").read_bytes()
    (whole / "out" / "studies" / "richkd.jsonl").unlink()
    run(whole / "plan.yaml", whole / "out")
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert (whole / "out" / "tune.json").read_bytes() == table
    assert not list((whole / "out" / "runs").glob("*/checkpoints"))


@pytest.mark.slow
def test_a_search_on_changed_images_or_settings_is_refused(world: World, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    plan = of_labels(world, space={"optim.lr": [0.02, 0.01]})
    base = plan["base"]
    base["data"]["path"] = str(images)
    run(write(tmp_path, plan), tmp_path / "out")
    base["optim"] = {"lr": 0.02, "momentum": 0.5}
    assert "optim.momentum" in str(refusal(run, write(tmp_path, plan), tmp_path / "out"))
    base["optim"] = {"lr": 0.02}
    (tmp_path / "out" / "studies" / "ce.jsonl").unlink()
    picture = next(images.rglob("*.png"))
    Image.new("RGB", (8, 8), (1, 2, 3)).save(picture)
    assert "images" in str(refusal(run, write(tmp_path, plan), tmp_path / "out"))


@pytest.mark.slow
def test_trials_that_diverge_are_named_and_the_search_goes_on(world: World, tmp_path: Path) -> None:
    space = {"optim.lr": [0.02, 1e30]}
    result = run(write(tmp_path, of_labels(world, space=space)), tmp_path / "out")
    (method,) = result.methods
    failed = [record for record in method.records if record.state == "failed"]
    assert failed
    assert all(record.point == {"optim.lr": "1e+30"} for record in failed)
    assert "finite" in failed[0].reason
    assert method.best is not None
    assert method.best.point == {"optim.lr": "0.02"}
    assert "finite" in (tmp_path / "out" / "tune.html").read_text()
    # Trials with equal settings share a run.
    assert len(list((tmp_path / "out" / "runs").glob("ce-*-e1"))) == 2


@pytest.mark.slow
def test_minutes_become_epochs_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "total_seconds", lambda folder: 2.0)
    path = write(tmp_path, of_labels(world, space={"optim.lr": [0.02, 0.01]}, budget={"minutes": 0.4}))
    run(path, tmp_path / "out")
    record = tmp_path / "out" / "budget.json"
    # 24 seconds for two runs at once, and 2 seconds for an epoch.
    assert json.loads(record.read_text()) == {
        "minutes": 0.4,
        "epochs": 24,
        "seconds": {"ce": 2.0},
    }
    record.write_text('{"minutes": 0.4, "epochs": 2}')
    (method,) = run(path, tmp_path / "fresh").methods
    assert method.halving.epochs > 2
    (tmp_path / "out" / "studies" / "ce.jsonl").unlink()
    (method,) = run(path, tmp_path / "out").methods
    assert method.halving.epochs == 2


def test_an_epoch_must_fit_into_the_minutes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "total_seconds", lambda folder: 100.0)
    path = write(tmp_path, of_labels(world, space={"optim.lr": [0.02, 0.01]}, budget={"minutes": 0.4}))
    assert "1.7 minutes for an epoch" in str(refusal(run, path, tmp_path / "out"))


def test_seconds_of_other_settings_are_refused(world: World, tmp_path: Path) -> None:
    plan = of_labels(world, space={"optim.lr": [0.02, 0.01]}, budget={"minutes": 0.4})
    timed = tmp_path / "out" / "runs" / "ce-timed-e1"
    timed.mkdir(parents=True)
    settings = world.config(timed, method__name="ce", train__epochs=1, student__name="cifar_resnet20")
    (timed / "config.yaml").write_text(settings.to_yaml())
    (timed / "inputs.json").write_text("{}")
    record = {"minutes": 0.4, "epochs": 24, "seconds": {"ce": 2.0}}
    (tmp_path / "out" / "budget.json").write_text(json.dumps(record))
    assert "student.name cifar_resnet8" in str(refusal(run, write(tmp_path, plan), tmp_path / "out").got)


@pytest.mark.parametrize("given", ["plan", "option"])
def test_the_folder_may_be_in_the_home_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folders: list[Path] = []
    monkeypatch.setattr("richkd.tune.run.search", lambda source, out, **options: folders.append(out))
    plan = content(world, out="~/search" if given == "plan" else None)
    tune(write(tmp_path, plan), out=Path("~/search") if given == "option" else None)
    assert folders == [tmp_path / "home" / "search"]


def test_a_check_starts_nothing(world: World, tmp_path: Path) -> None:
    assert (
        tune(
            write(tmp_path, content(world)),
            out=tmp_path / "out",
            check_only=True,
            console=Terminal(quiet=True),
        )
        is None
    )
    assert not (tmp_path / "out").exists()


def test_data_without_validation_images_are_refused(world: World, tmp_path: Path) -> None:
    base = content(world)["base"]
    base["data"]["val_fraction"] = 0
    error = str(refusal(run, write(tmp_path, content(world, base=base)), tmp_path / "out"))
    assert "split 'val'" in error
    assert "val_fraction" in error
