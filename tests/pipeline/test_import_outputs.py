"""Outputs computed elsewhere, from a file to a run through the command line, and what is refused of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from richkd.cli import main
from richkd.core.errors import CacheError, ClassError, RichKDError
from richkd.pipeline.import_outputs import import_outputs
from richkd.teachers.cache.manifest import list_caches
from tests.data.formats.test_shards import samples, write_tar
from tests.fixtures import CLASSES, TEST, TRAIN, World, keys_of, make_outputs, refusal

KD: dict[str, Any] = {"method__name": "kd", "clip__name": None}
IMAGES = len(CLASSES) * (TRAIN + TEST)
TESTS = len(CLASSES) * TEST
Capture = pytest.CaptureFixture[str]


def ask(*words: object) -> int:
    """The status that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def refused(world: World, root: Path, **changes: Any) -> RichKDError:
    """The error that the import of changed outputs ends with; nothing must be stored."""
    settings = {name: changes.pop(name) for name in list(changes) if "__" in name}
    make_outputs(root / "big.npz", world.images, **changes)
    settings = KD | {"cache__dir": root / "cache"} | settings
    error = refusal(import_outputs, root / "big.npz", world.config(root / "run", **settings))
    assert not (root / "cache").exists()
    return error


def test_from_a_file_to_a_run(world: World, tmp_path: Path, capsys: Capture) -> None:
    make_outputs(tmp_path / "big.npz", world.images)
    cache, options = tmp_path / "cache", world.options(tmp_path / "run", **KD, teachers__1__name="cache:big")
    assert ask("cache", "import", tmp_path / "big.npz", "--teacher-cache", cache, *options) == 0
    shown = capsys.readouterr().out
    for split, images in (("train", 36), ("val", 12), ("test", 12)):
        assert f"{split}: {images} outputs stored, of {images} of {images} images, " in shown
    assert "warning" not in shown
    assert f"--teacher cache:big --teacher-cache {cache}" in shown

    assert ask("check", "--teacher-cache", cache, *options) == 0
    shown = capsys.readouterr().out
    assert "big: 60 outputs computed elsewhere, of whole images" in shown
    assert re.search(r"teacher big: accuracy \d+\.\d% on 36 imported views", shown)
    assert ask("distill", "--teacher-cache", cache, *options) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["images_through_teachers"] == {"big": 0}
    given = np.load(tmp_path / "big.npz")
    test = slice(0, TESTS)  # the first keys, by name
    labels = [CLASSES.index(key.split("/")[1]) for key in given["files"][test]]
    right = float((given["logits"][test].argmax(axis=1) == labels).mean())
    assert summary["teachers"]["test"]["big"]["top1"] == pytest.approx(right)
    assert ask("evaluate", tmp_path / "run", "--data", world.images, "--teachers") == 0
    assert "big" in capsys.readouterr().out

    assert ask("cache", "ls", cache) == 0
    shown = capsys.readouterr().out
    assert all(folder.name in shown for folder in list_caches(cache))
    assert ask("cache", "verify", cache) == 0
    assert ask("cache", "verify", cache, "-c", tmp_path / "run" / "config.yaml") == 0
    assert "no outputs were computed again" in capsys.readouterr().out
    assert ask("cache", "fill", "--teacher-cache", cache, *options) == 1
    assert "can be stored" in capsys.readouterr().err
    for folder in list_caches(cache):
        assert ask("cache", "rm", cache, folder.name) == 0
    assert list_caches(cache) == []


def test_images_without_labels_have_outputs_but_no_accuracy(
    world: World, tmp_path: Path, capsys: Capture
) -> None:
    make_outputs(tmp_path / "big.npz", world.images)
    few = KD | {"data__labels_per_class": 2, "data__unlabeled": "rest", "teachers__1__name": "cache:big"}
    options = world.options(tmp_path / "run", **few)
    assert ask("cache", "import", tmp_path / "big.npz", "--teacher-cache", tmp_path / "cache", *options) == 0
    shown = capsys.readouterr().out
    assert re.search(r"train: 36 outputs stored, of 36 of 36 images, accuracy \d+\.\d%", shown)
    # The check of a run reports stored outputs of both kinds of images, too.
    assert ask("check", "--teacher-cache", tmp_path / "cache", *options) == 0
    assert re.search(r"teacher big: accuracy \d+\.\d%", capsys.readouterr().out)


