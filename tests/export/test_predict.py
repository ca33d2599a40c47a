"""Predictions for many files: what is found, what goes on after a bad image, and the formats."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from richkd.cli import main
from richkd.config.schema import ModelConfig
from richkd.core.errors import DataError
from richkd.export.predict import find_images, predict_files, unreadable, with_stdin
from richkd.export.student import Student, load_student, save_student
from richkd.models.build import build_network
from tests.core.closed import LONG
from tests.fixtures import refusal, without_waits

CLASSES = ("ant", "bee, wild", "cow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "student"
    save_student(
        path, build_network(ModelConfig(name="cifar_resnet8", size=16), 3, role="student"), CLASSES, 1.5, {}
    )
    return path


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    return load_student(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("b.png", "a.png", "deep/c.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_folders_patterns_and_files_are_found(photos: Path) -> None:
    names = [path.relative_to(photos).as_posix() for path in find_images([photos])]
    assert names == ["a.png", "b.png", "deep/c.png"]
    assert [path.name for path in find_images([f"{photos}/*.png"])] == ["a.png", "b.png"]
    assert [path.name for path in find_images([f"{photos}/**/*.png"])] == ["a.png", "b.png", "c.png"]
    assert find_images([photos / "gone.png"]) == [photos / "gone.png"]
    for hidden in ("._a.png", ".ipynb_checkpoints/a-checkpoint.png"):
        (photos / hidden).parent.mkdir(exist_ok=True)
        (photos / hidden).touch()
    (photos / "deep" / "link").symlink_to(photos / "deep")
    (photos / "out").symlink_to(photos / "deep")
    names = [path.relative_to(photos).as_posix() for path in find_images([photos])]
    assert names == ["a.png", "b.png", "deep/c.png", "out/c.png"]
    (photos / "out").unlink()
    strange = photos / "a[1].png"
    strange.write_bytes((photos / "a.png").read_bytes())
    assert find_images([strange]) == [strange]
    for nothing in (photos / "*.gif", photos / "deep" / "empty"):
        if nothing.name == "empty":
            nothing.mkdir()
        assert isinstance(refusal(find_images, [nothing]), DataError)


def test_a_bad_image_stops_nothing_and_more_images_than_a_batch_keep_their_order(
    student: Student, photos: Path
) -> None:
    bad = photos / "bad.png"
    bad.write_bytes(b"no image")
    paths = [*([photos / "a.png"] * 70), bad, photos / "b.png", photos / "gone.png"]
    predictions = list(predict_files(student, paths, top=2))
    assert [prediction.image for prediction in predictions] == paths
    assert [p.image.name for p in predictions if p.error] == ["bad.png", "gone.png"]
    expected = student.probabilities([photos / "b.png"])[0]
    best = expected.argsort(descending=True)[:2]
    (prediction,) = [p for p in predictions if p.image.name == "b.png"]
    assert [name for name, _ in prediction.classes] == [CLASSES[i] for i in best]
    assert [p for _, p in prediction.classes] == pytest.approx(expected[best].tolist(), rel=1e-4)


def test_a_path_that_may_be_mistyped_is_named_once(student: Student, tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"
    error = unreadable(list(predict_files(student, [gone], top=1)))
    assert str(error.got).count(str(gone)) == 1
    assert error.fix == "check the path, or restore the file."


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["predict", *map(str, arguments)])
    return int(end.value.code or 0)


def test_json_and_csv_say_the_same(
    folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(folder, photos, "--json", "--top", 2) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert call(folder, photos, "--csv", "--top", 2) == 0
    printed = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert len(objects) == 3
    for entry in objects:
        mine = [row for row in rows if row["image"] == entry["image"]]
        assert [row["rank"] for row in mine] == ["1", "2"]
        read = {row["class"]: pytest.approx(float(row["probability"]), rel=1e-5) for row in mine}
        assert entry["classes"] == read
    out = tmp_path / "x" / "predictions.csv"
    assert call(folder, photos, "--out", out, "--top", 2) == 0
    assert out.read_text() == printed
    assert capsys.readouterr().out == ""


def test_paths_from_standard_input(
    folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos / 'b.png'}{os.linesep}{photos / 'a.png'}\n"))
    assert call(folder, "-", "--top", 1) == 0
    assert capsys.readouterr().out.splitlines()[::2] == [str(photos / "b.png"), str(photos / "a.png")]


def test_a_line_of_standard_input_is_one_name(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(tmp_path / name) for name in ("cat\u2028one.png", "dog\x1ctwo.png", "plain.png")]
    monkeypatch.setattr("sys.stdin", io.StringIO("\r\n".join(names) + "\n"))
    assert with_stdin(["-"]) == names


def test_bad_images_are_named_at_the_end(
    folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bad.png").write_bytes(b"no image")
    assert call(folder, photos, "--json") != 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert "error" in json.loads(out.splitlines()[2])
    assert "1 of the images cannot be read" in err
    assert "bad.png" in err


def test_strange_names_are_printed_and_named(
    folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "x.jpg").mkdir()
    for name in (b"caf\xe9.png", b"a\nb.png"):
        Path(os.fsdecode(os.fsencode(photos) + b"/" + name)).write_bytes((photos / "a.png").read_bytes())
    (photos / "loop.png").symlink_to("loop.png")
    for format in ("csv", "json", "txt"):
        out = tmp_path / f"out.{format}"
        assert call(folder, photos, "x" * 300 + ".png", "--out", out) != 0
        assert "caf\\xe9.png" in out.read_text().replace("\\\\", "\\")
        err = capsys.readouterr().err
        assert "2 of the images cannot be read" in err
        assert "loop.png: Too many levels of symbolic links" in err
        assert "xxx.png: File name too long" in err


def test_the_error_has_the_fix_of_each_kind_of_file(
    folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (photos / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    monkeypatch.setenv("RICHKD_MAX_PIXELS", "479")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 479)
    with pytest.warns(Image.DecompressionBombWarning):
        assert call(folder, photos / "photo.heic", photos / "b.png") != 0
    err = " ".join(capsys.readouterr().err.split())
    assert "pip install pillow-heif" in err
    assert "24 × 20 = 480 pixels" in err
    assert "RICHKD_MAX_PIXELS=480" in err


@pytest.mark.parametrize("wrong", [("--top", 0), ("--json", "--csv"), ("--tpo", 3), ("--tops=3",)])
def test_wrong_options_are_refused(
    folder: Path, photos: Path, wrong: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(folder, photos, *wrong) != 0
    assert "Fix:" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_ends_early_is_no_error(folder: Path, photos: Path) -> None:
    """As with ``richkd predict … | head -1``."""
    command = [sys.executable, "-m", "richkd", "predict", str(folder), *([str(photos)] * 500), "--csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert without_waits(process.stderr.read()) == ""


def test_an_empty_name_is_not_this_folder() -> None:
    for name in ("", "  "):
        assert refusal(find_images, [name]).rule == "An image must have a name"


def test_a_pattern_means_files_and_no_folders(
    folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "notes.txt").unlink()
    (photos / "album.png").mkdir()
    names = [path.relative_to(photos).as_posix() for path in find_images([f"{photos}/**"])]
    assert names == ["a.png", "b.png", "deep/c.png"]
    assert call(folder, f"{photos}/**", "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert isinstance(refusal(find_images, [f"{photos}/de*"]), DataError)


def test_predictions_do_not_replace_what_they_are_made_from(
    folder: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, link = photos / "b.png", tmp_path / "link.png"
    link.symlink_to(photo)
    before = photo.read_bytes()
    for image, out in ((photo, photo), (photos, photo), (photo, link), (link, photo)):
        assert call(folder, image, "--out", out) == 1
        assert f"--out {out} must not be a file that is read" in capsys.readouterr().err
        assert photo.read_bytes() == before
    assert link.is_symlink()
    assert call(folder, photo, "--out", photo.with_suffix(".txt")) == 0


@pytest.mark.parametrize("closed", [True, False])
def test_standard_input_that_is_closed_or_empty_names_no_image(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], closed: bool
) -> None:
    monkeypatch.setattr("sys.stdin", None if closed else io.StringIO())
    assert call(folder, "-") == 1
    assert "No image was given" in capsys.readouterr().err


def test_a_long_word_is_an_option_that_does_not_exist() -> None:
    assert refusal(with_stdin, [f"--{LONG}"]).rule == f"There is no option --{LONG}"
