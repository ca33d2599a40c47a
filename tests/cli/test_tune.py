"""``richkd tune`` as a command: exit status, messages and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.cli import main
from richkd.config.loading import load_config
from tests.fixtures import World
from tests.tune.plans import content, write


@pytest.mark.slow
def test_the_command_writes_recipes_and_says_what_was_gained(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = {"kd": None, "wild": {"method": "kd", "optim.lr": 1e30}}
    space = {"objective.kd.temperature": [1, 4]}
    base = content(world)["base"]
    del base["clip"]
    plan = content(world, base=base, methods=methods, space=space, budget={"epochs": 5}, epochs=2)
    path = write(tmp_path, plan)
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(path), "--check"])
    assert not ended.value.code
    assert "kd: objective.kd.temperature" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    text = capsys.readouterr().out
    assert "val top-1" in text
    assert "no recipe: wild" in text
    assert load_config(tmp_path / "out" / "kd.yaml").method.name == "kd"
    assert not (tmp_path / "out" / "wild.yaml").exists()
    page = (tmp_path / "out" / "tune.html").read_text()
    assert "What each choice was worth" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "# Search plan.yaml" in (tmp_path / "out" / "tune.md").read_text()


@pytest.mark.parametrize("words", [["--jobs", "0"], ["--jobs", "1.5"], ["--out", ""], ["--jobz", "1"]])
def test_wrong_options_are_refused(world: World, tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(write(tmp_path, content(world))), *words])
    assert ended.value.code in (1, 2)
