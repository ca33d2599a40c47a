"""Looking for a path never fails, and says why nothing can be seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from richkd.core.presence import exists, folder_name, is_dir, is_file, nearest_existing, resolved, stat_error
from tests.core.closed import LONG, close


def test_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert (exists(file), is_file(file), is_dir(file)) == (True, True, False)
    assert (exists(tmp_path), is_file(tmp_path), is_dir(tmp_path)) == (True, False, True)
    for nothing in (tmp_path / "none", file / "below", tmp_path / "a\0b"):
        assert (exists(nothing), is_file(nothing), is_dir(nothing)) == (False, False, False)
        assert stat_error(nothing) is None
    assert stat_error(file) is stat_error(tmp_path) is None


def test_what_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to("loop")
    hidden = tmp_path / "closed" / "file"
    hidden.parent.mkdir()
    hidden.write_text("")
    close(monkeypatch, hidden.parent)
    reasons = {LONG: "File name too long", "loop": "Too many levels of symbolic links"}
    for path, reason in {**reasons, str(hidden): "Permission denied"}.items():
        place = tmp_path / path
        assert (exists(place), is_file(place), is_dir(place)) == (False, False, False)
        assert stat_error(place) == reason


def test_a_folder_that_cannot_be_looked_at_has_a_nearest_parent(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in (LONG, f"{LONG}/run", "loop/run", "run", ""):
        expected = tmp_path / "loop" if path == "loop" else tmp_path
        assert nearest_existing(tmp_path / path) == expected.resolve()


def test_links_are_followed_but_not_round_a_loop(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "photos").symlink_to("here")
    assert resolved(tmp_path / "photos" / ".." / "photos") == tmp_path.resolve() / "here"
    assert resolved(tmp_path / "loop") == tmp_path.resolve() / "loop"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_real_folder_without_permission(tmp_path: Path) -> None:
    """As `close` says that the system behaves."""
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "file").write_text("")
    folder.chmod(0)
    os.seteuid(65534)
    try:
        result = exists(folder / "file"), stat_error(folder / "file")
    finally:
        os.seteuid(0)
    assert result == (False, "Permission denied")


def test_names_of_folders_that_are_written_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos")
    for path in (".", "", "train/..", "../photos", "../photos/", tmp_path / "photos"):
        assert folder_name(path) == "photos"
