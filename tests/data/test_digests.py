"""Digests of images: what changes them, and what does not."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from richkd.config.schema import DataConfig
from richkd.core.errors import DataError
from richkd.data import contents
from richkd.data.contents import Contents
from richkd.data.digests import are_hashed, changed_images, digests_of
from richkd.data.sources import open_data
from richkd.data.split import Split
from richkd.data.stamps import Stamps
from tests.fixtures import make_images, refusal


def opened(root: Path) -> Split:
    return open_data(DataConfig(path=str(root))).splits["train"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    make_images(tmp_path / "images")
    return tmp_path / "images"


@pytest.mark.parametrize("hashed", [True, False])
def test_digests_do_not_depend_on_where_the_images_are(images: Path, tmp_path: Path, hashed: bool) -> None:
    before = digests_of(opened(images), hashed=hashed)
    if hashed:
        assert len(set(before.tolist())) == len(before)
    shutil.copytree(images, tmp_path / "copy")  # keeps the times
    assert (digests_of(opened(tmp_path / "copy"), hashed=hashed) == before).all()


@pytest.mark.parametrize("hashed", [True, False])
def test_a_changed_file_is_found_by_name(images: Path, hashed: bool) -> None:
    split = opened(images)
    before = digests_of(split, hashed=hashed)
    file = images / split.key(7)
    file.write_bytes(file.read_bytes() + b"\0")
    text = changed_images(split, before, digests_of(split, hashed=hashed))
    assert text is not None
    assert text.endswith(f"of {len(split)} images of train: {split.key(7)}")
    assert text.startswith("1 of")


def test_contents_are_compared_even_if_size_and_time_are_the_same(images: Path) -> None:
    split = opened(images)
    file = images / split.key(7)
    status, content = file.stat(), bytearray(file.read_bytes())
    before = {hashed: digests_of(split, hashed=hashed) for hashed in (True, False)}
    content[-20] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed_images(split, before[True], digests_of(split, hashed=True)) is not None
    assert changed_images(split, before[False], digests_of(split, hashed=False)) is None


def test_files_that_a_teacher_cache_knows_are_not_read_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "STEP_NS", 0)
    split = opened(images)
    Stamps().fingerprint(split, "8", Contents(tmp_path / "cache"))
    lines: list[str] = []
    known = Contents(tmp_path / "cache", lines.append)
    assert (digests_of(split, hashed=True, contents=known) == digests_of(split, hashed=True)).all()
    assert not lines


def test_a_digest_is_the_start_of_a_sha256(images: Path) -> None:
    split = opened(images)
    expected = [hashlib.sha256((images / split.key(n)).read_bytes()).digest()[:8] for n in range(len(split))]
    assert digests_of(split, hashed=True).tobytes() == b"".join(expected)


def test_only_few_bytes_are_hashed(images: Path) -> None:
    split = opened(images)
    total = sum(file.stat().st_size for file in (images / "train").rglob("*.png"))
    assert are_hashed([split, split], most=2 * total)
    assert not are_hashed([split, split], most=total)


def test_new_images_are_named_and_removed_ones_are_counted(images: Path) -> None:
    split = opened(images)
    before = digests_of(split, hashed=True)
    shutil.copy(images / "test" / "ant" / "0.png", images / "train" / "ant" / "new.png")
    more = opened(images)
    text = changed_images(more, before, digests_of(more, hashed=True))
    assert f"{len(more)} images of train where the run has {len(split)}" in str(text)


def test_a_missing_file_is_refused_by_name(images: Path) -> None:
    split = opened(images)
    (images / split.key(7)).unlink()
    for hashed in (True, False):
        error = refusal(digests_of, split, hashed=hashed)
        assert isinstance(error, DataError)
        assert split.key(7) in error.rule
