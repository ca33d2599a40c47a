"""The training loop: what a run's result may depend on, and what stops it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

import richkd
from richkd.core.errors import ClipError, ConfigError, NonFiniteError
from richkd.core.interrupt import Interrupted, catch_stop_signals
from richkd.core.types import Batch, Output, Target
from richkd.loops.callbacks import Callback
from richkd.methods.kd import Distillation
from richkd.methods.term import Context, Loss
from richkd.pipeline.assemble import assemble
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from richkd.training.run_folder import RunFolder, read_lines
from richkd.training.trainer import Trainer
from tests.fixtures import CLASSES, SIZE, STEPS, TEST, World, make_clip, refusal
from tests.training.test_resume import stop_after

SAME = ("checkpoints/last.ckpt", "metrics.jsonl", "student/model.safetensors")


def run(world: World, out: Path, **changes: Any) -> dict[str, bytes]:
    """The files of a short run that depend on nothing but its settings."""
    distill(world.config(out, **{"train__epochs": 2, **changes}), quiet=True)
    return {name: (out / name).read_bytes() for name in SAME}


@pytest.fixture(scope="module")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return run(world, tmp_path_factory.mktemp("plain") / "run")


def test_the_same_seed_gives_the_same_bytes(world: World, plain: dict[str, bytes], tmp_path: Path) -> None:
    # What somebody drew before must not matter.
    torch.manual_seed(12345)
    torch.rand(7)
    assert run(world, tmp_path / "run") == plain


def test_another_seed_gives_others(world: World, plain: dict[str, bytes], tmp_path: Path) -> None:
    other = run(world, tmp_path / "run", train__seed=1)
    assert all(other[name] != plain[name] for name in SAME)


def test_a_run_with_cutmix_trains(world: World, tmp_path: Path) -> None:
    changes = {"method__name": "ce", "train__epochs": 5, "optim__schedule": "cosine"}
    plain = run(world, tmp_path / "plain", **changes)
    mixed = run(world, tmp_path / "mixed", augment__cutmix_alpha=1.0, **changes)
    assert all(mixed[name] != plain[name] for name in SAME)
    lines = read_lines(tmp_path / "mixed" / "metrics.jsonl")
    # The entropy of mixed labels remains.
    assert 0.1 < lines[-1]["train/ce"] < 0.8 * lines[0]["train/ce"]
    assert lines[-1]["val/top1"] > 0.8


def with_more_images(world: World, folder: Path, count: int = 24) -> dict[str, Any]:
    """Settings of a run with unlabeled images, of which the CLIP outputs know as well."""
    random = np.random.default_rng(8)
    (folder / "more").mkdir(parents=True)
    for number in range(count):
        noise_HWC = random.integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise_HWC).save(folder / "more" / f"{number:02}.png")
    with np.load(world.clip) as file:
        arrays = dict(file)
    arrays["files"] = np.append(arrays["files"], [f"{number:02}.png" for number in range(count)])
    more_ND = random.normal(size=(count, arrays["image_features"].shape[1])).astype(np.float32)
    arrays["image_features"] = np.concatenate([arrays["image_features"], more_ND])
    np.savez(folder / "clip.npz", **arrays)
    return {"data__unlabeled": str(folder / "more"), "clip__name": f"outputs:{folder / 'clip.npz'}"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"data__unlabeled_fraction": 0.5, "objective__contrastive__negatives": "shared"}]
)
def test_unlabeled_images_are_learned_from_and_interrupted_like_others(
    world: World, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    selected = with_more_images(world, tmp_path) | changes
    whole = run(world, tmp_path / "whole", **selected)
    record = read_lines(tmp_path / "whole" / "metrics.jsonl")[-1]
    assert {"train/ce", "train/kd", "train/contrastive"} <= record.keys()
    # 36 labeled images and 24 more, in batches of 8.
    assert record["step"] == 2 * (60 // 8 if not changes else 36 // 4)
    assert run(world, tmp_path / "without")["metrics.jsonl"] != whole["metrics.jsonl"]
    stop_after(monkeypatch, 9)
    config = world.config(tmp_path / "stopped", train__epochs=2, **selected)
    with pytest.raises(Interrupted):
        distill(config, quiet=True)
    monkeypatch.undo()
    distill(config, resume=True, quiet=True)
    assert all((tmp_path / "stopped" / name).read_bytes() == whole[name] for name in SAME)


def test_the_controls_of_a_run_with_unlabeled_images(world: World, tmp_path: Path) -> None:
    selected = with_more_images(world, tmp_path)
    for control in ("teacher-only", "clip-only", "shuffled", "shuffled-in-class", "text-only"):
        config = world.config(tmp_path / control, fusion__control=control, train__epochs=1, **selected)
        parts = assemble(config, torch.device("cpu"))
        (batch,) = parts.training_batches(0, [torch.tensor([0, 40, 50])])
        views = parts.augmentation.draw(0, 0, batch.index_B)
        source = parts.main_source
        assert source is not None
        target = source.fusion([teacher.outputs(batch, views) for teacher in source.teachers], batch.labels_B)
        assert bool(target.logits_BC.isfinite().all()), control


def test_an_unlabeled_image_of_the_test_split_is_refused(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "x.png").write_bytes((world.images / "test" / "bee" / "1.png").read_bytes())
    config = world.config(tmp_path / "run", data__unlabeled=str(folder))
    assert "x.png = test/bee/1.png" in str(refusal(distill, config, quiet=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_streaming_and_workers_change_no_bit(
    world: World, plain: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    assert run(world, tmp_path / "run", data__in_memory_gb=0, train__workers=workers) == plain


def test_threads_that_decode_change_no_bit(world: World, plain: dict[str, bytes], tmp_path: Path) -> None:
    assert run(world, tmp_path / "run", train__workers=2) == plain


def weights(out: Path, part: str = "task") -> dict[str, Tensor]:
    return load_checkpoint(out / "checkpoints" / "last.ckpt")[0].part(part)


def test_accumulation_is_exact_up_to_rounding_where_images_do_not_meet(world: World, tmp_path: Path) -> None:
    # Batch normalization mixes a part's images and the contrastive term draws anew for each part, so the
    # equality is one of networks without the first and of methods without the second.
    fixed = {"student__name": "tests.fixtures:PlainNet", "method__variant": "l", "optim__max_grad_norm": 1.0}
    for parts in (1, 2, 3):
        run(world, tmp_path / str(parts), train__grad_accum_steps=parts, **fixed)
    whole = weights(tmp_path / "1")
    for parts in (2, 3):
        for name, tensor in weights(tmp_path / str(parts)).items():
            torch.testing.assert_close(tensor, whole[name], rtol=1e-4, atol=1e-5)
        lines = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("1", str(parts))]
        for a, b in zip(*lines, strict=True):
            assert a["train/ce"] == pytest.approx(b["train/ce"], rel=1e-4)
            assert a["train/kd"] == pytest.approx(b["train/kd"], rel=1e-4)


def test_accumulation_runs_with_everything_on(world: World, plain: dict[str, bytes], tmp_path: Path) -> None:
    files = run(world, tmp_path / "run", train__grad_accum_steps=2, train__ema_decay=0.9)
    assert files["student/model.safetensors"] != plain["student/model.safetensors"]
    assert all(bool(tensor.isfinite().all()) for tensor in weights(tmp_path / "run").values())
    # Each image's rows move once an epoch, in whichever part it was.
    moved = (
        weights(tmp_path / "run")["objective.terms.contrastive.memory.negatives.student_ND"].norm(dim=1) - 1
    ).abs() < 1e-4
    assert int(moved.sum()) >= STEPS * 8


def test_training_learns_and_says_so(world: World, tmp_path: Path) -> None:
    result = distill(world.config(tmp_path / "run", train__epochs=6), quiet=True)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(6))
    assert [line["step"] for line in lines] == [STEPS * (epoch + 1) for epoch in range(6)]
    assert lines[-1]["train/ce"] < 0.6 * lines[0]["train/ce"]
    assert {"train/ce", "train/kd", "train/contrastive", "val/top1", "val/nll", "lr"} <= lines[0].keys()
    saved = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert saved == result.summary
    assert saved["splits"]["test"]["n"] == len(CLASSES) * TEST
    assert saved["splits"]["test"]["top1"] > 0.6
    assert saved["temperature_fitted_on"] == "val"
    # A fitted temperature cannot be worse than none on the images that it was fitted on.
    val = saved["splits"]["val"]
    assert val["calibrated"]["nll"] <= val["nll"] + 1e-6
    assert set(saved["teachers"]["test"]) == {
        f"local-dir:{world.teacher}",
        "CLIP outputs",
        "target",
    }
    assert saved["target_shift_nats"] >= 0
    assert saved["control_multiplier"] > 0
    assert len(list((tmp_path / "run" / "events").rglob("events.out.tfevents.*"))) >= 1


def test_validation_and_the_best_checkpoint_follow_eval_every(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "run", train__epochs=3, train__eval_every=2)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert ["val/top1" in line for line in lines] == [False, True, True]
    best, _ = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert best.scalars["best_top1"] == max(line.get("val/top1", 0) for line in lines)


@pytest.mark.parametrize(
    "changes",
    [
        {"method__name": "ce"},
        {"method__name": "kd"},
        {"method__variant": "l"},
        {"method__variant": "f", "fusion__preset": "paper"},
        {"method__name": "kd", "objective__kd__target": "clip"},
    ],
    ids=["ce", "kd", "l", "f", "clip alone"],
)
def test_every_method_runs(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    run(world, tmp_path / "run", train__epochs=1, **changes)
    assert all(bool(tensor.isfinite().all()) for tensor in weights(tmp_path / "run").values())


def assert_saved_and_finite(out: Path, step: int) -> None:
    checkpoint, warning = load_checkpoint(out / "checkpoints" / "last.ckpt")
    assert warning is None
    assert checkpoint.scalars["step"] == step
    assert all(bool(tensor.isfinite().all()) for tensor in checkpoint.tensors.values())
    assert not (out / "student").exists()


def test_a_nan_loss_stops_at_once_and_names_term_step_and_images(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Distillation.forward
    seen: list[int] = []

    def broken(
        self: Distillation, student: Output, target: Target | None, batch: Batch, context: Context
    ) -> Loss:
        seen.append(context.step)
        loss = forward(self, student, target, batch, context)
        return Loss(loss.value * (torch.nan if context.step == 5 else 1.0))

    monkeypatch.setattr(Distillation, "forward", broken)
    config = world.config(tmp_path / "run", train__save_every=1, train__batch_size=4)
    error = refusal(distill, config, quiet=True)
    assert isinstance(error, NonFiniteError)
    assert "step 5 (epoch 0) in: kd" in error.rule
    assert str(error.got).count("train/") == 4
    named = str(error.got).removeprefix("images ").partition(" and ")[0].split(", ")
    assert all((world.images / name).is_file() for name in named)
    assert "--optim.lr" in str(error.fix)
    assert seen == list(range(6))
    assert_saved_and_finite(tmp_path / "run", 5)


def test_an_absurd_learning_rate_stops_and_leaves_a_finite_checkpoint(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", train__save_every=1, optim__lr=1e30)
    error = refusal(distill, config, quiet=True)
    assert isinstance(error, NonFiniteError)
    assert "became NaN or infinite" in error.rule
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    if last.exists():
        assert all(bool(t.isfinite().all()) for t in load_checkpoint(last)[0].tensors.values())
    assert not (tmp_path / "run" / "student").exists()


def test_infinite_weights_are_not_saved_over_finite_ones(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.train_step

    def broken(self: Trainer, batch: Batch) -> dict[str, Tensor]:
        terms = step(self, batch)
        if self.step == 2:
            with torch.no_grad():
                next(self.task.student.parameters())[0] = torch.inf
        return terms

    monkeypatch.setattr(Trainer, "train_step", broken)
    error = refusal(distill, world.config(tmp_path / "run", train__save_every=1), quiet=True)
    assert isinstance(error, NonFiniteError)
    assert "before step 3" in error.rule
    assert "task.student." in str(error.got)
    assert_saved_and_finite(tmp_path / "run", 2)


def test_nan_in_given_clip_features_is_refused_before_training(world: World, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.npz", world.images, poison=0)
    config = world.config(tmp_path / "run", clip__name=f"outputs:{tmp_path / 'clip.npz'}")
    error = refusal(distill, config, quiet=True)
    assert isinstance(error, ClipError)
    assert "finite" in error.rule
    assert "test/ant/0.png" in str(error.got)
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_a_run_can_be_started_outside_the_main_thread(world: World, tmp_path: Path) -> None:
    finished: list[bool] = []

    def work() -> None:
        with catch_stop_signals() as stop:
            finished.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert finished == [False]


def test_a_mistake_with_overwrite_loses_nothing(world: World, tmp_path: Path) -> None:
    files = run(world, tmp_path / "run", train__epochs=1)
    config = world.config(tmp_path / "run", clip__name="outputs:nowhere.npz")
    assert isinstance(refusal(distill, config, overwrite=True, quiet=True), ClipError)
    unknown = world.config(tmp_path / "run", optim__name="adamww")
    assert isinstance(refusal(distill, unknown, overwrite=True, quiet=True), ConfigError)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in SAME} == files
    distill(world.config(tmp_path / "run", train__epochs=1, train__seed=3), overwrite=True, quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() != files["metrics.jsonl"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", method__variant="lf")
    accelerator = Accelerator()
    trainer = Trainer(assemble(config, accelerator.device), accelerator, RunFolder(tmp_path / "run"))
    batches = list(trainer.parts.training_batches(0, trainer.order.epoch(0)))
    trainer.train_step(batches[0])
    trainer.step = 1
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(batches[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Recorder(Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_start(self, steps: int) -> None:
        self.seen.append(("start", steps))

    def on_step(self, step: int, losses: Mapping[str, Tensor]) -> None:
        assert all(not loss.requires_grad for loss in losses.values())
        self.seen.append(("step", step))

    def on_epoch(self, epoch: int, record: Mapping[str, Any]) -> None:
        self.seen.append(("epoch", dict(record)))

    def on_end(self, result: Any) -> None:
        self.seen.append(("end", result))


def test_callbacks_see_every_moment_and_change_no_bit(
    world: World, plain: dict[str, bytes], tmp_path: Path
) -> None:
    recorder = Recorder()
    config = world.config(tmp_path / "run", train__epochs=2)
    done = richkd.distill(config, quiet=True, callbacks=[recorder])
    assert {name: (tmp_path / "run" / name).read_bytes() for name in SAME} == plain
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    expected: list[tuple[str, Any]] = [("start", STEPS * len(lines))]
    for epoch, line in enumerate(lines):
        expected += [("step", step + 1) for step in range(epoch * STEPS, (epoch + 1) * STEPS)]
        expected.append(("epoch", line))
    assert recorder.seen == [*expected, ("end", done)]
