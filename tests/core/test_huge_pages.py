"""Commands start again with huge pages, once, and only where nothing was chosen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from richkd.core import huge_pages
from richkd.core.huge_pages import SETTING, VARIABLE, available, restart_with_huge_pages
from tests.fixtures import one_thread

SHOW = """
import os
from richkd.core.huge_pages import VARIABLE, restart_with_huge_pages
restart_with_huge_pages()
print(os.environ.get(VARIABLE))
"""


def shown(**changes: str) -> str:
    environment = {name: value for name, value in one_thread().items() if name != VARIABLE} | changes
    words = [sys.executable, "-c", SHOW, "distill"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(not available(), reason="needs glibc 2.35 and huge pages by madvise")
def test_a_command_starts_again_with_huge_pages() -> None:
    assert shown() == SETTING


def test_what_the_user_chose_is_kept() -> None:
    assert shown(**{VARIABLE: "glibc.malloc.check=1"}) == "glibc.malloc.check=1"
    assert shown(MALLOC_ARENA_MAX="2") == "None"


@pytest.mark.parametrize(
    ("library", "state", "expected"),
    [
        ("glibc 2.36", "always [madvise] never", True),
        ("glibc 2.34", "always [madvise] never", False),
        ("glibc 2.36", "always madvise [never]", False),
        ("glibc 2.36", "[always] madvise never", False),
        ("musl", "always [madvise] never", False),
        (None, "always [madvise] never", False),
    ],
)
def test_where_huge_pages_are_available(
    library: str | None, state: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "enabled").write_text(state)
    monkeypatch.setattr(huge_pages, "STATE", tmp_path / "enabled")
    monkeypatch.setattr(os, "confstr", lambda name: library)
    assert available() is expected


def test_a_command_that_cannot_start_again_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "LD_PRELOAD"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(huge_pages, "available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["richkd", "distill"])
    tried = []

    def refuse(*arguments: object) -> None:
        tried.append(arguments)
        raise PermissionError

    monkeypatch.setattr(os, "execve", refuse)
    restart_with_huge_pages()
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("available", "tunables", "expected"),
    [
        (True, {VARIABLE: f"glibc.malloc.trim_threshold=1:{SETTING}"}, "in use"),
        (True, {VARIABLE: "glibc.malloc.hugetlb=10"}, "available"),
        (True, {}, "available"),
        (False, {VARIABLE: SETTING}, "not available"),
    ],
)
def test_the_state_is_told(
    monkeypatch: pytest.MonkeyPatch, available: bool, tunables: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(huge_pages, "available", lambda: available)
    monkeypatch.setattr(huge_pages, "STATE", Path("no-such-file"))
    assert huge_pages.state(tunables) == expected


def test_a_kernel_that_gives_huge_pages_to_all_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "enabled").write_text("[always] madvise never")
    monkeypatch.setattr(huge_pages, "STATE", tmp_path / "enabled")
    assert huge_pages.state({}) == "in use"
