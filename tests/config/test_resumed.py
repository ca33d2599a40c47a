"""The settings of a run to resume: their marks, where they are found, and paths of a moved run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

from richkd.config.listing import fields_of, section_type
from richkd.config.marks import WhenResumed, flattened
from richkd.config.resumed import default_of, mark_of, resumed_config
from richkd.config.schema import Config


def names_of_paths() -> Iterator[str]:
    """All settings whose type contains a path."""
    for name, field in Config.model_fields.items():
        section = section_type(field, items=True)
        inner = {"": field} if section is None else section.model_fields
        for leaf, setting in inner.items():
            if "Path" in str(setting.annotation):
                yield f"{name}.{leaf}".removesuffix(".")


def test_every_path_is_marked_because_it_may_move() -> None:
    names = list(names_of_paths())
    assert "data.calibration" in names
    assert [name for name in names if mark_of(name) is None] == []


@pytest.mark.parametrize(
    "name",
    ["optim.lr", "train.seed", "train.batch_size", "train.precision", "data.val_fraction", "augment.flip"],
)
def test_settings_that_change_numbers_are_not_marked(name: str) -> None:
    assert mark_of(name) is None


def make_run(run: Path, out: str, **paths: str) -> None:
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_bytes(b"weights")
    config = Config(data={"path": paths["data"]}, student={"name": "resnet18"}, out=out)
    (run / "config.yaml").write_text(config.to_yaml())


def test_a_run_folder_stands_for_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs" / "a", "runs/a", data="photos")
    monkeypatch.chdir(tmp_path)
    assert resumed_config(None, {"out": "runs/a"}).student.name == "resnet18"
    # What is given wins.
    assert resumed_config(None, {"out": "runs/a", "student.name": "resnet34"}).student.name == "resnet34"
    assert resumed_config(Path("runs/a/config.yaml"), {}).out == Path("runs/a")
    make_run(tmp_path / "runs" / "latest", "runs/latest", data="photos")
    assert resumed_config(None, {}).out == Path("runs/latest")
    monkeypatch.chdir(tmp_path / "runs" / "a")
    assert resumed_config(None, {}).out == tmp_path / "runs" / "a"


def test_the_settings_of_a_copied_run_are_about_the_copy(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name, str(tmp_path / "a"), data="photos")
    assert resumed_config(tmp_path / "b" / "config.yaml", {}).out == tmp_path / "b"
    other = resumed_config(tmp_path / "b" / "config.yaml", {"out": "elsewhere"})
    assert other.out == Path("elsewhere")


def test_another_recipe_stays_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {path: photos}\nstudent: {name: resnet18}\nout: runs/c\n")
    assert resumed_config(tmp_path / "config.yaml", {}).out == Path("runs/c")


@pytest.mark.parametrize("absolute", [True, False])
def test_paths_follow_the_run_folder_only_if_they_do_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absolute: bool
) -> None:
    old = tmp_path / "old"
    base = f"{old}/" if absolute else ""
    make_run(old / "runs" / "a", f"{base}runs/a", data=f"{base}photos")
    (old / "photos").mkdir()
    monkeypatch.chdir(old)
    assert resumed_config(None, {"out": "runs/a"}).data.path == f"{base}photos"
    monkeypatch.chdir(tmp_path)
    old.rename(tmp_path / "new")
    moved = resumed_config(None, {"out": "new/runs/a"}).data.path
    assert Path(moved).resolve() == tmp_path / "new" / "photos"
    # What is nowhere stays as it was given, so that the message about it names it.
    (tmp_path / "new" / "photos").rmdir()
    assert resumed_config(None, {"out": "new/runs/a"}).data.path == f"{base}photos"


def test_a_value_that_is_no_path_does_not_follow_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "a"
    make_run(run, str(run), data=str(tmp_path))
    data = {"path": str(tmp_path), "labels_per_class": 5, "unlabeled": "rest"}
    (run / "config.yaml").write_text(Config(data=data, student={"name": "resnet18"}, out=run).to_yaml())
    # A folder of this name beside the recipe is none of the run's.
    (run / "rest").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resumed_config(None, {"out": str(run)}).data.unlabeled == "rest"
    assert mark_of("data.labels_per_class") is None


def test_a_default_is_what_a_recipe_without_the_setting_means() -> None:
    config = Config.model_validate({"data": {"path": "."}, "student": {"name": "resnet18"}})
    written = dict(flattened(yaml.safe_load(config.to_yaml())))
    for name, value in written.items():
        if name not in ("data.path", "student.name"):
            assert default_of(name) == value, name
    assert default_of("no.such.setting") is None
    assert default_of("objective.kd.weight") is None


def test_no_setting_with_a_default_can_be_none() -> None:
    # Settings that are None are not written, so such a setting would be taken for its default.
    for name, field in fields_of(Config):
        default = field.get_default(call_default_factory=True)
        assert default is None or type(None) not in get_args(field.annotation), name


def test_marks_have_an_explanation() -> None:
    assert all(mark.value for mark in WhenResumed)