def test_ingredients_and_names(world: World, tmp_path: Path) -> None:
    numbers = np.zeros(IMAGES, dtype=np.uint8)
    numbers[[key.startswith("train/bee") for key in keys_of(world.images)]] = 1
    make_outputs(tmp_path / "my outputs.npz", world.images, views=numbers)
    free = {"augment__policy": "random-resized-crop", "augment__num_views": 2, "data__val_fraction": 0}
    config = world.config(tmp_path / "run", **free, cache__dir=tmp_path / "cache")
    caches = import_outputs(tmp_path / "my outputs.npz", config)
    expected = {"teacher", "imported outputs", "class names", "images", "views"}
    by_split = {cache.manifest.name: cache for cache in caches}
    assert by_split.keys() == {"my-outputs-train", "my-outputs-test"}
    train, test = (by_split[f"my-outputs-{split}"].manifest for split in ("train", "test"))
    assert set(train.ingredients) == expected | {"seed"}
    assert set(test.ingredients) == expected
    assert (train.ingredients["views"]["augmentation"], train.views) == ("RandomResizedCrop", 2)
    assert (test.ingredients["views"]["augmentation"], test.views) == ("Clean", 1)


def test_a_file_that_is_imported_twice_is_stored_once(world: World, tmp_path: Path) -> None:
    make_outputs(tmp_path / "big.npz", world.images)
    config = world.config(tmp_path / "run", cache__dir=tmp_path / "cache")
    import_outputs(tmp_path / "big.npz", config)
    before = sorted((tmp_path / "cache").rglob("*"))
    import_outputs(tmp_path / "big.npz", config)
    assert sorted((tmp_path / "cache").rglob("*")) == before


def test_safetensors_gives_the_same_as_npz(world: World, tmp_path: Path) -> None:
    arrays = make_outputs(tmp_path / "big.npz", world.images)
    texts = {name: json.dumps(arrays.pop(name).tolist()) for name in ("files", "classnames")}
    save_file(arrays, tmp_path / "big.safetensors", metadata=texts)
    folders = []
    for suffix in ("npz", "safetensors"):
        config = world.config(tmp_path / "run", cache__dir=tmp_path / suffix)
        caches = import_outputs(tmp_path / f"big.{suffix}", config)
        folders.append([cache.folder.name for cache in caches])
    assert folders[0] == folders[1]


def test_rows_of_other_images_are_passed_over(world: World, tmp_path: Path) -> None:
    given = make_outputs(tmp_path / "big.npz", world.images)
    # A row that nothing asks for may be of any kind.
    more = {"logits": np.vstack([given["logits"], np.full((2, 3), np.nan)])}
    more |= {"features": np.vstack([given["features"], given["features"][:2]])}
    make_outputs(tmp_path / "big.npz", world.images, **more, files=[*given["files"], "other", "other"])
    config = world.config(tmp_path / "run", cache__dir=tmp_path / "cache")
    assert sum(len(cache) for cache in import_outputs(tmp_path / "big.npz", config)) == IMAGES


@pytest.mark.parametrize("turn", [1, 2])
def test_classes_in_another_order_show_at_once(world: World, tmp_path: Path, turn: int) -> None:
    given = make_outputs(tmp_path / "big.npz", world.images)
    make_outputs(tmp_path / "big.npz", world.images, logits=np.roll(given["logits"], turn, axis=1))
    lines: list[str] = []
    config = world.config(tmp_path / "run", cache__dir=tmp_path / "cache")
    import_outputs(tmp_path / "big.npz", config, log=lines.append)
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert "about chance (33.3%) or below" in warning
    assert "another order" in warning


def test_a_name_stands_for_one_file(world: World, tmp_path: Path) -> None:
    make_outputs(tmp_path / "big.npz", world.images)
    config = world.config(tmp_path / "run", cache__dir=tmp_path / "cache")
    import_outputs(tmp_path / "big.npz", config)
    make_outputs(tmp_path / "big.npz", world.images, features=None)
    error = refusal(import_outputs, tmp_path / "big.npz", config)
    assert "outputs of one file" in error.rule
    assert "--name" in str(error.fix)
    import_outputs(tmp_path / "big.npz", config, name="bare")


def changed(array: np.ndarray[Any, Any], row: int, value: Any) -> np.ndarray[Any, Any]:
    array = array.copy()
    array[row] = value
    return array


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e5])
@pytest.mark.parametrize("name", ["logits", "features"])
def test_rows_that_are_not_finite_are_named(world: World, tmp_path: Path, name: str, value: float) -> None:
    array = make_outputs(tmp_path / "big.npz", world.images)[name].astype(np.float32)
    error = refused(world, tmp_path, **{name: changed(array, 3, value)})
    assert f"rows of '{name}' must be finite" in error.rule
    assert error.got == f"1 of {TESTS} rows in split 'test' are not: {keys_of(world.images)[3]}"


