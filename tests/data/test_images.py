"""Decoding of all PIL modes, compared with known pixels."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from richkd.core.errors import DataError
from richkd.data.framing import Framing, frame
from richkd.data.images import decode_all, decode_rgb, map_images
from richkd.data.sources import Split

ORIENTATION = 0x0112


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decoded(data: bytes | Path) -> np.ndarray:
    image = decode_rgb(data, name="x")
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def make_split(files: list[bytes], name: str = "train") -> Split:
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": data, "path": None} for data in files]},
        features=datasets.Features({"image": datasets.Image(decode=False)}),
    )
    return Split(name, rows, torch.zeros(len(files), dtype=torch.int64), ("a", "b"), "image", None)


def test_rgb_is_lossless_from_bytes_and_from_a_path(tmp_path: Path) -> None:
    pixels = noise(5, 7)
    data = encode(Image.fromarray(pixels))
    (tmp_path / "x.png").write_bytes(data)
    assert (decoded(data) == pixels).all()
    assert (decoded(tmp_path / "x.png") == pixels).all()


def test_grayscale_and_black_and_white_repeat_their_value() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (decoded(encode(Image.fromarray(gray))) == gray[..., None]).all()
    bits = gray > 100
    assert (decoded(encode(Image.fromarray(bits))) == bits[..., None] * 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_white(mode: str) -> None:
    # Color c with opacity a over white is a·c + (1 - a)·white.
    image = Image.new("RGBA", (3, 1))
    image.putdata([(0, 0, 0, 0), (0, 0, 0, 255), (100, 100, 100, 51)])
    pixels = decoded(encode(image.convert(mode)))[0]
    assert pixels[0].tolist() == [255] * 3
    assert pixels[1].tolist() == [0] * 3
    assert abs(pixels[2] - (0.2 * 100 + 0.8 * 255)).max() <= 1


@pytest.mark.parametrize("transparent", [None, 1])
def test_palette_with_and_without_a_transparent_entry(transparent: int | None) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    options = {} if transparent is None else {"transparency": transparent}
    expected = [[10, 20, 30], [40, 50, 60] if transparent is None else [255] * 3]
    assert decoded(encode(image, **options))[0].tolist() == expected


def test_rgb_with_a_transparent_color_shows_white_there() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    assert decoded(encode(image, transparency=(9, 9, 9)))[0].tolist() == [[1, 2, 3], [255] * 3]


def test_cmyk_is_converted_to_rgb() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for kind in ("JPEG", "TIFF"):
        pixels = decoded(encode(image, kind))
        assert pixels[..., 0].min() > 220
        assert pixels[..., 1:].max() < 60


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_to_8_and_not_clipped(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    data = encode(Image.fromarray(values), kind)
    assert decoded(data)[0, :, 0].tolist() == [round(int(v) / 257) for v in values[0]]


def test_pixels_of_unknown_value_range_are_rejected() -> None:
    for values in (
        np.ones((2, 2), np.float32),
        np.full((2, 2), 1 << 20, np.int32),
        np.full((2, 2), -1, np.int32),
    ):
        with pytest.raises(DataError, match=r"Image a/b\.tif must be readable(.|\n)*8 or 16 bits"):
            decode_rgb(encode(Image.fromarray(values), "TIFF"), name="a/b.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = noise(4, 6)
    # The pixels that a camera with this orientation stores: the inverse of what a viewer does.
    store = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda p: np.rot90(p, -1),
    }
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(store[orientation](upright)))
    assert (decoded(encode(stored, exif=exif)) == upright).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (decoded(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_files_are_rejected_by_name(kind: str, share: float) -> None:
    data = encode(Image.fromarray(noise(40, 40)), kind)
    with pytest.raises(DataError, match=r"Image cats/1\.x must be readable\nGot: "):
        decode_rgb(data[: int(share * len(data))], name="cats/1.x")


@pytest.mark.parametrize("data", [b"", b"no image", b"<html></html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_files_that_are_not_images_are_rejected_by_name(data: bytes) -> None:
    with pytest.raises(DataError, match=r"Image cats/1\.png must be readable"):
        decode_rgb(data, name="cats/1.png")


@pytest.mark.parametrize("workers", [1, 3])
def test_decode_all_is_read_and_square_for_each_image_in_order(workers: int) -> None:
    shapes = [(8, 8), (20, 9), (9, 20), (3, 5)] * 150
    arrays = [noise(*shape, seed=i) for i, shape in enumerate(shapes)]
    split = make_split([encode(Image.fromarray(array)) for array in arrays])
    seen: list[tuple[int, int]] = []
    pixels = decode_all(split, Framing(8), workers, progress=lambda done, total: seen.append((done, total)))
    assert pixels.shape == (600, 8, 8, 3)
    assert pixels.dtype == torch.uint8
    for index in range(len(split)):
        assert np.array_equal(pixels[index], np.asarray(frame(split.read(index), Framing(8)))), index
    assert np.array_equal(pixels[0], arrays[0])
    assert seen == [(256, 600), (512, 600), (600, 600)]


def test_decode_all_names_the_first_ten_unreadable_images_and_their_number() -> None:
    good = encode(Image.fromarray(noise(4, 4)))
    bad = [5, 7, *range(300, 311)]
    files = [b"broken" if i in bad else good for i in range(320)]
    with pytest.raises(DataError) as raised:
        decode_all(make_split(files), Framing(4))
    message = str(raised.value)
    assert "13 of 320" in message
    assert [f"train[{i}]" in message for i in bad] == [True] * 10 + [False] * 3
    assert "and 3 more" in message


def test_each_way_to_repair_unreadable_images_is_given_once() -> None:
    heic = b"\0\0\0\x18ftypheic" + bytes(12)
    with pytest.raises(DataError, match=r"3 of 4 images are not") as raised:
        decode_all(make_split([heic, b"", encode(Image.new("L", (2, 2))), heic]), Framing(4))
    assert str(raised.value).count("pip install pillow-heif") == 1
    assert str(raised.value.fix).count("replace these files with a readable image") == 1


def test_one_unreadable_image_is_named_too_and_an_empty_cell_is_unreadable() -> None:
    split = make_split([encode(Image.fromarray(noise(4, 4)))])
    rows = datasets.concatenate_datasets(
        [split.table, datasets.Dataset.from_dict({"image": [None]}, split.table.features)]
    )
    split = Split("val", rows, torch.zeros(2, dtype=torch.int64), ("a", "b"), "image", None)
    with pytest.raises(DataError, match=r"1 of 2 (.|\n)*val\[1\]"):
        decode_all(split, Framing(4))
    with pytest.raises(DataError, match=r"val\[1\]"):
        split.read(1)


def test_map_images_does_not_catch_other_errors() -> None:
    def fail(index: int, image: Image.Image) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(map_images(make_split([encode(Image.new("RGB", (2, 2)))]), fail))
