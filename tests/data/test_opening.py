"""Files that cannot be opened, and the limit of pixels."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import Image

from richkd.core.errors import ConfigError, DataError
from richkd.core.visible import visible
from richkd.data.images import decode_rgb
from richkd.data.opening import LIMIT
from tests.data.files import chunk, encode, png
from tests.fixtures import refusal


def test_what_is_no_file_is_named_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for path, reason in (
        (tmp_path, "a folder"),
        (tmp_path / "gone.png", "no such file"),
        (tmp_path / "pipe.png", "a pipe, no regular file"),
        (Path("/dev/zero"), "a device, no regular file"),
        (tmp_path / "loop.png", "symbolic links"),
        (tmp_path / ("x" * 300), "too long"),
        (tmp_path / "a\0b.png", "null"),
    ):
        error = refusal(decode_rgb, path, name="k")
        assert isinstance(error, DataError)
        assert error.rule == "Image k must be readable"
        assert reason in str(error.got)
        assert visible(path) in str(error.got)


def test_an_empty_file_and_one_without_an_image_are_described() -> None:
    assert refusal(decode_rgb, b"", name="k").got == "an empty file"
    assert refusal(decode_rgb, b"<html>", name="k").got == "6 bytes that are no image of a known format"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_too_many_pixels_are_refused_where_pil_warns_and_where_it_raises(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side, size in ((11, "11 × 11 = 121 pixels, more than 100"), (50, "2,500 pixels, more than 100")):
        # The limit is about the full size, even if a JPEG is decoded at reduced size.
        error = refusal(decode_rgb, encode(Image.new("RGB", (side, side)), kind), name="big.x", short=2)
        assert error.rule == "Image big.x must have at most 100 pixels"
        assert error.got == size
        assert f"{LIMIT}={side * side}" in str(error.fix)
    decode_rgb(encode(Image.new("RGB", (10, 10)), kind), name="x")


def test_the_limit_can_be_raised_and_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(Image.new("RGB", (50, 50)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setenv(LIMIT, "2500")
    assert decode_rgb(content, name="x").size == (50, 50)
    monkeypatch.setenv(LIMIT, "2499")
    with pytest.warns(Image.DecompressionBombWarning):
        assert refusal(decode_rgb, content, name="x").got == "50 × 50 = 2,500 pixels, more than 2,499"
    for wrong in ("", "0", "-1", "1e9", "many", "9" * 5000):
        monkeypatch.setenv(LIMIT, wrong)
        assert isinstance(refusal(decode_rgb, content, name="x"), ConfigError)
    monkeypatch.delenv(LIMIT)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_rgb(content, name="x").size == (50, 50)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.png"
    file.touch()

    def forbid(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    # The superuser may read everything.
    monkeypatch.setattr(os, "open", forbid)
    assert refusal(decode_rgb, file, name="x").got == f"Permission denied: {file}"


def test_a_file_that_is_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    assert "more than 1,073,741,824" in str(refusal(decode_rgb, tmp_path / "sparse.png", name="x").got)


def test_a_format_that_needs_another_program_is_refused() -> None:
    content = encode(Image.new("RGB", (4, 4)), "EPS")
    error = refusal(decode_rgb, content, name="x.png")
    assert (error.rule, error.got) == ("Image x.png must be of a format that PIL reads itself", "EPS")


def test_texts_and_profiles_that_expand_do_not_stop_an_image() -> None:
    zeros = zlib.compress(bytes(1 << 28), 9)
    for name, payload in ((b"zTXt", b"key\0\0" + zeros), (b"iCCP", b"key\0\0" + zeros)):
        content = png(1, [b"\x80"], before=chunk(name, payload))
        tracemalloc.start()
        assert decode_rgb(content, name="x").getpixel((0, 0)) == (128, 128, 128)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 24
