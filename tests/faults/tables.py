"""Hostile tables of images: parquet files, tar files, and folders of downloaded data sets."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from tests.faults.images import small_png

CLASSES = ("ant", "bee") * 2


def write_parquet(folder: Path) -> list[Path]:
    folder.mkdir()
    picture = small_png()
    (folder.parent / "outside.png").write_bytes(picture)
    os.mkfifo(folder / "pipe.png")

    def cells(path: str) -> list[dict[str, Any]]:
        return [{"bytes": None, "path": path} for _ in CLASSES]

    names = list(CLASSES)
    tables: dict[str, dict[str, list[Any]]] = {
        "absolute": {"image": cells(str(folder.parent / "outside.png")), "label": names},
        "up": {"image": cells("../outside.png"), "label": names},
        "passwords": {"image": cells("/etc/passwd"), "label": names},
        "pipe": {"image": cells("pipe.png"), "label": names},
        "gone": {"image": cells("gone.png"), "label": names},
        "null character": {"image": cells("a\0b.png"), "label": names},
        "address": {"image": cells("http://127.0.0.1/a.png"), "label": names},
        "no image": {"label": names},
        "no label": {"image": [picture] * 4},
        "words": {"image": ["a"] * 4, "label": names},
        "no pictures": {"image": [b"a"] * 4, "label": names},
        "empty cells": {"image": [None] * 4, "label": names, "raw": [b"a"] * 4},
        "no rows": {
            "image": pyarrow.array([], pyarrow.binary()),
            "label": pyarrow.array([], pyarrow.string()),
        },
        "numbers": {"image": [picture] * 4, "label": [0.5, float("nan"), 1.0, 2.0]},
        "lists": {"image": [picture] * 4, "label": [["ant"], ["bee"], [], []]},
        "no labels": {"image": [picture] * 4, "label": [None, "ant", "bee", "bee"]},
        "negative": {"image": [picture] * 4, "label": [-1, 0, 1, 1]},
        "one class": {"image": [picture] * 4, "label": ["ant"] * 4},
    }
    for name, columns in tables.items():
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{name}.parquet")
    good = pyarrow.table({"image": [picture] * 4, "label": names})
    # One cell of 1 MB, which the file stores once and names 400 times.
    place_N = pyarrow.array([0] * 400, pyarrow.int32())
    repeated = pyarrow.DictionaryArray.from_arrays(place_N, pyarrow.array([bytes(1 << 20)]))
    table = pyarrow.table({"image": repeated, "label": names * 100})
    pyarrow.parquet.write_table(table, folder / "repeated.parquet", store_schema=False)
    texts = {
        "info list": "[]",
        "no info": "{",
        "other type": '{"info": {"features": {"label": {"_type": "X"}}}}',
    }
    for name, text in texts.items():
        described = good.replace_schema_metadata({"huggingface": text})
        pyarrow.parquet.write_table(described, folder / f"{name}.parquet")
    pyarrow.parquet.write_table(good, folder / "good.parquet")
    whole = (folder / "good.parquet").read_bytes()
    raw = {
        "empty": b"",
        "page": b"<html>",
        "truncated": whole[:-20],
        "footer": whole[:-8] + b"\xff" * 4 + b"PAR1",
    }
    for name, content in raw.items():
        (folder / f"{name}.parquet").write_bytes(content)
    os.mkfifo(folder / "pipe itself.parquet")
    named = (*tables, "repeated", *texts, *raw, "pipe itself")
    return [folder / f"{name}.parquet" for name in named]


def member(name: str, content: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def write_tars(folder: Path) -> list[Path]:
    folder.mkdir()
    picture = small_png()
    sparse = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 40),
        "GNU.sparse.name": "0.png",
    }
    members = {
        "nothing": [],
        "no images": [member("0.cls", b"ant")],
        "no labels": [member("0.png", picture), member("1.png", picture)],
        "one class": [member("0.png", picture), member("0.cls", b"ant")],
        "two images": [member("0.png", picture), member("0.jpg", picture), member("0.cls", b"ant")],
        "links": [member("0.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), member("0.cls", b"ant")],
        "hard links": [member("0.png", type=tarfile.LNKTYPE, linkname="/etc/passwd"), member("0.cls", b"a")],
        "devices": [member("0.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5), member("0.cls", b"ant")],
        "sparse": [member("0.png", b"1\n0\n1\n".ljust(512, b"\0") + b"a", pax_headers=sparse)],
        "json": [member("0.png", picture), member("0.json", b"{no json")],
        "deep json": [member("0.png", picture), member("0.json", b"[" * 100_000)],
        "json list": [member("0.png", picture), member("0.json", b"[1]")],
        "json label": [member("0.png", picture), member("0.json", b'{"label": [1]}')],
        "latin": [member("0.png", picture), member("0.cls", b"caf\xe9")],
        "no pictures": [member(f"{n}.{end}", b"ab"[n % 2 :][:1]) for n in range(4) for end in ("cls", "png")],
    }
    for name, inside in members.items():
        with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for info, content in inside:
                tar.addfile(info, io.BytesIO(content))
    whole = (folder / "two images.tar").read_bytes()
    large = tarfile.TarInfo("0.png")
    large.size = 1 << 40
    raw = {
        "empty": b"",
        "page": b"<html>",
        "truncated": whole[:700],
        "gzip": gzip.compress(whole),
        "large": large.tobuf(tarfile.GNU_FORMAT) + bytes(1024),
        "zeros": bytes(5000),
    }
    for name, content in raw.items():
        (folder / f"{name}.tar").write_bytes(content)
    os.mkfifo(folder / "pipe.tar")
    return [folder / f"{name}.tar" for name in (*members, *raw, "pipe")]


def write_folders(folder: Path) -> list[Path]:
    """Folders of data sets with a fault each."""
    folder.mkdir()
    picture = small_png()

    def put(path: str, content: bytes = picture) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)

    for name in ("no folder", "pipe list", "pipe name", "bad image", "tiny", "tiny names", "annotations"):
        for one in ("ant", "bee"):
            inner = f"{one}/images" if name.startswith("tiny") else one
            for number in range(4):
                put(f"{name}/train/{inner}/{number}.png")
    put("tiny/wnids.txt", b"ant\nbee\nn999\n")
    put("tiny names/wnids.txt", b"ant\nbee\n")
    put("tiny names/words.txt", bytes(range(256)))
    put("no folder/train/0.png")
    os.mkfifo(folder / "pipe list" / "metadata.csv")
    os.mkfifo(folder / "pipe name" / "train" / "ant" / "5.png")
    put("bad image/train/ant/4.png", b"no image")
    put("annotations/val/val_0.png")
    put("annotations/val.txt", b"val_0.png 99\n")
    put("loose/0.png")
    put("one/ant/0.png")
    put("hidden/.ant/0.png")
    put("text only/ant/notes.txt", b"a")
    put("foreign/ant/0.png"), put("foreign/bee/a.exe", b"MZ")
    (folder / "empty").mkdir()
    (folder / "empty classes" / "ant").mkdir(parents=True)
    (folder / "empty classes" / "bee").mkdir()
    (folder / "loop").mkdir()
    (folder / "loop" / "ant").symlink_to("ant")
    for split in ("train", "test"):
        for number in range(3):
            put(f"names/{split}/{'bee' if split == 'train' else 'cow'}/{number}.png")
            put(f"names/{split}/ant/{number}.png")
    names = ("loose", "one", "hidden", "text only", "foreign", "empty", "empty classes", "loop", "names")
    more = ("no folder", "pipe list", "pipe name", "bad image", "tiny", "tiny names", "annotations")
    return [folder / name for name in (*names, *more)]
