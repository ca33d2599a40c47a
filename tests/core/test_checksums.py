"""Changed bits of files are found by hashes, and a killed process leaves no wrong hash."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from richkd.core.checksums import SUMS, check_hashes, forget_hashes, hash_file, record_hashes
from richkd.core.errors import CheckpointError, ModelError
from tests.core.closed import LONG, close
from tests.fixtures import flip_bit, refusal

FILES = {"a.json": b'{"a": 1}', "b.bin": bytes(range(256)), "lines.jsonl": b"1\n2\n3\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    record_hashes(tmp_path, FILES)
    return tmp_path


def check(folder: Path, **options: tuple[str, ...]) -> bool:
    return check_hashes(folder, ("a.json", "b.bin"), ModelError, "copy it.", **options)


def test_a_growing_file_that_a_killed_process_rewrote_has_no_hash_and_is_accepted(tmp_path: Path) -> None:
    """The hash is forgotten, the file replaced, and the new hash written; a kill can come in between."""
    (tmp_path / "lines").write_text("1\n2\n3\n")
    record_hashes(tmp_path, ["lines"])
    forget_hashes(tmp_path, ["lines"])
    (tmp_path / "lines").write_text("1\n2\n")
    assert check_hashes(tmp_path, [], CheckpointError, fix="", growing=["lines"])
    record_hashes(tmp_path, ["lines"])
    (tmp_path / "lines").write_text("1\n")
    with pytest.raises(CheckpointError):
        check_hashes(tmp_path, [], CheckpointError, fix="", growing=["lines"])


def test_the_hash_is_sha256(folder: Path) -> None:
    for name, content in FILES.items():
        assert hash_file(folder / name) == hashlib.sha256(content).hexdigest()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_the_command_sha256sum_reads_and_writes_the_file(folder: Path) -> None:
    def run(command: str) -> int:
        return subprocess.run(command, shell=True, cwd=folder, capture_output=True, check=False).returncode

    assert run(f"sha256sum --strict -c {SUMS}") == 0
    (folder / "a.json").write_bytes(b"{}")
    assert run(f"sha256sum --strict -c {SUMS}") == 1
    refusal(check, folder)
    assert run(f"sha256sum a.json b.bin > {SUMS}") == 0
    assert check(folder)
    flip_bit(folder / "b.bin", 9)
    assert str(folder / "b.bin") in refusal(check, folder).rule


@pytest.mark.parametrize("name", [*FILES, SUMS])
def test_every_flipped_bit_is_found(folder: Path, name: str) -> None:
    path = folder / name
    original = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(original)), min(48, 8 * len(original))):
        flip_bit(path, bit)
        try:
            error = refusal(check_hashes, folder, FILES, ModelError, "copy it.")
            assert isinstance(error, ModelError)
            assert str(path) in error.rule or name == SUMS
            assert error.fix == "copy it."
        except AssertionError:
            # The first line of SHA256SUMS protects the others. Without it, they are still compared.
            assert name == SUMS
            assert bit < 8 * original.index(b"\n") + 8
        path.write_bytes(original)
    assert check(folder)


def test_only_what_was_recorded_is_checked(folder: Path) -> None:
    forget_hashes(folder, ["a.json"])
    (folder / "a.json").write_bytes(b"{}")
    assert check(folder)
    (folder / "b.bin").unlink()
    assert check(folder)
    (folder / SUMS).unlink()
    assert not check(folder)


@pytest.mark.parametrize(
    ("content", "fine"),
    [
        (b"1\n2\n3\n4\n", True),  # killed before the hash was written
        (b"1\n2\n3\n4", True),  # killed in the line
        (b"1\n2\n3\n4\n5\n", False),
        (b"1\n2\n", False),
        (b"1\n9\n3\n", False),
        (b"1\n9\n3\n4\n", False),
        (b"", False),
    ],
)
def test_one_line_may_be_newer_than_the_hash(folder: Path, content: bytes, fine: bool) -> None:
    (folder / "lines.jsonl").write_bytes(content)
    if fine:
        assert check(folder, growing=("lines.jsonl",))
    else:
        assert "lines.jsonl" in refusal(check, folder, growing=("lines.jsonl",)).rule


def test_hashes_that_cannot_be_read_are_refused_before_they_are_replaced(folder: Path) -> None:
    flip_bit(folder / SUMS, 8 * ((folder / SUMS).read_bytes().index(b"\n") + 3))
    for function in (record_hashes, forget_hashes):
        error = refusal(function, folder, ["a.json"])
        assert isinstance(error, CheckpointError)
        assert str(folder / SUMS) in str(error.fix)
    (folder / SUMS).unlink()
    (folder / SUMS).mkdir()
    assert "must be readable" in refusal(check, folder).rule


def test_what_may_not_be_looked_at_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "c.bin").write_bytes(b"c")
    record_hashes(folder, ["inner/c.bin"])
    with monkeypatch.context() as context:
        close(context, folder / "inner")
        for names, growing in ((["inner/c.bin"], []), ([], ["inner/c.bin"])):
            error = refusal(check_hashes, folder, names, ModelError, "copy it.", growing=growing)
            assert isinstance(error, ModelError)
            assert "Permission denied" in str(error.got)
    close(monkeypatch, folder)
    error = refusal(check, folder)
    assert error.rule == f"{folder / SUMS} must be readable"
    assert "Permission denied" in str(error.got)


def test_a_name_that_is_too_long_is_no_traceback(tmp_path: Path) -> None:
    assert "File name too long" in str(refusal(check, tmp_path / LONG).got)
