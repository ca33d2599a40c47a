"""NaN and infinity, from wherever they come into a run: the message names where they come from."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from richkd.cli import main
from richkd.config.loading import load_config
from richkd.core.checksums import SUMS
from richkd.core.errors import CacheError, CheckpointError, ConfigError, NonFiniteError, RichKDError
from richkd.core.types import Batch, Output
from richkd.evaluate.run import evaluate_models
from richkd.export.student import Student, load_student
from richkd.teachers.cache.manifest import MANIFEST, list_caches, read_manifest
from richkd.teachers.clip.load import load_clip
from richkd.teachers.vision import VisionTeacher
from richkd.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from richkd.training.run import distill
from richkd.training.task import Task
from tests.fixtures import World, make_clip, make_outputs, refusal

TENSOR = "layer1.0.conv1.weight"


def poison(folder: Path, value: float = math.nan, tensor: str = TENSOR, count: int = 2) -> Path:
    """Put a value into the weights of a folder; returns the folder."""
    file = folder / "model.safetensors"
    state = load_file(file)
    state[tensor].view(-1)[:count] = value
    save_file(state, file)
    return folder


def poisoned(world: World, folder: Path, **changes: Any) -> Path:
    return poison(unsealed(world, folder), **changes)


def unsealed(world: World, folder: Path) -> Path:
    """A copy of the teacher without the hashes of its files, as other programs write it."""
    shutil.copytree(world.teacher, folder, ignore=shutil.ignore_patterns(SUMS))
    return folder


def check_named(error: RichKDError, source: object) -> None:
    assert isinstance(error, NonFiniteError)
    assert str(source) in error.rule
    assert f"2 of 2,304 values of tensor '{TENSOR}'" in str(error.got)
    assert "--optim.lr" not in str(error)
    assert "checkpoint" not in str(error)


# Weights


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_teachers_folder(world: World, tmp_path: Path, value: float) -> None:
    folder = poisoned(world, tmp_path / "teacher", value=value)
    config = world.config(tmp_path / "run", method__name="kd", teachers__1__name=f"local-dir:{folder}")
    check_named(refusal(distill, config, quiet=True), folder)
    assert not (tmp_path / "run").exists()


def test_a_teachers_file(world: World, tmp_path: Path) -> None:
    file = poisoned(world, tmp_path / "teacher") / "model.safetensors"
    names = {"teachers__1__name": "cifar_resnet8", "teachers__1__weights": str(file)}
    config = world.config(tmp_path / "run", method__name="kd", **names)
    check_named(refusal(distill, config, quiet=True), file)


def test_the_weights_that_a_student_starts_from(world: World, tmp_path: Path) -> None:
    file = poisoned(world, tmp_path / "start") / "model.safetensors"
    config = world.config(tmp_path / "run", method__name="ce", student__weights=str(file))
    error = refusal(distill, config, quiet=True)
    check_named(error, file)
    assert "student" in error.rule


def test_a_clip(tmp_path: Path) -> None:
    import richkd

    folder = tmp_path / "clip"
    shutil.copytree(Path(richkd.__file__).parent / "demo" / "tiny_clip", folder)
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    clean = dict(state)
    name = next(key for key, tensor in state.items() if tensor.is_floating_point() and tensor.ndim == 2)
    save_file({**clean, name: torch.full_like(clean[name], math.nan)}, file)
    error = refusal(load_clip, f"local-dir:{folder}")
    assert isinstance(error, NonFiniteError)
    assert str(folder) in error.rule
    assert f"tensor '{name}'" in str(error.got)
    save_file({**clean, "logit_scale": torch.full_like(clean["logit_scale"], 1e4)}, file)
    assert "logit scale" in refusal(load_clip, f"local-dir:{folder}").rule


def test_a_checkpoint_with_bad_numbers_is_like_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, Checkpoint({"task.fc": torch.ones(2)}, {"step": 1}))
    save_checkpoint(path, Checkpoint({"task.fc": torch.tensor([1.0, math.nan])}, {"step": 2}))
    checkpoint, warning = load_checkpoint(path)
    assert checkpoint.scalars["step"] == 1
    assert "last.ckpt: 1 of 2 values of tensor 'task.fc' are NaN or infinite" in str(warning)
    (tmp_path / "alone").mkdir()
    save_checkpoint(tmp_path / "alone" / "last.ckpt", Checkpoint({"a": torch.tensor(math.inf)}, {}))
    assert isinstance(refusal(load_checkpoint, tmp_path / "alone" / "last.ckpt"), CheckpointError)


# Students


def test_a_students_weights(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = poisoned(world, tmp_path / "student")
    check_named(refusal(load_student, folder), folder)
    check_named(refusal(evaluate_models, [folder], world.images), folder)
    image = next((world.images / "test").rglob("*.png"))
    evaluate = ["evaluate", str(folder), "--data", str(world.images)]
    for words in (["predict", str(folder), str(image)], evaluate):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 1
        out, err = capsys.readouterr()
        assert "nan" not in out
        assert TENSOR in err


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
@pytest.mark.parametrize("name", ["temperature", "std"])
def test_the_numbers_beside_the_weights(world: World, tmp_path: Path, name: str, value: float) -> None:
    folder = unsealed(world, tmp_path / "student")
    saved = json.loads((folder / "config.json").read_text())
    if name == "std":
        saved["pretrained_cfg"]["std"] = [value, 1.0, 1.0]
    else:
        saved["richkd"]["temperature"] = value
    (folder / "config.json").write_text(json.dumps(saved))
    assert str(folder) in refusal(load_student, folder).rule


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_the_normalization_of_a_teacher(world: World, tmp_path: Path, value: float) -> None:
    folder = unsealed(world, tmp_path / "teacher")
    saved = json.loads((folder / "config.json").read_text())
    saved["pretrained_cfg"]["std"] = [1.0, value, 1.0]
    (folder / "config.json").write_text(json.dumps(saved))
    config = world.config(tmp_path / "run", method__name="kd", teachers__1__name=f"local-dir:{folder}")
    error = refusal(distill, config, quiet=True)
    assert f"The teacher local-dir:{folder} must have a finite mean and a positive std" in error.rule


class Overflowing(torch.nn.Module):
    """Multiplies the logits of bright images beyond the largest number."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward_features(self, pixels_B3HW: Tensor) -> Any:
        maps = self.model.forward_features(pixels_B3HW)  # type: ignore[operator]
        return torch.where(pixels_B3HW.mean((1, 2, 3), keepdim=True) > 1, math.inf, maps)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "model" else getattr(super().__getattr__("model"), name)


