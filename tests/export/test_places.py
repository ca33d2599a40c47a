"""Where the student of a name lies."""

from __future__ import annotations

from pathlib import Path

import pytest

import richkd.export.hub
from richkd.core.errors import ModelError
from richkd.export.places import folder_of, name_of
from tests.fixtures import refusal


def test_home_folders_are_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of("local-dir:~/runs/small") == tmp_path / "runs" / "small"
    assert name_of("local-dir:~/runs/small/student") == "small"


def test_students_on_the_hub_are_fetched_but_not_for_their_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(richkd.export.hub, "fetch_student", lambda name: asked.append(name) or tmp_path)
    assert name_of("hf-hub:jane/leaves@v2") == "leaves"
    assert asked == []
    assert folder_of("hf-hub:jane/leaves@v2") == tmp_path
    assert asked == ["jane/leaves@v2"]


@pytest.mark.parametrize("model", ["", " ", "local-dir:", "hf-hub:"])
def test_an_empty_name_is_not_the_current_folder(model: str) -> None:
    error = refusal(folder_of, model)
    assert isinstance(error, ModelError)
    assert error.got == repr(model)


def test_a_run_that_is_written_with_dots_has_the_name_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small" / "student").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "small" / "student")
    assert [name_of(model) for model in (".", "..", "../student/..", "../student")] == ["small"] * 4
