"""Formats that need another package: one message, or the package is found."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image, ImageFile

from richkd.core.errors import DataError
from richkd.data.file_types import PLUGINS, plugin_of, refuse_formats
from richkd.data.images import decode_rgb
from tests.data.files import encode
from tests.fixtures import refusal

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
JXL = b"\xff\x0a" + bytes(40)


class FakeHeif(ImageFile.ImageFile):
    format = "HEIF"

    def _open(self) -> None:
        self._size, self._mode = (3, 2), "RGB"

    def load(self) -> None:
        self.im = Image.new("RGB", (3, 2), "red").im


@pytest.fixture
def pillow_heif(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module that reads every HEIC file as a red picture, once it is asked to register itself."""
    Image.init()
    for name in ("ID", "OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, name, getattr(Image, name).copy())
    calls = SimpleNamespace(count=0)

    def register() -> None:
        calls.count += 1
        Image.register_open("HEIF", FakeHeif, lambda prefix: prefix[4:12] == b"ftypheic")
        Image.register_extension("HEIF", ".heic")

    module = ModuleType("pillow_heif")
    module.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    return calls


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for plugin in PLUGINS:
        monkeypatch.setitem(sys.modules, plugin.module, None)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(("content", "package"), [(HEIC, "pillow-heif"), (JXL, "pillow-jxl-plugin")])
def test_a_file_without_its_package_says_what_to_install(content: bytes, package: str) -> None:
    error = refusal(decode_rgb, content, name="photo.jpg")
    assert error.rule == "Image photo.jpg must be readable"
    assert package in str(error.got)
    assert f"pip install {package}" in str(error.fix)


@pytest.mark.usefixtures("nothing_installed")
def test_all_files_of_a_format_are_counted_in_one_message() -> None:
    files = [Path("a/0.png"), Path("a/1.HEIC"), Path("a/2.heif"), Path("b/3.jxl")]
    error = refusal(refuse_formats, files, "zoo")
    assert isinstance(error, DataError)
    assert error.got == "2 HEIC files, such as a/1.HEIC"
    assert "pip install pillow-heif" in str(error.fix)
    refuse_formats(files[:1], "zoo")


def test_a_package_that_is_installed_is_found_when_it_is_needed(pillow_heif: SimpleNamespace) -> None:
    refuse_formats([Path("a/0.png")], "zoo")
    decode_rgb(encode(Image.new("L", (2, 2))), name="x")
    assert pillow_heif.count == 0
    image = decode_rgb(HEIC, name="photo.heic")
    assert (image.size, image.getpixel((0, 0))) == ((3, 2), (255, 0, 0))
    refuse_formats([Path("a/0.heic")], "zoo")
    decode_rgb(HEIC, name="photo.heic")
    assert pillow_heif.count == 1


def test_a_package_that_is_broken_is_a_package_that_lacks(
    pillow_heif: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["pillow_heif"], "register_heif_opener", None)
    assert "pip install pillow-heif" in str(refusal(decode_rgb, HEIC, name="x").fix)


def test_formats_are_known_by_their_first_bytes() -> None:
    image = Image.new("RGB", (4, 4))
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"):
        assert plugin_of(encode(image, kind)) is None
    known = {plugin.package for content in (HEIC, JXL) if (plugin := plugin_of(content))}
    assert known == {"pillow-heif", "pillow-jxl-plugin"}
    # A brand that HEIC and AVIF files share does not keep PIL from reading an AVIF file.
    avif = encode(image, "AVIF")
    assert decode_rgb(avif[:8] + b"mif1" + avif[12:], name="x").size == (4, 4)
