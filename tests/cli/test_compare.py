"""``richkd compare`` as a command: exit status, messages, and a teacher cache that runs share."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from richkd.cli import main
from tests.compare.plans import content, run, write
from tests.fixtures import World


@pytest.mark.slow
def test_the_command_checks_runs_and_reports_failures(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = content(world)["base"]
    del base["clip"]
    methods = {"kd": None, "wild": {"method": "kd", "optim.lr": 1e30}}
    path = write(tmp_path, content(world, base=base, methods=methods, seeds=[0]))
    with contextlib.suppress(SystemExit):
        main(["compare", str(path), "--check"])
    text = capsys.readouterr().out
    assert "checked: 2 runs" in text
    assert "budget: 1 epoch of 36 images in batches of 8: kd, wild" in text
    words = ["compare", str(path), "--out", str(tmp_path / "out"), "--jobs", "1"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    text = capsys.readouterr().out
    assert "[1/2] kd-e1-s0: test top-1" in text
    assert "no result: wild, seed 0 (1 epoch): " in text
    assert (tmp_path / "out" / "compare.html").exists()


@pytest.mark.parametrize("words", [["--jobs", "0"], ["--jobs", "1.5"], ["--out", ""], ["--jobz", "1"]])
def test_wrong_options_are_refused(world: World, tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(write(tmp_path, content(world))), *words])
    assert ended.value.code in (1, 2)


@pytest.mark.slow
def test_a_shared_cache_changes_no_figure(world: World, tmp_path: Path) -> None:
    for name, changes in (("plain", {}), ("cached", {"cache": str(tmp_path / "cache")})):
        (tmp_path / name).mkdir()
        run(write(tmp_path / name, content(world, seeds=[0], **changes)), tmp_path / name / "out")
    plain, cached = (
        json.loads((tmp_path / name / "out" / "compare.json").read_text()) for name in ("plain", "cached")
    )
    assert plain == cached
    assert list((tmp_path / "cache").iterdir())
