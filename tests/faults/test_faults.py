"""No hostile file and no mistake ends in a stack trace, in a hang, or in silence."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.faults import running
from tests.faults.clumsy import clumsy_inputs
from tests.faults.hostile import hostile_files, may_succeed
from tests.faults.running import fault, run
from tests.fixtures import command, one_thread

# Commands for these files end before images are decoded or networks are built.
FAST = (
    "images",
    "outputs",
    "recipes",
    "lists",
    "names",
    "parquet",
    "tar",
    "folders",
    "students",
    "runs",
    "caches",
)
SLOW = ("weights", "hierarchies", "caches")

Hostile = tuple[Path, list[tuple[Path, list[str]]]]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    folder = tmp_path_factory.mktemp("hostile")
    return folder, hostile_files(folder)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write to a folder of their own, and not to the cache of the user."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def faults_of(hostile: Hostile, group: str) -> list[str]:
    folder, cases = hostile
    members = [(path, argv) for path, argv in cases if path.relative_to(folder).parts[0] == group]
    assert len(members) >= 5
    return [
        problem
        for path, argv in members
        if (problem := fault(argv, may_succeed=may_succeed(folder, path))) is not None
    ]


@pytest.mark.slow
@pytest.mark.parametrize("group", FAST)
def test_hostile_files_are_refused_in_words(hostile: Hostile, group: str) -> None:
    assert faults_of(hostile, group) == []


@pytest.mark.slow
@pytest.mark.parametrize("group", SLOW)
def test_hostile_files_that_are_read_late_are_refused_in_words(hostile: Hostile, group: str) -> None:
    assert faults_of(hostile, group) == []


def test_every_hostile_file_is_tried_and_none_was_executed(hostile: Hostile) -> None:
    folder, cases = hostile
    assert {path.relative_to(folder).parts[0] for path, _ in cases} == {*FAST, *SLOW}
    assert len(cases) > 300
    assert not list(folder.rglob("ran"))
    assert not list(Path.cwd().parent.rglob("ran"))


@pytest.mark.parametrize("part", range(4))
def test_mistakes_are_answered_in_words(tmp_path: Path, part: int) -> None:
    cases = clumsy_inputs(tmp_path / "clumsy")
    assert len(cases) > 150
    # Four tests of a quarter each show how long they take.
    assert [problem for argv in cases[part::4] if (problem := fault(argv)) is not None] == []


@pytest.mark.slow
def test_a_separate_process_prints_the_same(hostile: Hostile) -> None:
    folder, cases = hostile
    names = {"images/pipe.png", "recipes/laughs.yaml", "weights/code.pth", "lists/pipe.csv"}
    processes = [
        subprocess.run(command(*argv), env=one_thread(), capture_output=True, text=True, timeout=120)
        for path, argv in cases
        if path.relative_to(folder).as_posix() in names
    ]
    assert [process.returncode for process in processes] == [1] * len(names)
    assert all("error:" in process.stderr for process in processes)
    assert not any("Traceback" in process.stdout + process.stderr for process in processes)


@pytest.mark.slow
def test_names_from_standard_input_may_have_any_bytes(hostile: Hostile) -> None:
    folder, _ = hostile
    words = command("predict", str(folder / "good" / "teacher"), "-")
    names = os.fsencode(folder / "images" / "tower.png") + b"\ncaf\xe9.png\n\n/dev/zero\n"
    process = subprocess.run(words, env=one_thread(), input=names, capture_output=True, timeout=120)
    assert process.returncode == 1
    assert b"tower.png" in process.stdout
    assert rb"caf\xe9.png" in process.stderr
    assert b"a device" in process.stderr
    assert b"Traceback" not in process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["crop-flip", "random-resized-crop"])
def test_panoramas_are_trained_on_and_evaluated(tmp_path: Path, policy: str) -> None:
    for split, name in ((split, name) for split in ("train", "test") for name in ("ant", "bee")):
        (tmp_path / "data" / split / name).mkdir(parents=True)
        for number, size in enumerate([(1, 100_000), (100_000, 1), (3, 70_000), (16, 16), (1, 1)]):
            picture = Image.new("RGB", size, "red" if name == "ant" else "blue")
            picture.save(tmp_path / "data" / split / name / f"{number}.png")
    data = ["--data", str(tmp_path / "data")]
    train = ["teach", *data, "--model", "cifar_resnet8", "--student.size", "16", "--epochs", "1"]
    train += ["--train.batch_size", "4", "--train.workers", "0", "--augment.policy", policy, "--out", "run"]
    for argv in (train, ["evaluate", "run", *data, "--corruptions"], ["report", "run"]):
        ended = run(argv, seconds=200)
        assert (ended.status, "Traceback" in ended.text) == (0, False), ended.text


def crash() -> None:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (lambda: None, "ended with 0"),
        (lambda: print("Traceback (most recent call last)") or exit(1), "Traceback"),
        (lambda: exit(1), "without a word"),
        (lambda: time.sleep(5), "not ended after 1 s"),
        (crash, "KeyError: 'x'"),
    ],
    ids=["success", "trace", "silence", "hang", "exception"],
)
def test_faults_are_found(main: Callable[[], object], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "main", lambda argv: main())
    assert words in str(fault(["check"], seconds=1))
