"""Commands say what they are waiting for: decoding, hashing, evaluating, filling, and steps of epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from richkd.cli import main
from richkd.core import progress, waiting
from richkd.core.waiting import Schedule
from richkd.training.run import distill
from tests.fixtures import World

Capture = pytest.CaptureFixture[str]


class Always(Schedule):
    """A schedule by which every line is due."""

    def due(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _everything_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "Schedule", Always)
    monkeypatch.setattr(progress, "Schedule", Always)
    # The images of the small world are one part otherwise.
    for name in ("data.images.CHUNK", "teachers.predict.BATCH", "evaluate.predictors.BATCH"):
        monkeypatch.setattr(f"richkd.{name}", 5)
    monkeypatch.setattr("richkd.pipeline.fill_cache.BATCH", 5)


def call(capsys: Capture, *words: str) -> tuple[str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    return out, err


def test_a_run(world: World, tmp_path: Path, capsys: Capture) -> None:
    out, err = call(capsys, "distill", *world.options(tmp_path / "run", method__name="kd", train__epochs=2))
    assert "decoding train: 5 of 36 images, " in err
    assert "reading files: 1 of 36 files, " in err
    assert "evaluating cifar_resnet8 on val: 5 of 12 images, " in err
    assert "for val: 5 of 12 images, " in err
    assert "epoch 1/2  step 1/4  " in out
    assert "epoch 2/2  step 3/4  " in out
    assert "step 4/4" not in out


def test_the_library_is_silent(world: World, tmp_path: Path, capsys: Capture) -> None:
    distill(world.config(tmp_path / "run", method__name="kd", train__epochs=1), quiet=True)
    assert capsys.readouterr() == ("", "")


def test_filling_a_cache(world: World, tmp_path: Path, capsys: Capture) -> None:
    changes: dict[str, Any] = {
        "method__name": "kd",
        "train__epochs": 1,
        "cache__dir": str(tmp_path / "cache"),
    }
    out, err = call(capsys, "cache", "fill", *world.options(tmp_path / "run", **changes))
    assert "epoch 1/1  step 2/4  " in out
    assert "for test: 5 of 12 images, " in err
    # With a cache, there are lines about the files already.
    assert "reading files" not in err


def test_evaluate_and_check(world: World, tmp_path: Path, capsys: Capture) -> None:
    _, err = call(capsys, "evaluate", str(world.teacher), "--data", str(world.images))
    assert "evaluating 1 models on test: 5 of 12 images, " in err
    _, err = call(capsys, "check", *world.options(tmp_path / "run", method__name="ce"))
    assert "decoding val: 10 of 12 images, " in err
    _, err = call(capsys, "probe", *world.options(tmp_path / "p", train__epochs=None, method__name=None))
    assert "for val: 10 of 12 images, " in err
