"""Run folders: what is refused, what is kept, and what is forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from richkd.config.loading import load_config
from richkd.config.schema import Config
from richkd.core.checksums import SUMS
from richkd.core.errors import CheckpointError, ConfigError
from richkd.training import run_folder as module
from richkd.training.environment import environment
from richkd.training.run_folder import RunFolder, read_lines
from tests.fixtures import refusal


def config(**changes: object) -> Config:
    return load_config(None, {"data.path": "photos", "student.name": "resnet18", **changes})


def prepare(folder: RunFolder, config: Config, *, resume: bool, overwrite: bool) -> None:
    folder.accept(config, resume=resume, overwrite=overwrite)
    folder.create(config, overwrite=overwrite)


def used(path: Path) -> RunFolder:
    """A folder as a run leaves it, in short."""
    folder = RunFolder(path)
    prepare(folder, config(), resume=False, overwrite=False)
    folder.last.write_bytes(b"weights")
    (path / "checkpoints" / "best.previous.ckpt").write_bytes(b"weights")
    folder.append(folder.metrics, {"epoch": 0})
    folder.student.mkdir()
    (folder.student / "config.json").write_text("{}")
    (path / "events" / "1234.5").mkdir(parents=True)
    (path / "events" / "1234.5" / "events.out.tfevents.1.host").write_bytes(b"curves")
    return folder


def test_a_new_folder_says_what_is_run_and_on_what(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    prepare(folder, config(), resume=False, overwrite=False)
    assert load_config(folder.path / "config.yaml") == config()
    saved = json.loads((folder.path / "environment.json").read_text())
    assert saved == environment()
    assert saved["packages"]["torch"][0].isdigit()
    assert saved["cores"] >= 1


def test_an_occupied_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    error = refusal(RunFolder(tmp_path).accept, config(), resume=False, overwrite=False)
    assert isinstance(error, CheckpointError)
    assert str(tmp_path) in error.rule
    assert "thesis.tex" in str(error.got)
    assert "--resume" in str(error.fix)
    assert "--overwrite" in str(error.fix)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    prepare(RunFolder(tmp_path), config(), resume=False, overwrite=False)
    assert (tmp_path / "config.yaml").exists()


def test_nothing_to_resume(tmp_path: Path) -> None:
    error = refusal(RunFolder(tmp_path).accept, config(), resume=True, overwrite=False)
    assert "no checkpoint" in error.rule
    assert "without --resume" in str(error.fix)


def test_resume_with_overwrite_is_refused_before_anything_is_lost(tmp_path: Path) -> None:
    folder = used(tmp_path / "run")
    error = refusal(folder.accept, config(), resume=True, overwrite=True)
    assert isinstance(error, ConfigError)
    assert folder.last.read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"optim.lr": 0.25}, "optim.lr 0.25 where the run has 0.05"),
        # A setting that was unset is no line of the saved file.
        ({"train.ema_decay": 0.5}, "train.ema_decay 0.5 where the run has None"),
        ({"student.name": "resnet34", "train.seed": 1}, "student.name resnet34 where the run has resnet18"),
    ],
)
def test_resuming_with_other_settings_names_them(
    tmp_path: Path, changes: dict[str, object], difference: str
) -> None:
    folder = used(tmp_path / "run")
    saved = (folder.path / "config.yaml").read_bytes()
    error = refusal(folder.accept, config(**changes), resume=True, overwrite=False)
    assert isinstance(error, CheckpointError)
    assert difference in str(error.got)
    assert all(name in str(error.got) for name in changes)
    assert "config.yaml" in str(error.fix)
    assert (folder.path / "config.yaml").read_bytes() == saved
    prepare(folder, config(), resume=True, overwrite=False)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"a: [1"])
def test_resuming_without_readable_settings_is_refused(tmp_path: Path, content: bytes | None) -> None:
    folder = used(tmp_path / "run")
    (folder.path / "config.yaml").unlink()
    if content is not None:
        (folder.path / "config.yaml").write_bytes(content)
    error = refusal(folder.accept, config(), resume=True, overwrite=False)
    assert isinstance(error, CheckpointError)
    assert "config.yaml" in error.rule


def test_overwrite_removes_the_run_and_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    folder = used(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "photo.png").write_bytes(b"mine")
    kept = [folder.path / name for name in ("notes.md", "student/NOTES.md", "checkpoints/other-project.ckpt")]
    for file in kept:
        file.write_text("mine")
    (folder.path / "events" / "link").symlink_to(tmp_path / "elsewhere")
    prepare(folder, config(**{"train.seed": 1}), resume=False, overwrite=True)
    left = {file for file in folder.path.rglob("*") if file.is_file()}
    written = {
        folder.path / name for name in ("config.yaml", "environment.json", "inputs.json", "speed.json", SUMS)
    }
    assert left == {*kept, *written}
    assert (folder.path / "events" / "link" / "photo.png").read_bytes() == b"mine"
    assert load_config(folder.path / "config.yaml").train.seed == 1


def test_out_that_is_a_file_or_lies_under_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        error = refusal(RunFolder(path).accept, config(), resume=False, overwrite=False)
        assert isinstance(error, CheckpointError)
        assert str(path) in error.rule
        assert "another --out" in str(error.fix)
    assert (tmp_path / "file").read_text() == "mine"


def test_lines_of_epochs_that_run_again_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for epoch in range(4):
        folder.append(folder.metrics, {"epoch": epoch, "train/ce": 0.1 + epoch / 3})
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    with folder.metrics.open("ab") as file:
        file.write(b'{"epoch": 4, "trai')
    assert [record["epoch"] for record in read_lines(folder.metrics)] == [0, 1, 2, 3]
    folder.forget_after(1)
    assert folder.metrics.read_bytes() == b"".join(lines[:2])


def test_a_line_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.mkdir()
    error = refusal(folder.append, folder.metrics, {"epoch": 0})
    assert isinstance(error, CheckpointError)
    assert f"{folder.metrics} could not be written (13 bytes)" in error.rule


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "inputs.json", "speed.json"])
def test_an_edited_record_is_refused_by_a_resumed_run(tmp_path: Path, name: str) -> None:
    folder = used(tmp_path / "run")
    folder.accept(config(), resume=True, overwrite=False)
    (folder.path / name).write_bytes((folder.path / name).read_bytes() + b" ")
    error = refusal(folder.accept, config(), resume=True, overwrite=False)
    assert isinstance(error, CheckpointError)
    assert str(folder.path / name) in error.rule
    assert f"remove {folder.path / SUMS}" in str(error.fix)
    (folder.path / SUMS).unlink()
    folder.accept(config(), resume=True, overwrite=False)


def test_the_settings_of_a_run_are_a_recipe_as_they_are(tmp_path: Path) -> None:
    path = used(tmp_path / "run").path / "config.yaml"
    assert load_config(path) == config()
    path.write_text(path.read_text().replace("0.05", "0.06"))
    error = refusal(load_config, path)
    assert isinstance(error, ConfigError)
    assert "copy" in str(error.fix)
    copied = tmp_path / "copied.yaml"
    copied.write_bytes(path.read_bytes())
    assert load_config(copied).optim.lr == 0.06


def test_a_line_of_an_epoch_is_refused_after_a_change(tmp_path: Path) -> None:
    folder = used(tmp_path / "run")
    for epoch in (1, 2):
        folder.append(folder.metrics, {"epoch": epoch, "train/ce": 0.5})
    text = folder.metrics.read_text()
    # A process was killed before it wrote the hash of the last line.
    folder.metrics.write_text(text + '{"epoch": 3, "train/ce": 0.5}\n')
    folder.accept(config(), resume=True, overwrite=False)
    folder.metrics.write_text(text.replace("0.5", "0.4", 1))
    assert "metrics.jsonl" in refusal(folder.accept, config(), resume=True, overwrite=False).rule


def test_a_changed_summary_is_refused(tmp_path: Path) -> None:
    folder = used(tmp_path / "run")
    folder.write_json("summary.json", {"temperature": 1.5})
    assert folder.summary() == {"temperature": 1.5}
    (folder.path / "summary.json").write_text('{"temperature": 1.25}')
    assert isinstance(refusal(folder.summary), CheckpointError)


def test_a_killed_process_leaves_no_wrong_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = used(tmp_path / "run")
    folder.write_json("summary.json", {"temperature": 1.5})

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "record_hashes", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.write_json("summary.json", {"temperature": 1.25})
    with pytest.raises(KeyboardInterrupt):
        folder.append(folder.metrics, {"epoch": 1})
    assert folder.summary() == {"temperature": 1.25}
    folder.accept(config(), resume=True, overwrite=False)
