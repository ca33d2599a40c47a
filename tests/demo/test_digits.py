from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from richkd.config.schema import DataConfig
from richkd.core.errors import ConfigError, DataError
from richkd.data.duplicates import duplicates
from richkd.data.sources import open_data
from richkd.demo.digits import NAMES, write_digits


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder, with the hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("demo") / "digits")


def test_every_digit_is_in_one_split(folder: Path) -> None:
    names = list(contents(folder))
    assert len(names) == 1797
    assert sorted(int(Path(name).stem) for name in names) == list(range(1797))
    for split, count in (("train", 100), ("val", 100), ("test", 1597)):
        assert len([name for name in names if name.startswith(f"{split}/")]) == count
    for name in NAMES:
        assert len(list((folder / "train" / name).iterdir())) == 10
        assert len(list((folder / "val" / name).iterdir())) == 10


def test_the_files_are_the_real_digits_under_their_names(folder: Path) -> None:
    digits = load_digits()
    for path in sorted(folder.glob("*/*/*.png"))[::37]:
        position = int(path.stem)
        assert path.parent.name == NAMES[digits.target[position]]
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (16, 16))
            small_HW = np.asarray(image, dtype=float).reshape(8, 2, 8, 2).mean(axis=(1, 3))
        original_HW = digits.images[position] * (255 / 16)
        # Enlarging is no exact inverse of averaging, but another digit would be far off.
        assert np.corrcoef(small_HW.ravel(), original_HW.ravel())[0, 1] > 0.97
        # White ink on black: the corners of the sheet are dark.
        assert small_HW[:, 0].mean() < small_HW.mean()


def test_size_8_keeps_the_counts_exactly(tmp_path: Path) -> None:
    write_digits(tmp_path, size=8)
    digits = load_digits()
    for path in sorted(tmp_path.glob("*/*/*.png"))[::53]:
        with Image.open(path) as image:
            counts_HW = np.rint(np.asarray(image) * (16 / 255))
        np.testing.assert_array_equal(counts_HW, digits.images[int(path.stem)])


def test_a_second_call_writes_nothing_and_mends_what_is_broken(folder: Path, tmp_path: Path) -> None:
    copy = write_digits(str(tmp_path / "copy"))
    before = contents(folder)
    assert contents(copy) == before
    paths = sorted(copy.rglob("*.png"))
    stamps = {path: path.stat().st_mtime_ns for path in paths}
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:40])
    write_digits(copy)
    assert contents(copy) == before
    assert [path for path in paths if path.stat().st_mtime_ns != stamps[path]] == paths[:2]


def test_the_seed_decides_the_division(folder: Path, tmp_path: Path) -> None:
    other = write_digits(tmp_path, seed=1)
    assert {Path(name).stem for name in contents(other)} == {Path(name).stem for name in contents(folder)}
    assert contents(other).keys() != contents(folder).keys()


def test_another_division_in_the_folder_is_refused(tmp_path: Path) -> None:
    write_digits(tmp_path, train_per_class=5)
    with pytest.raises(DataError, match="20 other files, first") as caught:
        write_digits(tmp_path, train_per_class=6)
    assert "empty folder" in str(caught.value)


def test_it_opens_as_a_data_set_without_leaks(folder: Path) -> None:
    data = open_data(DataConfig(path=str(folder)))
    assert sorted(data.class_names) == sorted(NAMES)
    assert duplicates(data.splits["train"], data.splits["test"]) == []
    assert duplicates(data.splits["val"], data.splits["test"]) == []
    assert duplicates(data.splits["train"], data.splits["val"]) == []


@pytest.mark.parametrize(
    "options",
    [{"size": 7}, {"train_per_class": 0}, {"val_per_class": 0}, {"train_per_class": 170, "val_per_class": 4}],
)
def test_impossible_settings_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        write_digits(tmp_path / "digits", **options)  # type: ignore[arg-type]
    assert str(next(iter(options.values()))) in str(caught.value)
    assert not (tmp_path / "digits").exists()


def test_without_scikit_learn_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install .\.\[demo\]"):
        write_digits(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file"):
        write_digits(tmp_path / "file")
