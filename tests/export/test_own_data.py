"""The data of a run, asked for by paths that cannot be looked at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from richkd.config.resumed import recorded_inputs
from richkd.core.errors import DataError
from richkd.data import digests
from richkd.data.sources import open_data
from richkd.export.own_data import as_trained, data_of, run_of
from richkd.training.run import distill
from tests.core.closed import LONG, close
from tests.fixtures import World, refusal


def test_a_folder_that_cannot_be_looked_at_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "closed" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    close(monkeypatch, run.parent)
    for model in (run, Path(LONG)):
        assert run_of(model) == model
        assert as_trained(model, "photos")[0].path == "photos"
        assert isinstance(refusal(data_of, str(model)), DataError)


def test_data_that_are_a_link_to_itself_are_not_those_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "config.yaml").write_text("data: {path: photos}\nstudent: {name: resnet18}")
    assert as_trained(tmp_path, str(tmp_path / "loop"))[1] == 0


def test_a_home_folder_is_the_same_as_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.yaml").write_text(
        "data: {path: ~/photos, test_fraction: 0.3}\nstudent: {name: resnet18}\ntrain: {seed: 7}"
    )
    for data in ("~/photos", str(tmp_path / "photos")):
        settings, seed = as_trained(tmp_path, data)
        assert (settings.path, settings.test_fraction, seed) == (data, 0.3, 7)


@pytest.mark.parametrize("most", [1 << 30, 0])
def test_moved_data_are_recognized_however_large_they_are(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    then, now, run = tmp_path / "then", tmp_path / "now", tmp_path / "run"
    shutil.copytree(world.images / "train", then)
    monkeypatch.setattr(digests.are_hashed, "__defaults__", (most,))
    settings = {"data__path": str(then), "data__test_fraction": 0.3, "train__epochs": 1, "train__seed": 7}
    distill(world.config(run, method__name="ce", **settings), quiet=True)
    assert recorded_inputs(run)["hashed"] == bool(most)
    then.rename(now)
    data, seed = as_trained(run, str(now))
    assert (data.test_fraction, seed) == (0.3, 7)
    assert as_trained(run, str(world.images / "test"))[1] == 0


def test_unlabeled_images_inside_of_the_data_are_no_class(world: World, tmp_path: Path) -> None:
    then, now, run = tmp_path / "then", tmp_path / "now", tmp_path / "run"
    shutil.copytree(world.images / "train", then)
    shutil.copytree(then / "ant", then / "more")
    for number, image in enumerate(sorted((then / "more").glob("*.png"))):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(image)
    settings = {"data__path": str(then), "data__unlabeled": str(then / "more"), "data__test_fraction": 0.3}
    distill(world.config(run, method__name="ce", train__epochs=1, **settings), quiet=True)
    expected = open_data(*as_trained(run, str(then)))
    assert expected.class_names == ("ant", "bee", "cow")
    assert len(data_of(str(run)).splits["test"]) == len(expected.splits["test"])
    then.rename(now)
    moved = open_data(*as_trained(run, str(now)))
    assert moved.splits["test"].keys() == expected.splits["test"].keys()
    shutil.rmtree(now / "more")
    assert open_data(*as_trained(run, str(now))).class_names == expected.class_names
