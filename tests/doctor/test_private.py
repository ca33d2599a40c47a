"""No home folder and no user name is in a report."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from richkd.doctor.private import without_person

HOME = Path("/home/ada")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/ada", "~"),
        ("/home/ada/.cache/hub", "~/.cache/hub"),
        ("No such file: /home/ada.", "No such file: ~."),
        ("file:///home/ada/x", "file://~/x"),
        ("/home/ada/a:/home/ada/b", "~/a:~/b"),
        ("/home/adam/x", "/home/adam/x"),
        ("/mnt/home/ada/x", "/mnt/home/USER/x"),
        ("/scratch/ada/x", "/scratch/USER/x"),
        ("C:\\Users\\ada\\x", "C:\\Users\\USER\\x"),
        ("~ada/x", "~USER/x"),
        ("adaptive/x", "adaptive/x"),
        ("ada", "ada"),
    ],
)
def test_paths_of_the_user(text: str, shown: str) -> None:
    assert without_person(text, HOME, ["ada"]) == shown


def test_keys_lists_and_numbers() -> None:
    value = {"/home/ada/x": [1, None, True, ("/home/ada",)]}
    assert without_person(value, HOME, ["ada"]) == {"~/x": [1, None, True, ["~"]]}


def test_the_users_own_names_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = tmp_path / "disk" / "grace"
    real.mkdir(parents=True)
    (tmp_path / "home").symlink_to(real)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USER", "grace")
    assert without_person([str(real / "x"), str(tmp_path / "home" / "y")]) == ["~/x", "~/y"]
    assert without_person("/scratch/grace/z") == "/scratch/USER/z"
    # The root folder is in front of every path, and is nobody's.
    monkeypatch.setenv("HOME", "/")
    assert without_person("/usr/bin/g++") == "/usr/bin/g++"


@given(st.lists(st.sampled_from(["/home/ada", "/", "ada", "x", " ", "\\", ":", "."]), max_size=8))
def test_no_folder_of_the_user_is_left(parts: list[str]) -> None:
    shown = without_person("".join(parts), HOME, ["ada"])
    assert "/ada/" not in shown
    assert not shown.endswith("/ada")
