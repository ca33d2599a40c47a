"""Parquet files that ask for much more memory than they have bytes, or that are damaged."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from richkd.core.errors import DataError
from richkd.data.formats import parquet
from richkd.data.formats.parquet import open_parquet
from tests.fixtures import refusal

LARGE = 1 << 16


def write(file: Path, cells: list[bytes], **options: object) -> Path:
    table = pyarrow.table({"image": cells, "label": [row % 2 for row in range(len(cells))]})
    pyarrow.parquet.write_table(table, file, **options)
    return file


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        ([bytes(LARGE)] * 500, {"use_dictionary": True}),
        ([bytes(LARGE)] * 500, {"use_dictionary": False, "compression": "zstd"}),
        (
            [bytes([row]) + bytes(1 << 22) for row in range(8)],
            {"use_dictionary": False, "compression": "gzip"},
        ),
    ],
    ids=["dictionary", "zstd", "gzip"],
)
def test_cells_that_grow_are_refused(
    tmp_path: Path, cells: list[bytes], options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "zoo.parquet", cells, **options)
    assert len(open_parquet([file])) == len(cells)
    monkeypatch.setattr(parquet, "FREE", 1 << 20)
    error = refusal(open_parquet, [file])
    assert "column 'image' grows to more than" in str(error.got)
    assert "zoo.parquet" in error.rule


def test_images_that_repeat_a_little_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "FREE", 1 << 10)
    cells = [bytes([number]) * 1000 for number in (1, 2, 3)] * 20
    file = write(tmp_path / "zoo.parquet", cells, compression="none")
    assert open_parquet([file])["image"][:] == cells


def test_damage_at_any_place_is_refused_or_harmless(tmp_path: Path) -> None:
    whole = write(tmp_path / "zoo.parquet", [b"a" * 20, b"b" * 20] * 10).read_bytes()
    for place in range(0, len(whole), 61):
        content = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        (tmp_path / "zoo.parquet").write_bytes(content)
        try:
            open_parquet([tmp_path / "zoo.parquet"])
        except DataError:
            continue


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"info": 1}', '{"info": {"features": {"label": {"_type": "X"}}}}']
)
def test_metadata_of_features_may_be_anything(tmp_path: Path, text: str) -> None:
    table = pyarrow.table({"image": [b"a"], "label": [0]}).replace_schema_metadata({"huggingface": text})
    pyarrow.parquet.write_table(table, tmp_path / "zoo.parquet")
    with contextlib.suppress(DataError):
        open_parquet([tmp_path / "zoo.parquet"])
