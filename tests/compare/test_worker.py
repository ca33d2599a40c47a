"""A run of a queue: what another process does to it in the meantime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from richkd.compare.worker import Job, finish_run
from richkd.config.schema import Config
from richkd.core.errors import CheckpointError


def test_a_run_that_another_process_finished_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(data={"path": "photos"}, student={"name": "resnet18"}, out=tmp_path / "run")

    def finished_by_another(config: Config, **settings: Any) -> None:
        # It wrote its summary and removed its checkpoints before this process could lock the run.
        config.out.mkdir()
        (config.out / "summary.json").write_text(json.dumps({"epochs": config.train.epochs}))
        raise CheckpointError("There is no checkpoint to resume from", fix="start a new run.")

    monkeypatch.setattr("richkd.training.run.distill", finished_by_another)
    finish_run(Job("run", config, None, tmp_path / "log"))


def test_another_error_of_a_run_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(data={"path": "photos"}, student={"name": "resnet18"}, out=tmp_path / "run")

    def failing(config: Config, **settings: Any) -> None:
        raise CheckpointError("There is no checkpoint to resume from", fix="start a new run.")

    monkeypatch.setattr("richkd.training.run.distill", failing)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        finish_run(Job("run", config, None, tmp_path / "log"))