@pytest.fixture
def overflowing(world: World) -> Student:
    student = load_student(world.teacher)
    student.network.model = Overflowing(student.network.model)
    return student


def test_an_image_with_bad_outputs_is_named(
    overflowing: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, color in (("dark", "black"), ("bright", "white")):
        Image.new("RGB", (16, 16), color).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "dark.png", tmp_path / "bright.png"]
    error = refusal(overflowing.probabilities, paths)
    assert isinstance(error, NonFiniteError)
    assert error.got == f"NaN or infinity for 1 of 2 images: {paths[1]}"
    array = np.full((16, 16, 3), 255, np.uint8)
    assert "image 0" in str(refusal(overflowing.probabilities, [array]).got)
    monkeypatch.setattr("richkd.export.artifact.open_classifier", lambda *_: overflowing)
    with pytest.raises(SystemExit) as ended:
        main(["predict", "student", *map(str, paths), "--json"])
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert set(lines[0]) == {"image", "classes"}
    assert set(lines[1]) == {"image", "error"}
    assert "1 of the images cannot be predicted" in err
    assert "bright.png" in err


def test_an_array_of_numbers_that_are_no_pixels_is_refused(world: World) -> None:
    student = load_student(world.teacher)
    for image in (np.full((16, 16, 3), math.nan, np.float32), torch.full((3, 16, 16), math.nan)):
        assert refusal(student.probabilities, [image]).fix


# Outputs of teachers


def outputs_become(monkeypatch: pytest.MonkeyPatch, change: Any, *, training: bool) -> None:
    """Let all vision teachers compute other outputs for images of train, or for all others."""
    original = VisionTeacher.outputs

    def outputs(self: VisionTeacher, batch: Batch, *args: Any, **more: Any) -> Output:
        output = original(self, batch, *args, **more)
        return change(output) if (batch.split == "train") == training else output

    monkeypatch.setattr(VisionTeacher, "outputs", outputs)


def bad_logits(output: Output) -> Output:
    return replace(output, logits_BC=output.logits_BC.index_fill(0, torch.tensor([1]), math.nan))


def bad_feats(output: Output) -> Output:
    return replace(output, feats_BF=output.feats_BF + math.inf)


