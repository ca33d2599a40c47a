"""Blends of in-fold and out-of-fold answers, compared with a slow version in float64."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.data.augmentations import CropFlip
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.fill_cache import fill_caches, verify_caches
from richkd.teachers.base import Teacher
from richkd.teachers.cache.manifest import list_caches
from richkd.teachers.fold_blend import FoldBlend, InFold
from richkd.teachers.fold_record import RECORD
from richkd.teachers.folds import FoldTeachers
from richkd.training.run import distill
from tests.fixtures import SIZE, World, refusal

CPU = torch.device("cpu")
FOLDS = 3
VIEWS = CropFlip(SIZE, 2)
WEIGHTS = "student/model.safetensors"


@pytest.fixture(scope="module")
def without_full(repeated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same teachers without a record of the full teacher."""
    folder = tmp_path_factory.mktemp("without") / "folds"
    shutil.copytree(repeated, folder)
    (folder / RECORD).unlink()
    return folder


def settings(world: World, folds: Path, share: float | None, **changes: Any) -> dict[str, Any]:
    given = {"method__name": "kd", "train__seed": 3, "train__epochs": 2, "optim__lr": 0.02}
    return given | {"teachers__1__name": f"folds:{folds}", "teachers__1__fold_share": share} | changes


def opened(world: World, out: Path, folds: Path, share: float | None, **changes: Any) -> Parts:
    return assemble(world.config(out, **settings(world, folds, share, **changes)), CPU)


def logits_of(teacher: Teacher, parts: Parts, split: str = "train") -> Tensor:
    store = parts.stores.clean(split)
    index_N = torch.arange(len(store.split))
    (batch,) = store.batches([index_N])
    return teacher.outputs(batch, VIEWS.draw(0, 1, index_N)).logits_BC


def slow_blend(parts: Parts, folds: Path, share: float, full: Path | None) -> Tensor:
    """``share · out + (1 − share) · in`` in float64, one image and one network at a time."""
    from richkd.config.schema import ModelConfig
    from richkd.models.build import build_network
    from richkd.teachers.vision import VisionTeacher

    def network(folder: Path) -> Tensor:
        built = build_network(ModelConfig(name=f"local-dir:{folder}"), 3, role="teacher")
        return logits_of(VisionTeacher(built, CPU), parts).double()

    students = [folds / f"fold-{fold}" / "student" for fold in range(FOLDS)]
    alone = [network(student) for student in students]
    whole = network(full / "student") if full else None
    left_out = [
        json.loads((student / "config.json").read_text())["richkd"]["left_out"] for student in students
    ]
    rows = []
    for row, key in enumerate(parts.data.splits["train"].keys()):
        (outside,) = (alone[fold][row] for fold in range(FOLDS) if key in left_out[fold])
        seen = [alone[fold][row] for fold in range(FOLDS) if key not in left_out[fold]]
        assert len(seen) == FOLDS - 1
        inside = sum(seen) / len(seen) if whole is None else whole[row]
        rows.append(share * outside + (1 - share) * inside)
    return torch.stack(rows)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_blend_is_that_of_a_slow_version(
    world: World,
    full_run: Path,
    repeated: Path,
    without_full: Path,
    tmp_path: Path,
    share: float,
    recorded: bool,
) -> None:
    folds = repeated if recorded else without_full
    parts = opened(world, tmp_path, folds, share)
    (teacher,) = parts.teachers
    expected = slow_blend(parts, folds, share, full_run if recorded else None)
    # Outputs of teachers have the precision of float16.
    torch.testing.assert_close(logits_of(teacher, parts).double(), expected, atol=4e-3, rtol=1e-3)
    # The shares are far enough apart to be told from each other.
    other = slow_blend(parts, folds, share + 0.25, full_run if recorded else None)
    assert float((other - expected).abs().max()) > 0.02


def test_each_network_saw_all_images_but_those_of_its_fold(
    world: World, without_full: Path, tmp_path: Path
) -> None:
    parts = opened(world, tmp_path, without_full, 0.5)
    (teacher,) = parts.teachers
    assert isinstance(teacher, FoldBlend)
    assert isinstance(teacher.in_fold, InFold)
    assert isinstance(teacher.out_of_fold, FoldTeachers)
    fold_N = teacher.out_of_fold.folds["train"]
    expected_KN = torch.stack([fold_N != fold for fold in range(FOLDS)])
    assert torch.equal(teacher.in_fold.seen_KN, expected_KN)
    assert teacher.in_fold.seen_KN.sum(dim=0).tolist() == [FOLDS - 1] * len(fold_N)


