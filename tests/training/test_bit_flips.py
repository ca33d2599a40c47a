"""No flipped bit of a stored file changes a number silently: it is refused, recomputed, or without effect."""

from __future__ import annotations

import pytest

from tests.faults.campaign.flips import Finished, files_of, flip, make_finished
from tests.faults.campaign.outcome import REFUSED, SILENT
from tests.fixtures import World


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return make_finished(world, tmp_path_factory.mktemp("finished"))


@pytest.mark.slow
def test_no_flipped_bit_is_silent(finished: Finished) -> None:
    names = {file.name for file in files_of(finished)}
    assert {"SHA256SUMS", "config.yaml", "speed.json", "inputs.json", "metrics.jsonl"} <= names
    assert {"last.ckpt", "model.safetensors", "manifest.json", "image-hashes.safetensors"} <= names
    outcome = flip(finished, per_file=16)
    assert outcome.tried > 250
    assert outcome.counts[SILENT] == 0, outcome.details
    # Only bits of a previous checkpoint, and of the first line of SHA256SUMS, have no effect.
    assert outcome.counts[REFUSED] > 0.8 * outcome.tried


@pytest.mark.slow
def test_a_flip_that_is_not_noticed_is_found(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the hashes of a run's records, flips in them are silent."""
    monkeypatch.setattr("richkd.training.run_folder.check_run_hashes", lambda *_, **__: None)
    monkeypatch.setattr("richkd.reporting.report.run_facts.check_run_hashes", lambda *_, **__: None)
    monkeypatch.setattr("richkd.config.loading.check_hashes", lambda *_, **__: True)
    metrics = [file for file in files_of(finished) if file.name in ("metrics.jsonl", "timing.jsonl")]
    monkeypatch.setattr("tests.faults.campaign.flips.files_of", lambda _: metrics)
    assert flip(finished, per_file=60).counts[SILENT] > 0
