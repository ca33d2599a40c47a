"""Strange names and kinds of files in data folders: each one is named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from richkd.config.schema import DataConfig
from richkd.core.errors import DataError
from richkd.core.visible import visible
from richkd.data.formats.scan import contents, holds_images, images_below
from richkd.data.framing import Framing
from richkd.data.images import decode_all
from richkd.data.sources import open_data
from tests.fixtures import refusal


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Two classes of three images, a list of them, and a folder of images without labels."""
    for name in ("ant", "bee"):
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (4, 4)).save(tmp_path / "zoo" / name / f"{number}.png")
    (tmp_path / "loose").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "loose" / "0.png")
    return tmp_path / "zoo"


def config(zoo: Path, **options: object) -> DataConfig:
    return DataConfig(path=str(zoo), val_fraction=0, test_fraction=0, **options)


def damage(zoo: Path, kind: str) -> str:
    """Put something that is no image where one should be; returns its key."""
    file = zoo / "ant" / "odd.png"
    if kind == "loop":
        file.symlink_to(file.name)
    elif kind == "dangling":
        file.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "newline":
        file = file.with_name("odd\nname.png")
        file.touch()
    elif kind == "long":
        file = file.with_name("x" * 250 + ".png")
        file.touch()
    else:
        file.touch()
    return file.relative_to(zoo).as_posix()


@pytest.mark.parametrize("kind", ["loop", "dangling", "pipe", "newline", "long", "empty"])
def test_what_is_no_image_is_named_when_images_are_decoded(zoo: Path, kind: str) -> None:
    key = damage(zoo, kind)
    train = open_data(config(zoo)).splits["train"]
    assert len(train) == 7
    error = refusal(decode_all, train, Framing(4))
    assert "1 of 7" in str(error)
    assert visible(key) in str(error)


def test_a_folder_with_the_name_of_an_image_is_named_or_is_no_image(zoo: Path) -> None:
    (zoo.parent / "loose" / "x.jpg").mkdir()
    data = open_data(config(zoo, unlabeled=str(zoo.parent / "loose")))
    assert data.splits["train"].keys()[-1] == "0.png"
    (zoo / "ant" / "x.jpg").mkdir()
    assert "ant/x.jpg" in str(refusal(open_data, config(zoo)).got)


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are always text")
def test_names_that_are_no_text_are_refused_and_shown(zoo: Path) -> None:
    loose = zoo.parent / "loose"
    (loose / "0.png").rename(loose / os.fsdecode(b"caf\xe9.png"))
    error = refusal(open_data, config(zoo, unlabeled=str(loose)))
    assert "caf\\xe9.png" in str(error.got)
    (zoo / "ant").rename(zoo / os.fsdecode(b"\xff"))
    error = refusal(open_data, config(zoo))
    assert isinstance(error, DataError)
    assert "3 that are not" in str(error.got)
    assert "\\xff/0.png" in str(error.got)
    str(error).encode()


@pytest.mark.parametrize("opened", ["class folders", "listing", "unlabeled"])
def test_photos_of_a_format_without_its_package_are_counted(
    zoo: Path, opened: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    options = {"unlabeled": str(zoo.parent / "loose")} if opened == "unlabeled" else {}
    place = zoo.parent / "loose" if opened == "unlabeled" else zoo / "ant"
    for number in range(2):
        (place / f"{number}.HEIC").touch()
    if opened == "listing":
        lines = [f"{file.relative_to(zoo).as_posix()},{file.parent.name}" for file in zoo.rglob("*.*")]
        (zoo / "metadata.csv").write_text("\n".join(["image,label", *lines]))
    error = refusal(open_data, config(zoo, **options))
    assert "2 HEIC files" in str(error.got)
    assert "pip install pillow-heif" in str(error.fix)


def test_a_folder_that_cannot_be_read_is_named(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(folder: Path) -> object:
        raise PermissionError(13, "Permission denied", str(folder))

    # The superuser may read everything.
    monkeypatch.setattr(os, "scandir", forbid)
    error = refusal(contents, zoo)
    assert error.rule == f"Folder {zoo} must be readable"
    assert error.got == "Permission denied"


def test_images_below_a_folder_are_those_of_class_folders(
    zoo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("._1.png", ".notebook/2.png", "ant/.trash/3.png", "__MACOSX/4.png", "Thumbs.db", ".empty/x"):
        (zoo / name).parent.mkdir(exist_ok=True)
        (zoo / name).touch()
    (zoo / "link").symlink_to(zoo.parent / "loose")
    (zoo / "ant" / "loop").symlink_to(zoo)
    names = [file.relative_to(zoo).as_posix() for file in images_below(zoo)]
    assert names == [*(f"{name}/{n}.png" for name in ("ant", "bee") for n in range(3)), "link/0.png"]
    assert caplog.text.count("\n") == 1
    assert "images in hidden folders are ignored: .notebook, ant/.trash" in caplog.text


def test_a_loop_of_links_has_no_images(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "x" / name).mkdir(parents=True)
        for other in "abc":
            (tmp_path / "x" / name / f"to {other}").symlink_to(tmp_path / "x" / other)
    assert images_below(tmp_path) == []
    assert not holds_images(tmp_path)


def test_a_name_that_is_too_long_is_no_folder(zoo: Path) -> None:
    for name in ("x" * 300, "x/" * 3000):
        assert isinstance(refusal(open_data, config(Path(name))), DataError)
        assert isinstance(refusal(open_data, config(zoo, unlabeled=name)), DataError)