def test_a_share_of_one_is_the_teacher_of_today(world: World, repeated: Path, tmp_path: Path) -> None:
    folders = [
        distill(world.config(tmp_path / str(share), **settings(world, repeated, share)), quiet=True).folder
        for share in (None, 1.0)
    ]
    assert isinstance(opened(world, tmp_path, repeated, 1.0).teachers[0], FoldTeachers)
    assert (folders[0] / WEIGHTS).read_bytes() == (folders[1] / WEIGHTS).read_bytes()
    assert "fold_share" not in (folders[0] / "config.yaml").read_text()


def test_a_share_of_zero_is_the_full_teacher(
    world: World, full_run: Path, repeated: Path, tmp_path: Path
) -> None:
    blended = distill(world.config(tmp_path / "zero", **settings(world, repeated, 0.0)), quiet=True)
    changes = settings(world, repeated, None, teachers__1__name=f"local-dir:{full_run / 'student'}")
    plain = distill(world.config(tmp_path / "plain", **changes), quiet=True)
    assert (blended.folder / WEIGHTS).read_bytes() == (plain.folder / WEIGHTS).read_bytes()
    half = distill(world.config(tmp_path / "half", **settings(world, repeated, 0.5)), quiet=True)
    assert (half.folder / WEIGHTS).read_bytes() != (plain.folder / WEIGHTS).read_bytes()


def test_held_out_and_unlabeled_images_have_the_out_of_fold_answer(
    world: World, repeated: Path, tmp_path: Path
) -> None:
    for number in range(5):
        (tmp_path / "more").mkdir(exist_ok=True)
        Image.new("RGB", (SIZE, SIZE), (50 * number, 90, 20)).save(tmp_path / "more" / f"{number}.png")
    changes = {"data__unlabeled": str(tmp_path / "more")}
    parts = opened(world, tmp_path, repeated, 0.0, **changes)
    today = opened(world, tmp_path, repeated, None, **changes)
    labeled_N = parts.data.splits["train"].labels_N >= 0
    assert int((~labeled_N).sum()) == 5
    blended, pure = logits_of(parts.teachers[0], parts), logits_of(today.teachers[0], today)
    torch.testing.assert_close(blended[~labeled_N], pure[~labeled_N], atol=2e-3, rtol=0)
    assert float((blended - pure)[labeled_N].abs().amax(dim=1).min()) > 0
    for split in ("val", "test"):
        ours = logits_of(parts.teachers[0], parts, split)
        assert torch.equal(ours, logits_of(today.teachers[0], today, split))


def computed(
    world: World, out: Path, folds: Path, share: float | None, cache: Path | None
) -> tuple[int, bytes]:
    """Images that went through networks of the teacher, and the weights of the student."""
    changes = settings(world, folds, share, cache__dir=cache)
    run = distill(world.config(out, **changes), quiet=True)
    (count,) = run.summary["images_through_teachers"].values()
    return count, (run.folder / WEIGHTS).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("recorded", [True, False])
def test_every_output_is_computed_once_for_all_shares(
    world: World, repeated: Path, without_full: Path, tmp_path: Path, recorded: bool
) -> None:
    folds, cache = repeated if recorded else without_full, tmp_path / "cache"
    first, weights = computed(world, tmp_path / "a", folds, 0.5, cache)
    assert first > 0
    assert computed(world, tmp_path / "b", folds, 0.5, cache) == (0, weights)
    assert computed(world, tmp_path / "online", folds, 0.5, None)[1] == weights
    folders = {folder.name for folder in list_caches(cache)}
    for share in (0.2, 0.0, 1.0, None):
        count, others = computed(world, tmp_path / f"share-{share}", folds, share, cache)
        assert (count, others == weights) == (0, False)
    # Train of both members; val and test of one of them.
    assert {folder.name for folder in list_caches(cache)} == folders
    assert len(folders) == 4


