"""Parts that do not fit each other are refused by name, before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.assemble import assemble, autocast_dtype, build_student, open_splits
from richkd.errors import ClassError, ClipError, ConfigError, DataError, ModelError, RichKDError
from tests.fixtures import CLASSES, SIZE, World, make_clip, make_teacher, refusal

CPU = torch.device("cpu")


def refused(world: World, **changes: Any) -> RichKDError:
    return refusal(assemble, world.config(Path("unused"), **changes), CPU)


def test_parts_fit_and_are_announced(world: World) -> None:
    said: list[str] = []
    parts = assemble(world.config(Path("unused")), CPU, said.append)
    assert parts.data.class_names == CLASSES
    assert {name: len(split) for name, split in parts.data.splits.items()} == {
        "train": 36,
        "val": 12,
        "test": 12,
    }
    assert {store.size for store in parts.stores.values()} == {SIZE}
    assert [teacher.logit_scale for teacher in parts.teachers] == [1.0, 100.0]
    assert parts.fusion is not None
    assert len(parts.fusion.scales) == 2
    assert "36 train, 12 val, 12 test" in said[0]
    assert any("CLIP outputs" in line for line in said[1:])
    assert "chosen on 12 images of val" in said[-1]


def test_a_student_depends_on_its_seed_alone(world: World) -> None:
    config = world.config(Path("unused"))
    data = open_splits(config.data, 0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = build_student(config, data).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    b = build_student(config, data).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    c = build_student(world.config(Path("unused"), train__seed=1), data).state_dict()
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_a_method_asks_for_the_experts_it_lacks(world: World) -> None:
    error = refused(world, teacher__name=None)
    assert isinstance(error, ConfigError)
    assert "needs a vision teacher" in error.rule
    assert "--teacher" in str(error.fix)
    error = refused(world, clip__name=None)
    assert isinstance(error, ConfigError)
    assert "needs a CLIP" in error.rule
    assert "--clip" in str(error.fix)
    error = refused(world, method__name="richkdd")
    assert isinstance(error, ConfigError)
    assert "'richkd'" in str(error.fix)


def test_a_teacher_with_another_number_of_classes(world: World, tmp_path: Path) -> None:
    make_teacher(tmp_path / "four", (*CLASSES, "dog"))
    error = refused(world, teacher__name=f"local-dir:{tmp_path / 'four'}")
    assert isinstance(error, ModelError)
    assert error.got == "4 outputs for 3 classes"
    weights = tmp_path / "four" / "model.safetensors"
    error = refused(world, teacher__name="cifar_resnet8", teacher__weights=str(weights))
    assert isinstance(error, ModelError)
    assert str(weights) in error.rule
    assert "4 outputs" in str(error.got)


def test_a_teacher_with_another_order_of_classes(world: World, tmp_path: Path) -> None:
    make_teacher(tmp_path / "turned", ("ant", "cow", "bee"))
    error = refused(world, teacher__name=f"local-dir:{tmp_path / 'turned'}")
    assert isinstance(error, ClassError)
    assert "must be in the order of the training data" in error.rule
    assert str(tmp_path / "turned") in error.rule
    assert "class 1: 'cow' where 'bee' was expected" in str(error.got)


def test_given_clip_outputs_that_lack_images(world: World, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.npz", world.images, leave_out=2)
    error = refused(world, clip__name=f"outputs:{tmp_path / 'clip.npz'}")
    assert isinstance(error, ClipError)
    assert "split 'test'" in error.rule
    assert "2 of 12 images without one: test/ant/0.png, test/ant/1.png" in str(error.got)


def test_fusion_without_held_out_images(world: World) -> None:
    error = refused(world, data__val_fraction=0)
    assert isinstance(error, DataError)
    assert "held-out" in error.rule
    assert "--fusion.preset paper" in str(error.fix)
    parts = assemble(world.config(Path("unused"), data__val_fraction=0, fusion__preset="paper"), CPU)
    assert parts.fusion is not None
    assert parts.fusion.multipliers == pytest.approx((0.7, 30.0))


def test_clip_alone_is_the_only_expert(world: World) -> None:
    parts = assemble(world.config(Path("unused"), teacher__name=None, fusion__alpha=0, fusion__lam=0), CPU)
    assert [teacher.name for teacher in parts.teachers] == ["CLIP outputs"]
    assert parts.fusion is not None
    assert parts.fusion.feature_weights == (1.0,)


def test_a_single_teacher_is_taken_as_it_is(world: World) -> None:
    parts = assemble(world.config(Path("unused"), method__name="kd", clip__name=None), CPU)
    assert parts.fusion is not None
    assert parts.fusion.multipliers == (1.0,)
    parts = assemble(
        world.config(Path("unused"), method__name="ce", teacher__name=None, clip__name=None), CPU
    )
    assert parts.teachers == ()
    assert parts.fusion is None


def test_precision() -> None:
    assert autocast_dtype("fp32", CPU) is None
    assert autocast_dtype("bf16", CPU) is torch.bfloat16
    assert autocast_dtype("auto", CPU) in (None, torch.bfloat16)
