"""The page on reliability names tests and commits that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_named_tests_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_named_commits_exist() -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if "`tests/" in line]
    commits = {commit.strip() for row in rows for commit in row[-2].split(",")}
    assert len(commits) > 20
    known = subprocess.run(
        ["git", "rev-list", "--all"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if len(known) < 100:
        pytest.skip("this copy has no history")
    assert [commit for commit in commits if not any(one.startswith(commit) for one in known)] == []


def test_the_measured_part_has_no_silent_and_no_lost_faults() -> None:
    measured = PAGE.partition("<!-- measured: begin -->")[2].partition("<!-- measured: end -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in measured.splitlines() if "|" in line]
    header, *values = [row for row in rows if not row[0].startswith("---")]
    assert header[:2] == ["fault", "tried"]
    silent, lost = header.index("silent"), header.index("lost")
    assert len(values) > 8
    assert all(row[silent] == row[lost] == "0" for row in values)