def test_only_the_images_that_need_an_answer_get_it(world: World, repeated: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fill_caches(
        world.config(tmp_path / "run", **settings(world, repeated, 0.0, cache__dir=cache)), quiet=True
    )
    filled = {folder.name for folder in list_caches(cache) if any(folder.glob("*.safetensors"))}
    assert any("-train-" in name and "out-of-fold" not in name for name in filled)
    assert not any("-train-" in name for name in filled if "out-of-fold" in name)
    config = world.config(tmp_path / "half", **settings(world, repeated, 0.5, cache__dir=cache))
    fill_caches(config, quiet=True)
    assert computed(world, tmp_path / "run", repeated, 0.5, cache)[0] == 0
    verified = verify_caches(config, quiet=True)
    assert sum("-train" in result.cache.manifest.name for result in verified) == 2
    assert all(result.largest < 1e-2 for result in verified)


def test_the_full_teacher_alone_and_in_a_blend_share_their_cache(
    world: World, full_run: Path, repeated: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    computed(world, tmp_path / "blend", repeated, 0.0, cache)
    name = f"local-dir:{full_run / 'student'}"
    changes = settings(world, repeated, None, teachers__1__name=name, cache__dir=cache)
    parts = assemble(world.config(tmp_path / "plain", **changes), CPU)
    groups = parts.order().epoch(1)
    assert not any(
        parts.teachers[0].lacks("train", index_B, parts.augmentation.draw(3, 1, index_B))
        for index_B in groups
    )


def test_a_full_teacher_of_another_size_gets_its_own_crops(
    world: World, full_run: Path, repeated: Path, tmp_path: Path
) -> None:
    from richkd.config.teacher_run import recipe_of
    from richkd.training.run import teach_folds

    small = recipe_of(full_run, {"out": str(tmp_path / "small"), "student.size": 8, "train.epochs": 1})
    teach_folds(small, 2, full=full_run, quiet=True)
    changes = {"augment__policy": "random-resized-crop", "augment__num_views": 2, "student__size": 12}
    for share in (0.0, 0.5):
        out = tmp_path / f"run-{share}"
        count, _ = computed_with(world, out, tmp_path / "small", share, changes)
        assert count > 0


def computed_with(
    world: World, out: Path, folds: Path, share: float, changes: dict[str, Any]
) -> tuple[int, bytes]:
    run = distill(world.config(out, **settings(world, folds, share, **changes)), quiet=True)
    (count,) = run.summary["images_through_teachers"].values()
    return count, (run.folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize("share", [None, 0.5, 0.0])
@pytest.mark.parametrize("method", ["contrastive", "embed", "rkd", "pkt"])
def test_terms_on_features_are_refused(
    world: World, repeated: Path, tmp_path: Path, share: float | None, method: str
) -> None:
    error = refusal(opened, world, tmp_path, repeated, share, method__name=method)
    assert isinstance(error, ConfigError)
    assert "feature space of its own" in error.rule


@pytest.mark.parametrize("method", ["at", "fitnet"])
def test_terms_on_maps_are_refused(world: World, repeated: Path, tmp_path: Path, method: str) -> None:
    assert "only outputs" in str(refusal(opened, world, tmp_path, repeated, 0.5, method__name=method).got)


def test_features_of_a_clip_can_be_read_beside_them(world: World, repeated: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "objective": [
            {"ce": {}},
            {"kd": {"target": "teacher"}},
            {"contrastive": {"target": "clip", "num_negatives": 32, "embed_dim": 8}},
        ],
        "clip__name": f"outputs:{world.clip}",
        "method__name": None,
        "train__teacher_precision": "fp32",
    }
    plain, scaled = (
        distill(
            world.config(
                tmp_path / features, **settings(world, repeated, 0.5, **changes, fusion__features=features)
            ),
            quiet=True,
        )
        for features in ("raw", "standardized")
    )
    assert plain.summary["epochs"] == 2
    assert (plain.folder / WEIGHTS).read_bytes() != (scaled.folder / WEIGHTS).read_bytes()
    whole = changes | {"objective": [*changes["objective"][:1], {"embed": {"target": "fused"}}]}
    assert "feature space" in refusal(opened, world, tmp_path, repeated, 0.5, **whole).rule
