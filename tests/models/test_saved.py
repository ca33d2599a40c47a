"""A student's folder is loaded as it was saved, or its changes are named."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from richkd.config.schema import ModelConfig
from richkd.core.checksums import SUMS, hash_file
from richkd.core.errors import ModelError
from richkd.core.tensor_files import read_tensors
from richkd.export.student import load_student
from richkd.models.build import build_network
from richkd.models.saved import CARD, CONFIG, WEIGHTS, saved_folder
from tests.core.closed import LONG, close
from tests.fixtures import World, flip_bit, refusal

LABELS = {"label_names": ["a", "b", "c"]}


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world.teacher, tmp_path / "student"))


def as_teacher(folder: Path) -> object:
    return build_network(ModelConfig(name=f"local-dir:{folder}"), 3, role="teacher")


def edit_temperature(folder: Path) -> None:
    saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    saved["richkd"]["temperature"] = 4.0
    (folder / CONFIG).write_text(json.dumps(saved), encoding="utf-8")


@pytest.mark.parametrize("load", [load_student, as_teacher])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_changed_file_is_named_with_the_way_to_accept_it(
    folder: Path, name: str, load: Callable[[Path], object]
) -> None:
    load(folder)
    flip_bit(folder / name, 8 * (folder / name).stat().st_size - 9)
    error = refusal(load, folder)
    assert isinstance(error, ModelError)
    assert str(folder / name) in error.rule
    assert f"remove {folder / SUMS}" in str(error.fix)


def test_an_edit_is_accepted_without_hashes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_temperature(folder)
    refusal(load_student, folder)
    (folder / SUMS).unlink()
    with caplog.at_level(logging.WARNING):
        assert load_student(folder).temperature == 4.0
    assert SUMS in caplog.text
    # The weights know their hash themselves.
    flip_bit(folder / WEIGHTS, 8 * (folder / WEIGHTS).stat().st_size - 9)
    for load in (load_student, as_teacher):
        assert str(folder / WEIGHTS) in refusal(load, folder).rule


def test_an_edit_is_accepted_with_new_hashes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_temperature(folder)
    lines = [f"{hash_file(folder / name)}  {name}\n" for name in (CONFIG, WEIGHTS)]
    (folder / SUMS).write_text("".join(lines))
    with caplog.at_level(logging.WARNING):
        assert load_student(folder).temperature == 4.0
    assert not caplog.text


def test_weights_alone_are_checked(folder: Path, tmp_path: Path) -> None:
    for suffix in ("", "/copied"):
        file = tmp_path / f"weights{suffix}" / WEIGHTS
        file.parent.mkdir()
        shutil.copy(folder / WEIGHTS, file)
        config = ModelConfig(name="cifar_resnet8", weights=file)
        build_network(config, 3, role="teacher", default_size=16)
        flip_bit(file, 8 * file.stat().st_size - 9)
        assert str(file) in refusal(build_network, config, 3, role="teacher", default_size=16).rule


def test_a_folder_of_timm_is_not_checked(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    timm.models.save_for_hf(model, tmp_path / "timm", model_config=LABELS, safe_serialization=True)
    with caplog.at_level(logging.WARNING):
        student = load_student(tmp_path / "timm")
        as_teacher(tmp_path / "timm")
    assert not caplog.text
    tensors, _ = read_tensors(folder / WEIGHTS)
    assert all(torch.equal(student.network.model.state_dict()[name], t) for name, t in tensors.items())


def test_a_card_may_be_edited(world: World, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = (folder / SUMS).read_text().splitlines(keepends=True)[1:]
    (folder / SUMS).write_text("".join([*text, f"{'0' * 64}  {CARD}\n"]))
    (folder / CARD).write_text("# Mine")
    with caplog.at_level(logging.WARNING):
        load_student(folder)
    assert str(folder / CARD) in caplog.text


def test_a_file_in_the_place_of_a_folder_is_no_missing_folder(world: World, folder: Path) -> None:
    photo = world.images / "test" / "ant" / "0.png"
    error = refusal(load_student, photo)
    assert isinstance(error, ModelError)
    assert error.got == "a file, no folder"
    assert "the model comes before the images: richkd predict MODEL IMAGE" in str(error.fix)
    for name in (CONFIG, WEIGHTS):
        error = refusal(load_student, folder / name)
        assert (error.got, error.fix) == ("a file, no folder", f"pass its folder, {folder}.")


def test_the_name_of_a_network_needs_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cifar_resnet8", "resnet18"):
        error = refusal(saved_folder, Path(name))
        assert error.got == "no such folder"
        assert f"for the network {name} itself, add --weights FILE" in str(error.fix)
    assert "--weights" not in str(refusal(saved_folder, Path("no-such-run")).fix)
    (tmp_path / "run").mkdir()
    assert refusal(saved_folder, Path("run")).got == f"no {CONFIG} and no {WEIGHTS}"


def test_a_folder_that_cannot_be_looked_at_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refusal(saved_folder, tmp_path / LONG)
    assert isinstance(error, ModelError)
    assert error.got == "File name too long"
    run = tmp_path / "closed-run"
    shutil.copytree(folder, run / "student")
    assert saved_folder(run) == run / "student"
    for closed in (run / "student", run, tmp_path):
        with monkeypatch.context() as context:
            close(context, closed)
            error = refusal(saved_folder, run)
        assert isinstance(error, ModelError)
        assert error.got == "Permission denied"
        assert "permissions" in str(error.fix)
