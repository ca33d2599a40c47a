"""Home folders are found, and those of unknown users end in no traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from richkd.cli import main
from richkd.core.home import expanded
from tests.fixtures import World

SOURCE = Path(__file__).parents[2] / "src"


def test_only_the_home_folder_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jane")
    for given, expected in (
        ("~/photos", "/home/jane/photos"),
        (Path("~"), "/home/jane"),
        ("~no-such-user/photos", "~no-such-user/photos"),
        ("photos/~", "photos/~"),
    ):
        assert expanded(given) == Path(expected)


def test_no_module_uses_the_method_that_raises_for_unknown_users() -> None:
    method = re.compile(r"(?<!os\.path)\.expanduser\(")
    assert [file for file in SOURCE.rglob("*.py") if method.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"cache__dir": "~no-such-user/cache"},
        {"student__weights": "~no-such-user/weights.pth"},
        {"teachers__1__name": "local-dir:~no-such-user/teacher"},
        {"clip__prompts": "~no-such-user/prompts.txt"},
    ],
)
def test_a_run_with_a_path_of_an_unknown_user_ends_in_words(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["check", *world.options(tmp_path / "run", train__epochs=1, **changes)])
    output = capsys.readouterr()
    assert "Traceback" not in output.out + output.err
