"""Checkpoints are whole or not there: round trips, flipped bits, full disks and kills at any moment."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from richkd.core.checkpoint_file import Checkpoint
from richkd.core.errors import CheckpointError
from richkd.core.files import write_atomically
from richkd.training.checkpoint import (
    load_checkpoint,
    load_module,
    save_checkpoint,
)
from tests.fixtures import refusal


class Killed(BaseException):
    """The process ends here; no handler for ordinary errors runs."""


def sample(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "task.weight": torch.randn(3, 4, generator=generator),
        "task.half": torch.randn(5, generator=generator).bfloat16(),
        "task.count": torch.tensor(step),
        "task.mask": torch.tensor([True, False]),
        "taskless.weight": torch.empty(0, 2),
    }
    return Checkpoint(tensors, {"step": step, "best": 0.1 + 0.2, "terms": ["b", "a"]})


def assert_equal(a: Checkpoint, b: Checkpoint) -> None:
    assert a.scalars == b.scalars
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert tensor.dtype == b.tensors[name].dtype
        assert torch.equal(tensor, b.tensors[name])


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    save_checkpoint(path, sample(1))
    loaded, warning = load_checkpoint(path)
    assert warning is None
    assert_equal(loaded, sample(1))
    assert set(loaded.part("task")) == {"weight", "half", "count", "mask"}
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]


def test_shared_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    tensors = {"a": base, "b": base.T, "c": torch.randn(1, 2, 3, 3).to(memory_format=torch.channels_last)}
    save_checkpoint(tmp_path / "last.ckpt", Checkpoint(tensors, {}))
    assert_equal(load_checkpoint(tmp_path / "last.ckpt")[0], Checkpoint(tensors, {}))


def test_the_one_before_is_kept_as_previous(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "last.ckpt", sample(step))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["last.ckpt", "last.previous.ckpt"]
    assert_equal(load_checkpoint(tmp_path / "last.ckpt")[0], sample(3))
    assert_equal(load_checkpoint(tmp_path / "last.previous.ckpt")[0], sample(2))


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, sample(1))
    save_checkpoint(path, sample(2))
    whole = path.read_bytes()
    # 300 places: both ends, and anywhere between them.
    places = [0, 1, 8 * len(whole) - 1, *random.Random(0).sample(range(8 * len(whole)), 297)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        loaded, warning = load_checkpoint(path)
        assert loaded.scalars["step"] == 1, place
        assert warning is not None
        assert "last.ckpt: damaged" in warning
        assert "last.previous.ckpt" in warning


@pytest.mark.parametrize("content", [b"", b"richkd-checkpoint-1 ", b"\0" * 500])
def test_a_cut_or_emptied_file_is_found(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, sample(1))
    save_checkpoint(path, sample(2))
    path.write_bytes(content)
    loaded, warning = load_checkpoint(path)
    assert_equal(loaded, sample(1))
    assert warning is not None


def test_nothing_to_fall_back_to_names_both_files(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, sample(1))
    path.write_bytes(b"x")
    error = refusal(load_checkpoint, path)
    assert isinstance(error, CheckpointError)
    for words in (str(path), "last.ckpt: damaged", "last.previous.ckpt", "--overwrite"):
        assert words in str(error)


def full_disk(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("owner", "name"), [(os, "fsync"), (Path, "replace"), (Path, "open"), (os, "link"), (os, "open")]
)
def test_a_failing_write_keeps_the_old_one_and_says_what_was_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, sample(1))
    size = path.stat().st_size
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full_disk)
        error = refusal(save_checkpoint, path, sample(2))
    assert isinstance(error, CheckpointError)
    named = tmp_path / ("last.previous.ckpt" if name == "link" else "last.ckpt")
    assert str(named) in error.rule
    written = int(error.rule.split("(")[1].split(" ")[0].replace(",", ""))
    assert abs(written - size) < 200
    assert "No space left" in str(error.got)
    assert "--resume" in str(error.fix)
    loaded, warning = load_checkpoint(path)
    # The folder is flushed last, when the new file is in its place already.
    assert loaded.scalars["step"] == (2 if name == "open" and owner is os else 1)
    assert warning is None
    assert not list(tmp_path.glob(".*"))
    save_checkpoint(path, sample(3))
    assert load_checkpoint(path)[0].scalars["step"] == 3


def test_a_file_cut_short_by_a_full_disk_is_never_moved_into_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    write_atomically(path, b"old")
    fsync = os.fsync

    def fill(descriptor: int) -> None:
        os.ftruncate(descriptor, 1)
        fsync(descriptor)
        full_disk()

    monkeypatch.setattr(os, "fsync", fill)
    assert f"{path} could not be written (7 bytes)" in str(refusal(write_atomically, path, b"the new"))
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


MOMENTS: list[tuple[Any, str]] = [(Path, "unlink"), (os, "link"), (os, "fsync"), (Path, "replace")]


@pytest.mark.parametrize(("owner", "name"), MOMENTS)
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "damaged"])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, done: bool, damaged: bool
) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, sample(1))
    save_checkpoint(path, sample(2))
    if damaged:
        # The run went on from the previous one; its next save must not lose that.
        path.write_bytes(b"damaged")
        assert load_checkpoint(path)[0].scalars["step"] == 1
    original: Callable[..., Any] = getattr(owner, name)

    def kill(*args: Any, **kwargs: Any) -> Any:
        if done:
            original(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, kill)
        with pytest.raises(Killed):
            save_checkpoint(path, sample(3))
    loaded, warning = load_checkpoint(path)
    assert loaded.scalars["step"] == (3 if done and name == "replace" else 1 if damaged else 2)
    assert warning is None
    save_checkpoint(path, sample(4))
    assert load_checkpoint(path)[0].scalars["step"] == 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["last.ckpt", "last.previous.ckpt"]


def test_another_models_tensors_are_refused() -> None:
    error = refusal(load_module, nn.Linear(2, 3), nn.Linear(2, 4).state_dict(), what="student")
    assert isinstance(error, CheckpointError)
    assert "another student" in error.rule
    assert "shape" in str(error.got)


def test_a_file_system_without_hard_links_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, sample(1))
    save_checkpoint(path, sample(2))
    assert load_checkpoint(path)[0].scalars["step"] == 2
    assert load_checkpoint(tmp_path / "last.previous.ckpt")[0].scalars["step"] == 1
