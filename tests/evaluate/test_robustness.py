"""Errors on corrupted images, mCE against loops, and evaluation of a run on corruptions and shifts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from richkd.cli import main
from richkd.config.schema import DataConfig, EvaluateConfig
from richkd.core.errors import ClassError, DataError
from richkd.data.batches import Resident, open_store
from richkd.data.framing import Framing
from richkd.data.sources import open_data
from richkd.evaluate.corruptions.corrupt import corrupt
from richkd.evaluate.predictors import NetworkPredictor
from richkd.evaluate.robustness import GENERATED, mce, measure_corrupted, relative_mce
from richkd.evaluate.run import evaluate_models
from richkd.evaluate.shift import open_shift
from richkd.evaluate.subjects import selected_corruptions
from richkd.export.student import load_student
from richkd.teachers.predict import logits_of
from richkd.training.run import distill
from tests.evaluate.corruptions.test_stores import write_published
from tests.evaluate.test_run import CPU
from tests.fixtures import CLASSES, SIZE, TEST, World, make_images, refusal

ROWS = st.lists(st.floats(0.01, 1), min_size=5, max_size=5).map(tuple)
CELLS = st.fixed_dictionaries({"fog": ROWS, "snow": ROWS})


@given(CELLS, CELLS, st.floats(0, 0.009), st.floats(0, 0.009))
def test_mce_is_the_mean_of_ratios(
    cells: dict[str, tuple[float, ...]],
    reference: dict[str, tuple[float, ...]],
    reference_clean: float,
    clean: float,
) -> None:
    expected = np.mean([np.sum(cells[c]) / np.sum(reference[c]) for c in cells])
    assert mce(cells, reference) == pytest.approx(expected)
    beyond = [
        np.sum(np.subtract(cells[c], clean)) / np.sum(np.subtract(reference[c], reference_clean))
        for c in cells
    ]
    assert relative_mce(cells, clean, reference, reference_clean) == pytest.approx(np.mean(beyond))
    assert mce(cells, cells) == pytest.approx(1)
    assert mce(cells, dict.fromkeys(cells, (0.0,) * 5)) is None


def test_a_student_is_judged_on_each_corruption(world: World) -> None:
    split = open_data(DataConfig(path=str(world.images)), 0).splits["test"]
    network, store = load_student(world.teacher).network, open_store(split, Framing(SIZE))
    assert isinstance(store, Resident)
    (row,) = measure_corrupted(
        [NetworkPredictor("net", network, 1.0)],
        split,
        {"net": logits_of(network, store, CPU)},
        {"net": 1.0},
        CPU,
        corruptions=("fog", "pixelate"),
    )
    assert row.source == GENERATED
    for name in ("fog", "pixelate"):
        for severity in range(1, 6):
            pixels = corrupt(store.pixels_NHWC, name, severity)
            logits_NC = logits_of(network, replace(store, pixels_NHWC=pixels), CPU)
            wrong = (logits_NC.argmax(1) != split.labels_N).double().mean()
            assert row.errors[name][severity - 1] == pytest.approx(float(wrong))
    values = [value for errors in row.errors.values() for value in errors]
    assert row.error.estimate == pytest.approx(np.mean(values))
    assert row.mce == pytest.approx(1)
    assert row.group_error("noise") is None
    assert row.group_error("weather") == pytest.approx(np.mean(row.errors["fog"]))


def test_corruptions_for_tuning_are_judged_by_themselves(world: World) -> None:
    config = EvaluateConfig(validation_corruptions=True)
    (row,) = evaluate_models([str(world.teacher)], str(world.images), config).evaluation.robustness
    assert len(row.errors) == 4
    assert row.group_error("noise") is None
    assert row.group_error("validation") == pytest.approx(row.error.estimate)
    assert row.mce is None


@pytest.mark.slow
def test_teachers_who_look_are_judged_and_stored_outputs_are_not(world: World, tmp_path: Path) -> None:
    distill(world.config(tmp_path / "run", train__epochs=1, cache__dir=str(tmp_path / "cache")), quiet=True)
    config = EvaluateConfig(teachers=True, validation_corruptions=True)
    result = evaluate_models([str(tmp_path / "run")], str(world.images), config)
    judged = [row.name for row in result.evaluation.robustness]
    # CLIP is a file here, so neither it nor the fusion can say anything of a picture in the snow.
    assert judged == [str(tmp_path / "run"), f"local-dir:{world.teacher}"]
    config = EvaluateConfig(validation_corruptions=True)
    alone = evaluate_models([str(world.teacher)], str(world.images), config)
    cache, direct = result.evaluation.robustness[1], alone.evaluation.robustness[0]
    assert cache.errors == direct.errors
    follows = result.evaluation.fidelity[str(tmp_path / "run")]
    assert [row.name for row in follows] == [f"local-dir:{world.teacher}", "CLIP outputs", "fused"]


def test_published_files_are_judged_in_their_place(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate_models([str(world.teacher)], str(world.images))
    pixels = write_published(tmp_path, result.split)
    words = ["evaluate", str(world.teacher), "--data", str(world.images), "--cifar-c", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    assert "gaussian_noise.npy does not exist" in capsys.readouterr().err
    for name in selected_corruptions(test=True, validation=False):
        np.save(tmp_path / f"{name}.npy", np.tile(pixels, (5, 1, 1, 1)))
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert ended.value.code in (None, 0)
    (row,) = json.loads(capsys.readouterr().out)["robustness"]
    # These files are clean, so nothing is lost.
    assert row["error"]["estimate"] == pytest.approx(row["clean_error"])
    assert row["relative_mce"] is None
    assert str(tmp_path) in row["source"]


def test_shifted_pictures_are_matched_by_name(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(tmp_path / "other", seed=5)
    few = tmp_path / "few"
    for name in ("cow", "bee"):
        shutil.copytree(tmp_path / "other" / "test" / name, few / name)
    words = ["evaluate", str(world.teacher), "--data", str(world.images), "--json"]
    with pytest.raises(SystemExit):
        main([*words, "--shift", f"few={few}", "--shift", f"home={world.images / 'test'}"])
    of_few, home = json.loads(capsys.readouterr().out)["shifts"]
    assert (of_few["shift"], of_few["images"], of_few["classes"]) == ("few", 2 * TEST, 2)
    assert home["accuracy"]["estimate"] == home["home_accuracy"]["estimate"]
    result = evaluate_models([str(world.teacher)], str(world.images))
    logits_NC = next(iter(result.outputs.values())).logits_BC
    kept_N = result.split.labels_N > 0
    guess_N = logits_NC[kept_N][:, 1:].argmax(1) + 1
    expected = (guess_N == result.split.labels_N[kept_N]).double().mean()
    assert of_few["home_accuracy"]["estimate"] == pytest.approx(float(expected))
    split = open_shift(str(few), CLASSES)
    assert sorted(set(split.labels_N.tolist())) == [1, 2]


def write_table(path: Path, images: Path, columns: tuple[str, ...], kept: str | None = None) -> None:
    """Images as a parquet file whose label columns, in this order, are their class and "other"."""
    declared = datasets.ClassLabel(names=list(CLASSES))
    rows: dict[str, list[Any]] = {"image": [], **{name: [] for name in columns}}
    for file in sorted(images.rglob("*.png")):
        if kept in (None, file.parent.name):
            rows["image"].append({"bytes": file.read_bytes(), "path": None})
            for name, label in zip(columns, (file.parent.name, "other"), strict=False):
                rows[name].append(label)
    features = {"image": datasets.Image(decode=False)} | {name: datasets.Value("string") for name in columns}
    if kept is not None:
        features[columns[0]] = declared
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)


def test_shifted_images_have_the_label_column_of_the_data(world: World, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        write_table(tmp_path / "data" / f"{split}.parquet", world.images / split, ("breed", "label"))
    make_images(tmp_path / "other", seed=5)
    for name, columns in (("named", ("breed", "label")), ("plain", ("label",))):
        write_table(tmp_path / f"{name}.parquet", tmp_path / "other" / "test", columns)
    shifts = {"folder": str(tmp_path / "other" / "test")}
    shifts |= {name: str(tmp_path / f"{name}.parquet") for name in ("named", "plain")}
    config = EvaluateConfig(label_column="breed", shift=shifts)
    result = evaluate_models([str(world.teacher)], str(tmp_path / "data"), config).evaluation
    assert [row.images for row in result.shifts] == [TEST * len(CLASSES)] * 3
    assert len({row.accuracy for row in result.shifts}) == 1


def test_shifted_images_may_have_the_class_names_of_the_source(world: World, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("zebra\nyak\nant eater\n")
    names = str(tmp_path / "names.txt")
    config = world.config(tmp_path / "run", method__name="ce", train__epochs=1, data__class_names=names)
    distill(config, quiet=True)
    for name, label in (("zebra", "ant"), ("ant eater", "cow")):
        shutil.copytree(world.images / "test" / label, tmp_path / "renamed" / name)
    for label in ("ant", "cow"):
        shutil.copytree(world.images / "test" / label, tmp_path / "source" / label)
    shifts = {name: str(tmp_path / name) for name in ("renamed", "source")}
    result = evaluate_models([tmp_path / "run"], world.images, EvaluateConfig(shift=shifts)).evaluation
    renamed, source = result.shifts
    assert replace(renamed, shift="") == replace(source, shift="")
    assert source.accuracy == source.home_accuracy
    (tmp_path / "source" / "ant").rename(tmp_path / "source" / "zebra")
    assert isinstance(
        refusal(open_shift, shifts["source"], ["zebra", "yak"], source_names=CLASSES[:2]), ClassError
    )


def test_shifted_images_of_one_class_are_refused(world: World, tmp_path: Path) -> None:
    write_table(tmp_path / "bees.parquet", world.images / "test", ("label",), kept="bee")
    error = refusal(open_shift, str(tmp_path / "bees.parquet"), CLASSES)
    assert isinstance(error, DataError)
    assert "bees.parquet" in error.rule
    assert "'bee'" in str(error.got)


def test_folders_that_do_not_fit_are_named(world: World, tmp_path: Path) -> None:
    make_images(tmp_path / "strange", ("ant", "wolf", "cow"))
    error = refusal(open_shift, str(tmp_path / "strange" / "test"), CLASSES)
    assert isinstance(error, ClassError)
    assert "wolf" in str(error)
    (tmp_path / "empty").mkdir()
    assert isinstance(refusal(open_shift, str(tmp_path / "empty"), CLASSES), DataError)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(world.teacher), "--data", str(world.images), "--shift", "nameless"])
    assert ended.value.code == 1
