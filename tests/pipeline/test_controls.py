"""Controls: each keeps all of a fused run but what it says it replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.core.errors import ConfigError
from richkd.core.types import UNLABELED, Batch, Output, Target
from richkd.data.augmentations import Clean, CropFlip
from richkd.data.views import Views
from richkd.fusion.alone import measure_target_shift
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.signal import Sample, mean_shift, shifts_of, training_outputs
from richkd.teachers.base import Teacher
from richkd.teachers.controls import Shuffled, TextOnly, permutation
from richkd.teachers.predict import outputs_of
from richkd.training.run import distill
from tests.fixtures import World, refusal

CPU = torch.device("cpu")


def parts_of(world: World, control: str | None, **changes: Any) -> Parts:
    config = world.config(Path("unused"), fusion__preset="paper", fusion__control=control, **changes)
    return assemble(config, CPU)


def outputs(parts: Parts, split: str) -> tuple[list[Output], Target]:
    outputs = [
        outputs_of(teacher, parts.stores.clean(split, teacher.framing), CPU) for teacher in parts.teachers
    ]
    assert parts.fusion is not None
    return outputs, parts.fusion(outputs, parts.data.splits[split].labels_N)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 99), st.booleans())
def test_shuffles_are_permutations_of_all_or_of_each_class(
    labels: list[int], seed: int, within: bool
) -> None:
    labels_N = torch.tensor(labels)
    other_N = permutation(labels_N, seed, within_class=within)
    assert sorted(other_N.tolist()) == list(range(len(labels)))
    assert torch.equal(other_N, permutation(labels_N, seed, within_class=within))
    if within:
        assert torch.equal(labels_N[other_N], labels_N)
    # Only an image that is alone keeps its own output.
    kept = [i for i, other in enumerate(other_N.tolist()) if other == i]
    assert kept == [
        i for i, label in enumerate(labels) if (labels.count(label) if within else len(labels)) == 1
    ]


def test_shuffles_are_random() -> None:
    labels_N = torch.arange(1000) % 2
    for within in (False, True):
        other_N = permutation(labels_N, 0, within_class=within)
        assert not torch.equal(other_N, permutation(labels_N, 1, within_class=within))
    apart = (labels_N[permutation(labels_N, 0, within_class=False)] != labels_N).float().mean()
    assert 0.4 < apart < 0.6


@pytest.mark.parametrize("control", ["shuffled", "shuffled-in-class"])
def test_a_shuffled_clip_answers_for_another_training_image(world: World, control: str) -> None:
    (teacher, clip), _ = outputs(parts_of(world, None), "train")
    parts = parts_of(world, control)
    (same_teacher, shuffled), _ = outputs(parts, "train")
    assert torch.equal(same_teacher.logits_BC, teacher.logits_BC)
    labels_N = parts.data.splits["train"].labels_N
    other_N = permutation(labels_N, parts.config.train.seed, within_class=control == "shuffled-in-class")
    torch.testing.assert_close(shuffled.logits_BC, clip.logits_BC[other_N])
    torch.testing.assert_close(shuffled.feats_BF, clip.feats_BF[other_N])
    # What fusion is fitted and judged on is untouched.
    for split in ("val", "test"):
        assert torch.equal(
            outputs(parts, split)[0][1].logits_BC, outputs(parts_of(world, None), split)[0][1].logits_BC
        )


class Recorder(Teacher):
    """Remembers what it was asked for, and answers with the positions of the images."""

    name, feature_width = "told", 0

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        self.batch, self.views = batch, views
        return Output(batch.index_B[:, None].float(), torch.zeros(len(batch), 0))


def test_another_image_is_shown_in_the_view_of_this_one_and_not_stored_under_its_number(world: World) -> None:
    stores = parts_of(world, None).stores
    shuffled = Shuffled(teacher := Recorder(), stores.training, seed=4, within_class=False)
    index_B = torch.tensor([3, 0, 8])
    (batch,) = stores.training.batches([index_B])
    # Views with numbers, which would be keys of a cache; with a free crop, they belong to an image.
    views = CropFlip(16, 2).draw(0, 5, index_B)
    output = shuffled.outputs(batch, views)
    other_B = permutation(stores.training.split.labels_N, 4, within_class=False)[index_B]
    assert output.logits_BC[:, 0].tolist() == other_B.tolist()
    assert torch.equal(teacher.batch.labels_B, batch.labels_B)
    (others,) = stores.training.batches([other_B])
    assert torch.equal(teacher.batch.pixels_BHWC, others.pixels_BHWC)
    assert teacher.views.box_B4 is not None
    assert torch.equal(teacher.views.box_B4, views.box_B4)
    assert torch.equal(teacher.views.flip_B, views.flip_B)
    assert (teacher.views.augmentation, teacher.views.number_B) == (None, None)


def test_text_alone_says_nothing_of_an_image_without_a_label(world: World) -> None:
    text_CD = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    teacher = TextOnly(Recorder(), text_CD, "train")
    labels_B = torch.tensor([1, UNLABELED])
    batch = Batch("train", torch.tensor([0, 1]), torch.zeros(2, 8, 8, 3), labels_B)
    output = teacher.outputs(batch, Clean(8).draw(0, 0, batch.index_B))
    assert output.logits_BC.tolist() == [pytest.approx([0.6, 1.0, 0.8]), [0.0, 0.0, 0.0]]
    assert output.feats_BF.tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]


def test_text_alone_answers_with_the_names_of_classes(world: World) -> None:
    parts = parts_of(world, "text-only")
    (_, text), _ = outputs(parts, "train")
    labels_N = parts.data.splits["train"].labels_N
    assert torch.equal(text.logits_BC.argmax(1), labels_N)
    for label in range(3):
        assert len(text.logits_BC[labels_N == label].unique(dim=0)) == 1
    assert (text.logits_BC.diagonal() <= 1 + 1e-6).all()


def test_the_teacher_alone_is_as_near_to_the_fusion_as_a_temperature_brings_it(world: World) -> None:
    raw, target = outputs(parts_of(world, None), "train")
    parts = parts_of(world, "teacher-only")
    assert len(parts.teachers) == 1
    assert parts.fusion is not None
    (multiplier,) = parts.fusion.multipliers or ()
    # Measured on the views of epoch 0, not on whole images.
    plain = parts_of(world, None)
    assert plain.main_source is not None
    views, labels_N = training_outputs(
        plain.main_source, plain.stores, plain.augmentation, plain.order(), CPU
    )
    assert plain.fusion is not None
    fused_NC = plain.fusion(views, labels_N).logits_BC
    result = measure_target_shift(fused_NC, views[0].logits_BC, parts.temperature)
    assert multiplier == pytest.approx(result.multiplier, rel=1e-6)
    assert multiplier != pytest.approx(
        measure_target_shift(target.logits_BC, raw[0].logits_BC, parts.temperature).multiplier, rel=1e-6
    )
    assert parts.fusion.feature_weights == (1.0,)


def test_clip_alone_keeps_its_scale_of_the_fusion(world: World) -> None:
    parts = parts_of(world, "clip-only")
    assert [teacher.name for teacher in parts.teachers] == ["CLIP outputs"]
    assert parts.fusion is not None
    assert parts.fusion.multipliers == (100.0,)


def test_the_summary_has_the_multiplier_of_the_control(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", fusion__preset="paper", train__epochs=1)
    summary = distill(config, quiet=True).summary
    fusion = parts_of(world, "teacher-only", train__epochs=1).fusion
    assert fusion is not None
    assert fusion.multipliers == pytest.approx((summary["control_multiplier"],), rel=1e-6)
    plain = parts_of(world, None)
    assert plain.main_source is not None
    sample = Sample(
        *training_outputs(plain.main_source, plain.stores, plain.augmentation, plain.order(), CPU)
    )
    nats = mean_shift(shifts_of(plain.main_source, sample, plain.temperature), sample)
    assert summary["target_shift_nats"] == pytest.approx(nats, rel=1e-4)


@pytest.mark.parametrize("control", ["teacher-only", "clip-only", "shuffled", "text-only"])
def test_a_control_is_a_run(world: World, tmp_path: Path, control: str) -> None:
    config = world.config(tmp_path / "run", fusion__control=control, train__epochs=1, method__variant="lf")
    assert distill(config, quiet=True).summary["splits"]["test"]["n"] == 12


def test_a_control_needs_a_fusion(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", method__name="kd", fusion__control="shuffled")
    error = refusal(distill, config, quiet=True)
    assert isinstance(error, ConfigError)
    assert "'fusion.control' has no effect in this run: there is only one teacher" in error.rule


def test_a_control_of_clip_needs_a_clip(world: World, tmp_path: Path) -> None:
    second = {"teachers__2__name": f"local-dir:{world.teacher}"}
    config = world.config(tmp_path / "run", method__name="kd", fusion__control="shuffled", **second)
    error = refusal(distill, config, quiet=True)
    assert isinstance(error, ConfigError)
    assert "Control 'shuffled' needs a fusion of a vision teacher with CLIP" in error.rule
    assert "--clip" in str(error.fix)


def test_a_control_with_another_target_of_clip_is_refused(world: World) -> None:
    changes = {"objective": {"kd-clip": {"term": "kd", "target": "clip"}}}
    error = refusal(parts_of, world, "shuffled", **changes)
    assert isinstance(error, ConfigError)
    assert error.got == "target clip"