def test_probabilities_are_refused_and_their_logarithms_are_not(world: World, tmp_path: Path) -> None:
    logits_NC = make_outputs(tmp_path / "big.npz", world.images)["logits"].astype(np.float32)
    probs_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    for dtype in (np.float16, np.float64):
        error = refused(world, tmp_path, logits=probs_NC.astype(dtype))
        assert "logits or log-probabilities" in error.rule
        assert "probabilities" in str(error.got)
    make_outputs(tmp_path / "big.npz", world.images, logits=np.log(probs_NC))
    import_outputs(tmp_path / "big.npz", world.config(tmp_path / "run", cache__dir=tmp_path / "cache"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": None}, "must contain an array 'logits'"),
        ({"classnames": None}, "must contain an array 'classnames'"),
        ({"files": None}, "files, file, keys, key"),
        ({"logits": np.ones((IMAGES, 4))}, "one column for each of 'classnames'\nGot: 4 columns for 3"),
        ({"logits": np.ones((7, 3))}, "'logits' must have one row for each of 'files'\nGot: 7 rows for 60"),
        ({"logits": np.ones((IMAGES, 3), int)}, "matrix of floating-point numbers"),
        ({"features": np.ones((7, 3))}, "'features' must have one row for each of 'files'"),
        ({"features": np.ones(IMAGES)}, "matrix of floating-point numbers"),
        ({"views": np.zeros(7, int)}, "'views' must have one row for each of 'files'"),
        ({"views": np.zeros(IMAGES)}, "'views' must be a list of integers"),
        ({"files": np.array([f"no{i}" for i in range(IMAGES)])}, "like 'train/ant/"),
    ],
)
def test_files_that_are_refused(world: World, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    error = refused(world, tmp_path, **changes)
    assert isinstance(error, CacheError)
    assert message in str(error)


@pytest.mark.parametrize("names", [("bee", "ant", "cow"), ("ant", "bee", "dog")])
def test_other_classes_are_refused(world: World, tmp_path: Path, names: tuple[str, ...]) -> None:
    error = refused(world, tmp_path, classnames=np.array(names))
    assert isinstance(error, ClassError)
    assert "big.npz" in error.rule


def test_images_without_a_row_are_counted_and_named(world: World, tmp_path: Path) -> None:
    keys = np.array(keys_of(world.images))
    keys[:2] = "other"
    error = refused(world, tmp_path, files=keys)
    assert "split 'test'" in error.rule
    assert error.got == "2 of 12 images without a row: test/ant/0.png, test/ant/1.png"


def test_repeated_rows_are_named(world: World, tmp_path: Path) -> None:
    keys = np.array(keys_of(world.images))
    given = make_outputs(tmp_path / "big.npz", world.images)
    twice = {
        name: np.concatenate([given[name], given[name][-1:]]) for name in ("logits", "features", "files")
    }
    error = refused(world, tmp_path, **twice)
    assert error.got == f"1 repeated: {keys[-1]}"
    numbers = np.zeros(IMAGES + 1, dtype=int)
    error = refused(world, tmp_path, **twice, views=numbers, data__val_fraction=0)
    assert error.got == f"1 repeated: view 0 of {keys[-1]}"
    numbers[-1] = 1
    make_outputs(tmp_path / "big.npz", world.images, **twice, views=numbers)
    config = world.config(tmp_path / "run", data__val_fraction=0, cache__dir=tmp_path / "cache")
    assert sum(len(cache) for cache in import_outputs(tmp_path / "big.npz", config)) == IMAGES + 1


@pytest.mark.parametrize("number", [-1, 50])
def test_view_numbers_outside_of_the_recipe_are_named(world: World, tmp_path: Path, number: int) -> None:
    # A border of 2 pixels and mirroring make 5 · 5 · 2 views.
    numbers = changed(np.zeros(IMAGES, dtype=int), -1, number)
    error = refused(world, tmp_path, views=numbers, data__val_fraction=0)
    assert "numbers from 0 to 49, of CropFlip" in error.rule
    assert f"such as {number}: {keys_of(world.images)[-1]}" in str(error.got)


def test_numbered_views_belong_to_training(world: World, tmp_path: Path) -> None:
    error = refused(world, tmp_path, views=changed(np.zeros(IMAGES, dtype=int), 0, 7))
    assert "split 'test' must be of the whole image, view 0" in error.rule
    numbers = np.zeros(IMAGES, dtype=int)
    error = refused(world, tmp_path, views=numbers, augment__policy="random-resized-crop")
    assert "--augment.num_views" in str(error.fix)
    given = make_outputs(tmp_path / "big.npz", world.images)
    tests = {name: given[name][:TESTS] for name in ("logits", "features", "files")}
    error = refused(world, tmp_path, **tests, views=numbers[:TESTS])
    assert "rows of training images" in error.rule


def test_keys_that_name_two_images_are_refused(world: World, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_tar(tmp_path / "data" / f"{split}-0000.tar", *samples(*CLASSES, *CLASSES))
    error = refused(world, tmp_path, data__path=str(tmp_path / "data"))
    assert "unique over all splits" in error.rule


def test_a_cache_must_be_named(world: World, tmp_path: Path) -> None:
    assert "--teacher-cache" in str(refused(world, tmp_path, cache__dir=None).fix)