@pytest.mark.parametrize("change", [bad_logits, bad_feats])
def test_a_teacher_is_named_at_a_step(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    outputs_become(monkeypatch, change, training=True)
    config = world.config(tmp_path / "run", fusion__preset="paper", fusion__features="raw")
    error = refusal(distill, config, quiet=True)
    assert isinstance(error, NonFiniteError)
    assert f"The outputs of teacher local-dir:{world.teacher} must be finite" in error.rule
    assert "step 0 (epoch 0)" in error.rule
    assert "--optim.lr" not in str(error)
    assert "checkpoint" not in str(error)


def test_features_that_no_term_reads_may_be_anything(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs_become(monkeypatch, bad_feats, training=True)
    distill(world.config(tmp_path / "run", method__name="kd", train__epochs=1), quiet=True)


def test_a_teacher_is_named_on_held_out_images(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs_become(monkeypatch, bad_logits, training=False)
    error = refusal(distill, world.config(tmp_path / "run", method__name="kd"), quiet=True)
    assert isinstance(error, NonFiniteError)
    assert f"teacher local-dir:{world.teacher}" in error.rule
    assert ".png" in str(error.got)


def test_a_check_finds_them_without_training(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs_become(monkeypatch, bad_logits, training=True)
    with pytest.raises(SystemExit) as ended:
        main(["check", *world.options(tmp_path / "run", method__name="kd")])
    assert ended.value.code == 1
    assert "must be finite" in capsys.readouterr().err


def test_a_cache_names_the_teacher(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs_become(monkeypatch, bad_logits, training=True)
    config = world.config(tmp_path / "run", method__name="kd", cache__dir=str(tmp_path / "cache"))
    error = refusal(distill, config, quiet=True)
    assert isinstance(error, CacheError)
    assert f"those of teacher local-dir:{world.teacher} are not" in error.rule
    assert "for 1 of 8 images, first image " in str(error.got)


@pytest.mark.parametrize("top_k", [None, 2])
def test_stored_outputs_that_are_bad_are_computed_again(
    world: World, tmp_path: Path, top_k: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = {"cache__dir": str(tmp_path / "cache"), "cache__top_k": top_k}
    runs = []
    for name in ("first", "again"):
        config = world.config(tmp_path / name, method__name="kd", train__epochs=1, **cache)
        runs.append(distill(config, quiet=name == "first").summary)
        if name == "first":
            (train,) = (path for path in list_caches(tmp_path / "cache") if "-train-" in path.name)
            poison_shard(train)
    out = capsys.readouterr().out
    assert "contains outputs that are NaN or infinite; it was removed and will be computed again" in out
    assert runs[0]["splits"] == runs[1]["splits"]


def poison_shard(folder: Path) -> None:
    """Replace the last logit of a shard by NaN, under the name of its new hash."""
    import hashlib

    from safetensors.torch import save

    file = next(folder.glob("*.safetensors"))
    shard = load_file(file)
    rows_BR = shard["rows"].clone()
    assert read_manifest(folder).row_format.finite(rows_BR)
    rows_BR[0, -2:] = torch.tensor([0, 0x7E], dtype=torch.uint8)  # NaN in float16
    assert not read_manifest(folder).row_format.finite(rows_BR)
    content = save({"keys": shard["keys"], "rows": rows_BR})
    file.unlink()
    (folder / f"{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)
    assert (folder / MANIFEST).exists()


def test_outputs_that_were_computed_elsewhere(world: World, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.npz", world.images, poison=3)
    config = world.config(tmp_path / "run", clip__name=f"outputs:{tmp_path / 'clip.npz'}")
    error = refusal(distill, config, quiet=True)
    assert "rows of 'image_features' must be finite" in error.rule
    assert ".png" in str(error.got)
    from richkd.pipeline.import_outputs import import_outputs

    arrays = make_outputs(tmp_path / "big.npz", world.images)
    bad_NC = arrays["logits"].copy()
    bad_NC[5] = math.nan
    make_outputs(tmp_path / "big.npz", world.images, logits=bad_NC)
    config = world.config(tmp_path / "run", method__name="ce", cache__dir=str(tmp_path / "cache"))
    error = refusal(import_outputs, tmp_path / "big.npz", config)
    assert "rows of 'logits' must be finite" in error.rule
    assert arrays["files"][5] in str(error.got)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "name", ["optim.lr", "objective.kd.weight", "objective.kd.temperature", "fusion.weights"]
)
def test_settings_are_finite(world: World, tmp_path: Path, name: str, value: str) -> None:
    settings = world.settings(tmp_path / "run", method__name="kd")
    given = [float(value)] if name == "fusion.weights" else value
    error = refusal(lambda: distill(load_config(None, settings | {name: given}), quiet=True))
    assert isinstance(error, ConfigError)
    assert name in str(error)


# Losses of the student


def loss_becomes_nan(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    forward, calls = Task.forward, [0]

    def failing(self: Task, *args: Any) -> Any:
        terms = forward(self, *args)
        calls[0] += 1
        terms.terms["kd"] = terms.terms["kd"] * (math.nan if calls[0] > step else 1)
        return terms

    monkeypatch.setattr(Task, "forward", failing)


@pytest.mark.parametrize(("step", "saved"), [(1, False), (5, True)])
def test_the_learning_rate_and_the_last_checkpoint_are_named_only_where_they_matter(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, saved: bool
) -> None:
    loss_becomes_nan(monkeypatch, step)
    error = refusal(distill, world.config(tmp_path / "run", method__name="kd"), quiet=True)
    assert isinstance(error, NonFiniteError)
    assert f"at step {step} (epoch {int(saved)}) in: kd" in error.rule
    assert "--optim.lr" in str(error.fix)
    assert ("the last checkpoint is older and valid" in str(error.fix)) == saved
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() == saved


def test_weights_that_became_infinite_are_named_before_the_validation(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config(tmp_path / "run", method__name="ce", optim__lr=1e38, train__epochs=1)
    monkeypatch.setattr("richkd.training.failures.STEPS_BETWEEN_READINGS", {"cpu": 1000})
    error = refusal(distill, config, quiet=True)
    assert isinstance(error, NonFiniteError)
    assert "--optim.lr" in str(error.fix)
    assert "checkpoint" not in str(error.fix)
