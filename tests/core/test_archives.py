"""Archives and arrays that state other sizes than they have, or grow without bounds, are refused."""

from __future__ import annotations

import io
import os
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from richkd.core import archives
from richkd.core.archives import check_zip, read_npy, read_npz


def npy(shape: str, descr: str = "'<f4'", content: bytes = b"\0" * 8) -> bytes:
    """A file with one array, whose header may state anything."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@given(arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, min_side=0)), st.booleans())
def test_arrays_are_read_as_by_numpy(array: np.ndarray, compressed: bool) -> None:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, x=array, y=np.array(["ä", ""]))
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"richkd-arrays-{os.getpid()}.npz"
    try:
        path.write_bytes(file.getvalue())
        read = read_npz(path)
    finally:
        path.unlink()
    assert read["x"].dtype == array.dtype
    np.testing.assert_array_equal(read["x"], array)
    assert read["y"].tolist() == ["ä", ""]


HEADERS = [
    (npy("(1000000000000,)"), "8 bytes for float32"),
    (npy("(1000000000000000000000, 1000000000000)"), "bytes for float32"),
    (npy("(3,)"), "8 bytes for float32 of shape (3,)"),
    (npy("(-1,)"), "has the shape (-1,)"),
    (npy("(2.5,)"), "has the shape (2.5,)"),
    (npy("(1000000000000,)", "'|S0'"), "of shape (1000000000000,)"),
    (npy("(1000000000000, 0)"), "of shape (1000000000000, 0)"),
    (npy("(1,)", "'|O'"), "Python objects"),
    (npy("(1,)", "[('a', '|O')]"), "Python objects"),
    (npy("(1,)", "'no-type'"), "is no array"),
    (npy("(" * 500 + ")" * 500), "is no array"),
    (npy("(1,)")[:9], "is no array"),
    (b"\x93NUMPY\x09\x00" + b"\0" * 20, "is no array"),
    (b"", "is no array"),
]


@pytest.mark.parametrize(("content", "words"), HEADERS)
def test_headers_that_state_another_size_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    calls: list[tuple[Callable[[Path], object], Path]] = [
        (read_npy, tmp_path / "a.npy"),
        (read_npz, zipped(tmp_path / "a.npz", {"a.npy": content})),
    ]
    for function, path in calls:
        with pytest.raises(ValueError, match=r"a\.npy") as caught:
            function(path)
        assert words in str(caught.value)


def test_an_archive_that_grows_is_refused_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE", 1 << 20)
    bomb = zipped(tmp_path / "bomb.npz", {"a.npy": npy("(16777216,)", "'|u1'", bytes(1 << 24))})
    tracemalloc.start()
    for function in (check_zip, read_npz):
        with pytest.raises(ValueError, match="more than 100 times as many"):
            function(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    # Without compression, and up to the free size, nothing is refused.
    assert len(read_npz(zipped(tmp_path / "a.npz", {"a.npy": npy("(8,)", "'|u1'")}, zipfile.ZIP_STORED))) == 1
    monkeypatch.undo()
    assert len(read_npz(bomb)["a"]) == 1 << 24


def test_members_that_cannot_be_told_apart_or_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
            archive.writestr("a.npy", npy("(2,)"))
            archive.writestr("a.npy", npy("(1,)"))
    with pytest.raises(ValueError, match=r"two members are called 'a\.npy'"):
        read_npz(tmp_path / "twice.npz")
    with pytest.raises(ValueError, match="two arrays have one name"):
        read_npz(zipped(tmp_path / "ending.npz", {"a.npy": npy("(2,)"), "a": npy("(2,)")}))
    monkeypatch.setattr(archives, "MEMBERS", 1)
    with pytest.raises(ValueError, match="2 members, more than 1"):
        check_zip(zipped(tmp_path / "many.npz", {"a.npy": b"", "b.npy": b""}))


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "a.npz", {"a.npy": npy("(2,)", content=os.urandom(8))}).read_bytes()
    for number, content in enumerate((b"", b"PK", whole[:40], whole.replace(b"NUMPY", b"NUMPX"))):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        if number < 3:
            with pytest.raises(ValueError, match="zip"):
                read_npz(path)
    for place in range(0, len(whole), 3):
        (tmp_path / "b.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read_npz(tmp_path / "b.npz")
        except (OSError, ValueError):
            continue
