"""``richkd check``: the plan, and what it warns of."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from richkd.config.schema import Config
from richkd.core.errors import ConfigError, DataError, ImageError
from richkd.training.check import check_run
from richkd.training.run import distill
from tests.fixtures import STEPS, World, make_images, refusal


def report(config: Config) -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    check_run(config, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_plan(world: World, tmp_path: Path) -> None:
    text = report(world.config(tmp_path / "run"))
    for words in (
        "decoded every image of train: 36",
        "no image is in both train and val",
        "no image is in both train and test",
        ": accuracy ",
        "% on 36 training images",
        "dry step: ce ",
        "36 train, 12 val, 12 test",
        f"{STEPS} an epoch × 3 epochs = {3 * STEPS}",
        "cifar_resnet8",
        "width 12",
        "float32",
    ):
        assert words in text, words
    assert "nan" not in text.lower().replace("finance", "")
    assert not (tmp_path / "run").exists(), "check must not write"


def test_the_plan_is_the_same_with_a_cache(world: World, tmp_path: Path) -> None:
    def plan(**changes: Any) -> str:
        whole = report(world.config(tmp_path / "run", **changes)).rpartition("classes  ")[2]
        # Times are measured, and stored outputs need disk space.
        return whole.partition("speed  ")[0]

    assert plan(cache__dir=tmp_path / "cache") == plan()
    assert "teacher" in plan()


def test_duplicates_between_train_and_test_are_named(world: World, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    # Another file of the same pixels is a leak as well.
    Image.open(images / "train" / "bee" / "3.png").save(images / "test" / "cow" / "copy.bmp")
    config = world.config(
        tmp_path / "run",
        data__path=str(images),
        method__name="ce",
        data__val_fraction=0,
    )
    text = report(config)
    assert "warning: 1 images are in both train and test: train/bee/3.png = test/cow/copy.bmp" in text


def test_copies_of_one_picture_are_one_entry(world: World, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    for number in range(4):
        shutil.copy(images / "train" / "bee" / "3.png", images / "train" / "bee" / f"copy-{number}.png")
        shutil.copy(images / "train" / "bee" / "3.png", images / "test" / "bee" / f"copy-{number}.png")
    config = world.config(tmp_path / "run", data__path=str(images), method__name="ce", data__val_fraction=0)
    text = report(config)
    assert "warning: 4 images are in both train and test: 1 pictures: train/bee/3.png and 4 more = " in text
    assert text.count("copy-") <= 2


@pytest.mark.parametrize("in_memory_gb", [0, 1e-5, 4])
@pytest.mark.parametrize("method", ["ce", "kd"])
def test_unreadable_images_of_all_splits_are_reported_together(
    world: World, tmp_path: Path, in_memory_gb: float, method: str
) -> None:
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    shutil.copytree(world.images / "train", images / "val")
    for name in ("train/ant/0.png", "train/bee/1.png", "val/cow/2.png", "test/cow/0.png"):
        (images / name).write_bytes(b"no image")
    config = world.config(
        tmp_path / "run", data__path=str(images), data__in_memory_gb=in_memory_gb, method__name=method
    )
    error = refusal(report, config)
    assert isinstance(error, ImageError)
    for text in ("2 of 48 images", "1 of 48 images", "1 of 12 images"):
        assert text in str(error)
    for name in ("train/ant/0.png", "train/bee/1.png", "val/cow/2.png", "test/cow/0.png"):
        assert name in str(error)


def test_a_run_reports_unreadable_images_of_all_splits_that_it_keeps_in_memory(
    world: World, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    for name in ("train/ant/0.png", "test/cow/0.png"):
        (images / name).write_bytes(b"no image")
    for policy in ("crop-flip", "random-resized-crop"):
        changes = {"method__name": "ce", "data__val_fraction": 0, "augment__policy": policy}
        config = world.config(tmp_path / "run", data__path=str(images), **changes)
        error = refusal(distill, config, quiet=True)
        assert isinstance(error, ImageError)
        assert "train/ant/0.png" in str(error)
        assert "test/cow/0.png" in str(error)


def test_a_check_without_a_teacher_says_what_can_be_checked(world: World, tmp_path: Path) -> None:
    for method in (None, "richkd", "kd"):
        config = world.config(tmp_path / "run", method__name=method, teachers__1__name=None, clip__name=None)
        error = refusal(report, config)
        assert isinstance(error, ConfigError)
        assert "a check opens them" in error.rule
        assert error.got == "neither --teacher nor --clip"
        assert "check data and student alone: --method ce" in str(error.fix)
    assert "plan" in report(world.config(tmp_path / "run", method__name="ce"))


def test_streamed_images_are_decoded_too(world: World, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    (images / "test" / "cow" / "0.png").write_bytes(b"no image")
    changes: dict[str, Any] = {"method__name": "ce"}
    for in_memory_gb in (0, 4):
        config = world.config(
            tmp_path / "run", data__path=str(images), data__in_memory_gb=in_memory_gb, **changes
        )
        error = refusal(report, config)
        assert isinstance(error, DataError)
        assert "test/cow/0.png" in str(error)


def test_a_teacher_near_chance_is_suspected(world: World, tmp_path: Path) -> None:
    # The teacher has random weights.
    assert "near chance" in report(world.config(tmp_path / "run", method__name="kd"))


def test_a_teacher_of_few_classes_that_is_far_above_chance_is_not_suspected(
    world: World, tmp_path: Path
) -> None:
    # The stored outputs of CLIP are correct on most images, though on less than 3 × chance, which is 100 %.
    text = report(world.config(tmp_path / "run", method__name="kd", objective__kd__target="clip"))
    assert "CLIP outputs: accuracy " in text
    assert "near chance" not in text


def test_data_without_a_training_split(tmp_path: Path, world: World) -> None:
    make_images(tmp_path / "images")
    shutil.rmtree(tmp_path / "images" / "train")
    config = world.config(
        tmp_path / "run",
        data__path=str(tmp_path / "images"),
        method__name="ce",
    )
    error = refusal(report, config)
    assert isinstance(error, ConfigError | DataError)
    assert "train" in error.rule


def test_an_unknown_optimizer_is_found(world: World, tmp_path: Path) -> None:
    error = refusal(report, world.config(tmp_path / "run", optim__name="adamww"))
    assert isinstance(error, ConfigError)
    assert "Did you mean 'adamw'" in str(error.fix)
