"""Out-of-fold teachers: the assignment of images to teachers, and the images that each must leave out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch

from richkd.config.schema import DataConfig, ModelConfig
from richkd.core.checksums import SUMS
from richkd.core.errors import ClassError, ConfigError, ModelError
from richkd.data.augmentations import CropFlip
from richkd.data.sources import open_data
from richkd.data.split import Split, folds_of
from richkd.models.build import build_network
from richkd.pipeline.assemble import assemble
from richkd.teachers.fold_blend import InFold
from richkd.teachers.folds import FoldTeachers
from richkd.teachers.vision import VisionTeacher
from richkd.training.run import distill, teach_folds
from tests.fixtures import SIZE, World, refusal

CPU = torch.device("cpu")
FOLDS = 3


@pytest.fixture(scope="module")
def taught(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folds") / "teachers"
    config = world.config(out, method__name="ce", train__epochs=1)
    teach_folds(config, FOLDS, quiet=True)
    return out


def test_each_fold_is_left_out_once_and_by_its_teacher(world: World, taught: Path) -> None:
    whole = open_data(DataConfig(path=str(world.images), val_fraction=0.25), 0).splits
    fold_N = folds_of(whole["train"].labels_N, FOLDS)
    keys = whole["train"].keys()
    for fold in range(FOLDS):
        saved = json.loads((taught / f"fold-{fold}" / "student" / "config.json").read_text())
        left_out = saved["richkd"]["left_out"]
        assert left_out == [key for key, f in zip(keys, fold_N.tolist(), strict=True) if f == fold]
        figures = json.loads((taught / f"fold-{fold}" / "summary.json").read_text())
        assert figures["splits"]["left-out"]["n"] == len(left_out) == 12
        # Nothing else is held out differently.
        assert figures["splits"]["val"]["n"] == len(whole["val"])


def test_every_output_is_of_the_assigned_teacher(world: World, taught: Path, tmp_path: Path) -> None:
    parts = assemble(
        world.config(tmp_path / "run", teachers__1__name=f"folds:{taught}", method__variant="l"), CPU
    )
    teacher = parts.teachers[0]
    assert isinstance(teacher, FoldTeachers)
    augmentation = CropFlip(SIZE, 2)
    for name in parts.stores.names:
        store = parts.stores.clean(name)
        index_N = torch.arange(len(store.split)).flip(0)
        (batch,) = store.batches([index_N])
        views = augmentation.draw(0, 1, index_N)
        result = teacher.outputs(batch, views)
        alone = [one.outputs(batch, views).logits_BC for one in teacher.teachers]
        fold_N = folds_of(store.split.labels_N, FOLDS) if name == "train" else torch.arange(1000) % FOLDS
        for row, place in enumerate(index_N.tolist()):
            assert torch.allclose(result.logits_BC[row], alone[int(fold_N[place])][row], atol=2e-3)
    assert teacher.feature_width == 0


def test_stored_outputs_depend_on_which_teacher_answers_for_which_image() -> None:
    networks = [build_network(ModelConfig(name="cifar_resnet8", size=8), 2, role="teacher") for _ in range(2)]
    teachers = [VisionTeacher(network, CPU) for network in networks]
    labels_N = torch.tensor([0, 1, 0])
    train = Split("train", datasets.Dataset.from_dict({}), labels_N, ("ant", "bee"), "image", None)
    keys = train.keys()

    def made(*fold: int) -> tuple[FoldTeachers, InFold]:
        left_out = [[key for key, k in zip(keys, fold, strict=True) if k == number] for number in range(2)]
        folds = FoldTeachers(teachers, {"train": torch.tensor(fold)}, left_out)
        return folds, InFold(folds, train)

    for one, same, other in zip(made(0, 1, 1), made(0, 1, 1), made(0, 1, 0), strict=True):
        assert one.ingredients() == same.ingredients() != other.ingredients()
        assert one.ingredients(trained=False)["teachers"] == [t.ingredients(trained=False) for t in teachers]


def test_a_student_learns_from_them_and_a_cache_holds_them(
    world: World, taught: Path, tmp_path: Path
) -> None:
    runs = []
    for number in range(2):
        config = world.config(
            tmp_path / f"run-{number}",
            teachers__1__name=f"folds:{taught}",
            method__variant="l",
            cache__dir=str(tmp_path / "cache"),
            train__epochs=1,
        )
        runs.append(distill(config, quiet=True).summary)
    (name,) = (name for name in runs[0]["images_through_teachers"] if "out of fold" in name)
    assert [run["images_through_teachers"][name] > 0 for run in runs] == [True, False]
    assert runs[0]["splits"] == runs[1]["splits"]


def test_finished_folds_are_skipped(world: World, taught: Path) -> None:
    config = world.config(taught, method__name="ce", train__epochs=1)
    before = [(taught / f"fold-{fold}" / "metrics.jsonl").stat().st_mtime_ns for fold in range(FOLDS)]
    assert len(teach_folds(config, FOLDS, resume=True, quiet=True)) == FOLDS
    after = [(taught / f"fold-{fold}" / "metrics.jsonl").stat().st_mtime_ns for fold in range(FOLDS)]
    assert before == after
    assert "two folds" in str(refusal(teach_folds, config, 1))


def test_what_does_not_fit_is_refused(world: World, taught: Path, tmp_path: Path) -> None:
    def error(**changes: object) -> str:
        config = world.config(tmp_path / "run", **({"teachers__1__name": f"folds:{taught}"} | changes))
        result = refusal(assemble, config, CPU)
        assert isinstance(result, (ConfigError, ModelError))
        return str(result)

    assert "features cannot be compared" in error()
    assert "at least two teachers" in error(teachers__1__name=f"folds:{tmp_path}", method__variant="l")
    # Another seed holds other images out, so that some were never left out.
    assert "trained without" in error(method__variant="l", train__seed=9)


def test_teachers_with_another_class_order_are_refused(world: World, taught: Path, tmp_path: Path) -> None:
    swapped = tmp_path / "swapped"
    shutil.copytree(taught, swapped)
    file = swapped / "fold-1" / "student" / "config.json"
    saved = json.loads(file.read_text())
    saved["label_names"] = saved["label_names"][::-1]
    file.write_text(json.dumps(saved))
    (file.parent / SUMS).unlink()  # accepts the change
    config = world.config(tmp_path / "run", teachers__1__name=f"folds:{swapped}", method__variant="l")
    error = refusal(assemble, config, CPU)
    assert isinstance(error, ClassError)
    assert "fold-1" in error.rule
