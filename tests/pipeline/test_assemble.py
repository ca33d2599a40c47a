"""Parts that do not fit each other are refused by name, before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.config.schema import ModelConfig
from richkd.core.errors import ClassError, ClipError, ConfigError, DataError, ModelError, RichKDError
from richkd.data.sources import open_data
from richkd.export.student import save_student
from richkd.fusion.alone import measure_target_shift
from richkd.models.build import build_network
from richkd.models.speed import Speed, SpeedChooser
from richkd.pipeline.assemble import Parts, assemble, build_student
from richkd.pipeline.signal import training_outputs
from richkd.teachers.predict import outputs_of
from tests.fixtures import CLASSES, SIZE, World, make_clip, make_teacher, refusal

CPU = torch.device("cpu")


def refused(world: World, **changes: Any) -> RichKDError:
    return refusal(assemble, world.config(Path("unused"), **changes), CPU)


def test_parts_fit_and_are_announced(world: World) -> None:
    outputs: list[str] = []
    parts = assemble(world.config(Path("unused")), CPU, outputs.append)
    assert parts.data.class_names == CLASSES
    assert {name: len(split) for name, split in parts.data.splits.items()} == {
        "train": 36,
        "val": 12,
        "test": 12,
    }
    assert {parts.stores.clean(name).size for name in parts.stores.names} == {SIZE}
    assert [teacher.logit_scale for teacher in parts.teachers] == [1.0, 100.0]
    assert parts.fusion is not None
    assert len(parts.fusion.scales) == 2
    assert "36 train, 12 val, 12 test" in outputs[0]
    assert any("CLIP outputs" in line for line in outputs[1:])
    assert "selected on 12 images of val" in outputs[-1]


def test_networks_of_fixed_resolution_are_announced(world: World, tmp_path: Path) -> None:
    vit = ModelConfig(name="test_vit", size=32, args={"depth": 1})
    save_student(tmp_path / "teacher", build_network(vit, 3, role="student"), CLASSES, 1.0, {})
    changes = {
        "student__name": "test_vit",
        "student__args": "{depth: 2}",
        "teachers__1__name": f"local-dir:{tmp_path / 'teacher'}",
        "teachers__1__size": 48,
        "method__name": "kd",
    }
    lines: list[str] = []
    parts = assemble(world.config(tmp_path / "run", **changes), CPU, lines.append)
    assert len(parts.student.model.blocks) == 2  # type: ignore[arg-type]
    assert f"student: test_vit is built for {SIZE} px (img_size) instead of its own 160 px" in lines
    name = parts.teachers[0].name
    assert f"teacher: {name} is built for 48 px (img_size) instead of its own 32 px" in lines
    assert parts.teachers[0].ingredients()["arguments"] == {"depth": 1}


def test_a_student_depends_on_its_seed_alone(world: World) -> None:
    config = world.config(Path("unused"))
    data = open_data(config.data, 0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = build_student(config, data).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    b = build_student(config, data).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    c = build_student(world.config(Path("unused"), train__seed=1), data).state_dict()
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_a_method_asks_for_the_teachers_it_lacks(world: World) -> None:
    error = refused(world, teachers__1__name=None)
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


def test_an_augmentation_that_timm_does_not_know_is_refused_before_data_are_opened(world: World) -> None:
    changes = {"augment__policy": "random-resized-crop", "augment__auto_augment": "rand-z9"}
    error = refused(world, data__path="no/such/folder", **changes)
    assert isinstance(error, ConfigError)
    assert error.got == "'rand-z9': Unknown RandAugment config section"


def test_a_teacher_with_another_number_of_classes(world: World, tmp_path: Path) -> None:
    make_teacher(tmp_path / "four", (*CLASSES, "dog"))
    error = refused(world, teachers__1__name=f"local-dir:{tmp_path / 'four'}")
    assert isinstance(error, ModelError)
    assert error.got == "4 outputs for 3 classes"
    weights = tmp_path / "four" / "model.safetensors"
    error = refused(world, teachers__1__name="cifar_resnet8", teachers__1__weights=str(weights))
    assert isinstance(error, ModelError)
    assert str(weights) in error.rule
    assert "4 outputs" in str(error.got)


def test_a_wrong_teacher_is_refused_before_the_speed_of_the_student_is_measured(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    choose = SpeedChooser.choose

    def watched(self: SpeedChooser, name: str, *arguments: Any, **options: Any) -> Speed:
        measured.append(name)
        return choose(self, name, *arguments, **options)

    monkeypatch.setattr(SpeedChooser, "choose", watched)
    config = world.config(tmp_path / "run", method__name="kd")
    assemble(config, torch.device("cpu"))
    assert measured[-1] == "student"
    measured.clear()
    wrong = world.config(tmp_path / "run", method__name="kd", **{"teachers.1.name": "local-dir:nowhere"})
    refusal(assemble, wrong, torch.device("cpu"))
    assert "student" not in measured


def test_a_teacher_with_another_order_of_classes(world: World, tmp_path: Path) -> None:
    make_teacher(tmp_path / "turned", ("ant", "cow", "bee"))
    error = refused(world, teachers__1__name=f"local-dir:{tmp_path / 'turned'}")
    assert isinstance(error, ClassError)
    assert "must be in the order of the training data" in error.rule
    assert str(tmp_path / "turned") in error.rule
    assert "class 1: 'cow' where 'bee' was expected" in str(error.got)


def test_given_clip_outputs_that_lack_images(world: World, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.npz", world.images, leave_out=2)
    error = refused(world, clip__name=f"outputs:{tmp_path / 'clip.npz'}")
    assert isinstance(error, ClipError)
    assert "split 'test'" in error.rule
    assert "2 of 12 images without a row: test/ant/0.png, test/ant/1.png" in str(error.got)


def test_fusion_without_held_out_images(world: World) -> None:
    error = refused(world, data__val_fraction=0)
    assert isinstance(error, DataError)
    assert "held-out" in error.rule
    assert "--fusion.preset paper" in str(error.fix)
    parts = assemble(world.config(Path("unused"), data__val_fraction=0, fusion__preset="paper"), CPU)
    assert parts.fusion is not None
    assert parts.fusion.multipliers == pytest.approx((0.7, 30.0))


def test_clip_alone_is_the_only_teacher(world: World) -> None:
    config = world.config(
        Path("unused"), method__name="kd", objective__kd__target="clip", teachers__1__name=None
    )
    parts = assemble(config, CPU)
    assert [teacher.name for teacher in parts.teachers] == ["CLIP outputs"]
    assert parts.fusion is not None
    assert parts.fusion.feature_weights == (1.0,)


def test_a_single_teacher_is_taken_as_it_is(world: World) -> None:
    parts = assemble(world.config(Path("unused"), method__name="kd", clip__name=None), CPU)
    assert parts.fusion is not None
    assert parts.fusion.multipliers == (1.0,)
    parts = assemble(world.config(Path("unused"), method__name="ce"), CPU)
    assert parts.teachers == ()
    assert parts.fusion is None


def several(world: World, tmp_path: Path, **changes: Any) -> Parts:
    """Three vision teachers: the world's, another one, and the world's again."""
    make_teacher(tmp_path / "other", seed=6)
    more = {
        "teachers__2__name": f"local-dir:{tmp_path / 'other'}",
        "teachers__3__name": f"local-dir:{world.teacher}",
    }
    config = world.config(tmp_path / "run", **more, **changes)
    return assemble(config, CPU)


def test_several_teachers_are_fused_in_their_order_and_have_names_of_their_own(
    world: World, tmp_path: Path
) -> None:
    parts = several(world, tmp_path, fusion__preset="paper", fusion__alpha=0.6)
    *vision, clip = parts.teachers
    assert len(vision) == 3
    assert len({teacher.name for teacher in parts.teachers}) == 4
    assert parts.fusion is not None
    assert parts.fusion.multipliers == pytest.approx((0.2, 0.2, 0.2, 0.4 * clip.logit_scale))
    # The weight of features is the paper's.
    assert parts.fusion.feature_weights == pytest.approx((0.7 / 3,) * 3 + (0.3,))


def test_several_teachers_without_a_clip_share_alike_or_as_held_out_images_say(
    world: World, tmp_path: Path
) -> None:
    kd = {"method__name": "kd", "clip__name": None}
    equal = several(world, tmp_path, fusion__scale="raw", fusion__mixing="alpha", **kd).fusion
    assert equal is not None
    assert equal.multipliers == pytest.approx((1 / 3,) * 3)
    fitted = several(world, tmp_path, fusion__mixing="log-pool", **kd).fusion
    assert fitted is not None
    assert "fitted on 12 images of val" in fitted.origin
    error = refusal(several, world, tmp_path, data__val_fraction=0, **kd)
    assert all(way in str(error.fix) for way in ("--data.calibration", "--data.test_calibration_fraction"))


def test_the_control_of_several_teachers_is_all_of_them_without_clip(world: World, tmp_path: Path) -> None:
    parts = several(world, tmp_path, fusion__preset="paper", fusion__control="teacher-only")
    assert len(parts.teachers) == 3
    assert parts.fusion is not None
    weights = parts.fusion.multipliers or ()
    assert len(set(weights)) == 1


def test_the_control_of_several_teachers_without_a_clip_is_the_first(world: World, tmp_path: Path) -> None:
    kd = {"method__name": "kd", "clip__name": None, "fusion__mixing": "log-pool"}
    fused = several(world, tmp_path, **kd)
    parts = several(world, tmp_path, fusion__control="teacher-only", **kd)
    assert [teacher.name for teacher in parts.teachers] == [fused.teachers[0].name]
    assert fused.main_source is not None
    views, _ = training_outputs(fused.main_source, fused.stores, fused.augmentation, fused.order(), CPU)
    logits = [output.logits_BC for output in views]
    assert fused.fusion is not None
    assert parts.fusion is not None
    result = measure_target_shift(fused.fusion.logits(logits), logits[0], parts.temperature)
    assert parts.fusion.multipliers == pytest.approx((result.multiplier,), rel=1e-6)
    error = refusal(several, world, tmp_path, fusion__control="text-only", **kd)
    assert "Control 'text-only' needs a fusion of a vision teacher with CLIP" in str(error)


@pytest.mark.parametrize("scale", ["standardized", "phi-s"])
def test_features_of_training_images_are_on_one_scale(world: World, tmp_path: Path, scale: str) -> None:
    parts = several(world, tmp_path, fusion__features=scale, fusion__preset="paper")
    store = parts.stores.clean("train")
    outputs = [outputs_of(teacher, store, CPU) for teacher in parts.teachers]
    assert parts.fusion is not None
    for teacher in parts.fusion(outputs, store.split.labels_N).teachers:
        alive_F = teacher.feats_BF.std(0) > 1e-6
        assert torch.allclose(teacher.feats_BF.mean(0), torch.zeros(teacher.feats_BF.shape[1]), atol=1e-4)
        assert torch.allclose(
            teacher.feats_BF.var(0, correction=0)[alive_F], torch.ones(int(alive_F.sum())), rtol=1e-3
        )
