"""PyTorch files: data beside the weights are left out, and classes that can run code are named."""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import pathlib
import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from richkd.core import archives
from richkd.models.pickled import Omitted, read_pickled
from richkd.models.weights import load_weights
from tests.fixtures import refusal


class Foreign:
    """A class of a training script."""


class Shell:
    """Its pickle runs a command."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


class OfWindows:
    """Pickled as a path of Windows is."""

    def __reduce__(self) -> Any:
        return pathlib.PureWindowsPath, ("C:", "runs")


EXTRAS = {
    "args": argparse.Namespace(lr=0.1, out=Path("runs"), nested=argparse.Namespace(a=[1])),
    "path": Path("runs"),
    "windows": OfWindows(),
    "space": types.SimpleNamespace(a=1),
    "time": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    "delta": datetime.timedelta(1),
    "best": np.float64(0.5),
    "half": np.float16(0.5),
    "count": np.int64(3),
    "flag": np.bool_(True),
    "text": np.str_("a"),
    "type": np.dtype("float32"),
    "kind": np.float32,
    "array": np.arange(6).reshape(2, 3),
    "names": np.array(["ant", "bee"]),
    "objects": np.array([{"a": 1}, None], dtype=object),
    "figures": collections.defaultdict(list, {"loss": [1.0]}),
    "nested": collections.defaultdict(dict),
    "ordered": collections.OrderedDict(a=1),
    "counter": collections.Counter("aab"),
    "set": {1, 2},
    "frozen": frozenset({1}),
    "range": range(3),
    "slice": slice(1),
    "complex": 1j,
    "bytes": b"a",
    "version": torch.__version__,
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", EXTRAS)
def test_data_beside_the_weights_are_left_out(tmp_path: Path, name: str, legacy: bool) -> None:
    trained, model = nn.Linear(2, 3), nn.Linear(2, 3)
    content = {"model": trained.state_dict(), name: EXTRAS[name]}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    load_weights(model, tmp_path / "a.pth", role="teacher")
    assert torch.equal(model.weight, trained.weight)


def test_a_default_dictionary_can_hold_the_weights(tmp_path: Path) -> None:
    state = collections.defaultdict(list, nn.Linear(2, 3).state_dict())
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    assert load_weights(nn.Linear(2, 3), tmp_path / "a.pth", role="teacher").kept == 2


def test_paths_of_another_system_and_version_are_read_as_data(tmp_path: Path) -> None:
    torch.save({"path": Path("runs"), "w": torch.ones(1)}, tmp_path / "a.pth")
    for name in (b"pathlib\nWindowsPath", b"pathlib._local\nPosixPath"):
        with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
            for member in old.namelist():
                new.writestr(member, old.read(member).replace(b"pathlib\nPosixPath", name))
        read = read_pickled(tmp_path / "b.pth")
        assert isinstance(read["path"], Omitted)
        assert read["w"].tolist() == [1.0]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_other_classes_are_named_and_nothing_runs(tmp_path: Path, legacy: bool) -> None:
    for content, name in (
        ({"w": torch.ones(1), "x": Foreign()}, "tests.models.test_pickled.Foreign"),
        (nn.Linear(2, 3), "torch.nn.modules.linear.Linear"),
        ({"w": torch.ones(1), "x": print}, "print"),
        ({"w": torch.ones(1), "x": Shell(tmp_path / "ran")}, "posix"),
    ):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
        error = refusal(load_weights, nn.Linear(2, 3), tmp_path / "a.pth", role="teacher")
        assert name in str(error.got)
        assert "state_dict" in str(error.fix)
    assert not (tmp_path / "ran").exists()


def test_damaged_and_growing_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(1 << 20)}, path)
    whole = path.read_bytes()
    for content in (b"", b"\x80", b"PK\x03\x04", whole[:100], whole[: len(whole) // 2], pickle.dumps([1])):
        path.write_bytes(content)
        assert "a.pth" in str(refusal(load_weights, nn.Linear(2, 3), path, role="teacher"))
    path.write_bytes(whole)
    monkeypatch.setattr(archives, "FREE", 1 << 20)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    assert "more than 100 times" in str(refusal(read_pickled, tmp_path / "b.pth").got)
    assert len(read_pickled(path)["w"]) == 1 << 20


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for name, got in (("pipe.pth", "a pipe"), ("gone.pth", "no such file"), ("", "a folder")):
        assert refusal(load_weights, nn.Linear(2, 3), tmp_path / name, role="teacher").got == got


def test_a_file_that_contains_itself_ends_in_words(tmp_path: Path) -> None:
    cyclic: dict[str, Any] = {}
    cyclic["model"] = cyclic
    torch.save(cyclic, tmp_path / "a.pth")
    assert "state dict" in refusal(load_weights, nn.Linear(2, 3), tmp_path / "a.pth", role="teacher").rule
