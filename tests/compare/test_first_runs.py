"""First runs in the queue: before all others, killed at random, and with one that fails."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest

from richkd.compare.first_figures import FIRST_HEADS
from richkd.training.run_folder import RunFolder
from tests.compare.first_plans import TEACHER, with_first
from tests.compare.plans import in_child, leftovers, run, runs_of, write
from tests.fixtures import World, refusal

pytestmark = pytest.mark.slow

# A teacher from labels, one from this teacher, and teachers of folds.
FIRST = {
    "teacher": TEACHER,
    "second": {"method": "kd", "teachers": [{"name": "run:teacher"}], "train.epochs": 2},
    "parts": TEACHER | {"folds": 2},
}
METHODS = {
    "kd": None,
    "later": {"method": "kd", "teachers": [{"name": "run:second"}]},
    "folds": {"method": "kd", "teachers": [{"name": "run:parts"}]},
    "on": {"method": "ce", "student": {"name": "run:second"}},
}
NAMES = ("teacher", "second", "parts/fold-0", "parts/fold-1")


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with first runs that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    run(write_plan(world, folder), folder / "out")
    return folder


def write_plan(world: World, folder: Path) -> Path:
    return write(folder, with_first(world, FIRST, methods=METHODS, clip=False))


def summary(folder: Path) -> dict[str, object]:
    content = RunFolder(folder).summary()
    assert content is not None
    return content


def test_other_runs_have_the_models_of_first_runs(whole: Path) -> None:
    out = whole / "out"
    done = {name: (out / "first" / name / "summary.json").stat().st_mtime_ns for name in NAMES}
    assert done["teacher"] < done["second"]
    for planned in runs_of(whole / "plan.yaml"):
        began = (planned.config.out / "config.yaml").stat().st_mtime_ns
        assert began > max(done.values())
    recorded = {
        name: json.loads((out / "runs" / f"{name}-e1-s0" / "inputs.json").read_text())["files"]
        for name in ("kd", "later", "on")
    }
    for name, setting, first in (("kd", "teachers.1.name", "teacher"), ("on", "student.name", "second")):
        digests = {Path(path).name: digest for path, digest in recorded[name][setting].items()}
        weights = out / "first" / first / "student" / "model.safetensors"
        (line,) = (
            line
            for line in (weights.parent / "SHA256SUMS").read_text().splitlines()
            if line.endswith(weights.name)
        )
        assert digests["model.safetensors"] == line.split()[0]


def test_the_figures_of_first_runs_are_in_the_table(whole: Path) -> None:
    table = json.loads((whole / "out" / "compare.json").read_text())
    rows = {row["name"]: row for row in table["first"]}
    assert list(rows) == ["run:teacher", "run:second", "run:parts"]
    tests = {
        name: summary(whole / "out" / "first" / name)["splits"]["test"]["top1"]  # type: ignore[index]
        for name in NAMES
    }
    assert rows["run:teacher"]["top1"] == tests["teacher"]
    assert rows["run:second"]["epochs"] == 2
    assert rows["run:parts"]["networks"] == 2
    assert rows["run:parts"]["top1"] == (tests["parts/fold-0"] + tests["parts/fold-1"]) / 2
    assert "seconds" not in rows["run:teacher"]
    for name in ("compare.html", "compare.md"):
        text = (whole / "out" / name).read_text()
        assert "Teachers" in text
        assert "run:second" in text
    lines = [line for line in text.splitlines() if "run:" in line or line.startswith("| run ")]
    assert [line.count("|") for line in lines] == [len(FIRST_HEADS) + 1] * 4
    # They are no methods, and nothing is compared with them.
    assert [method["name"] for method in table["cells"][0]["methods"]] == ["kd", "later", "folds", "on"]


def test_a_comparison_with_first_runs_that_was_killed_ends_as_if_nothing_had_happened(
    world: World, whole: Path, tmp_path: Path
) -> None:
    path, draws = write_plan(world, tmp_path), random.Random(3)
    finished: dict[Path, int] = {}
    for _ in range(10):
        child = in_child(path, tmp_path / "out")
        time.sleep(draws.uniform(0.2, 2.5))
        child.kill()
        child.join()
        for file in finished:
            assert file.stat().st_mtime_ns == finished[file], "a finished run ran twice"
        finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("summary.json")}
    run(path, tmp_path / "out")
    assert (tmp_path / "out" / "compare.json").read_bytes() == (whole / "out" / "compare.json").read_bytes()
    names = [file.relative_to(whole) for file in whole.glob("out/**/student/model.safetensors")]
    assert len(names) == len(NAMES) + len(METHODS)
    for name in names:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert not leftovers(tmp_path)


def test_nothing_runs_again(whole: Path) -> None:
    files = [file for file in (whole / "out").rglob("*") if file.is_file() and file.parent != whole / "out"]
    before = {file: file.stat().st_mtime_ns for file in files}
    table = (whole / "out" / "compare.json").read_bytes()
    run(whole / "plan.yaml", whole / "out")
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert (whole / "out" / "compare.json").read_bytes() == table


def test_runs_of_a_first_run_that_fails_are_not_started(world: World, tmp_path: Path) -> None:
    first = {
        "wild": TEACHER | {"optim.lr": 1e30},
        "second": {"method": "kd", "teachers": [{"name": "run:wild"}], "train.epochs": 1},
        "tame": TEACHER,
    }
    methods = {
        "kd": {"teachers": [{"name": "run:tame"}]},
        "of-wild": {"method": "kd", "teachers": [{"name": "run:wild"}]},
        "of-second": {"method": "kd", "teachers": [{"name": "run:second"}]},
        "ce": None,
    }
    plan = with_first(world, first, methods=methods, clip=False)
    del plan["base"]["teachers"]
    path = write(tmp_path, plan)
    result = run(path, tmp_path / "out")
    assert set(result.failed) == {"first/wild", "first/second", "of-wild-e1-s0", "of-second-e1-s0"}
    assert "finite" in result.failed["first/wild"]
    assert result.failed["of-wild-e1-s0"].startswith("run:wild failed: ")
    assert result.failed["of-second-e1-s0"].startswith("run:second failed: run:wild failed: ")
    for name in ("first/second", "runs/of-wild-e1-s0", "runs/of-second-e1-s0"):
        assert not (tmp_path / "out" / name).exists()
    (cell,) = result.cells
    assert [len(method.runs) for method in cell.methods] == [1, 0, 0, 1]
    assert {one.name: one.top1 is None for one in result.first} == {
        "run:wild": True, "run:tame": False, "run:second": True,
    }  # fmt: skip
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "<strong>run:second</strong>: run:wild failed" in page
    # The next start tries it again, with what was finished as it was.
    tame = (tmp_path / "out" / "first" / "tame" / "summary.json").stat().st_mtime_ns
    assert set(run(path, tmp_path / "out").failed) == set(result.failed)
    assert (tmp_path / "out" / "first" / "tame" / "summary.json").stat().st_mtime_ns == tame


def test_other_settings_of_a_first_run_are_refused(world: World, tmp_path: Path) -> None:
    run(write(tmp_path, with_first(world, methods={"kd": None}, clip=False)), tmp_path / "out")
    first = {"teacher": TEACHER | {"optim.lr": 0.5}}
    path = write(tmp_path, with_first(world, first, methods={"kd": None}, clip=False))
    error = str(refusal(run, path, tmp_path / "out"))
    assert "optim.lr 0.5 where the run has 0.02" in error
    assert "run:teacher" in error
    # Another teacher in the place of the first one is found as soon as it is finished.
    shutil.rmtree(tmp_path / "out" / "first")
    error = str(refusal(run, path, tmp_path / "out"))
    assert "teachers.1.name names" in error
    assert "another file by content" in error


def test_another_teacher_of_a_finished_first_run_is_refused(world: World, tmp_path: Path) -> None:
    methods = {"kd": {"teachers": [{"name": "run:second"}]}}
    first = {name: FIRST[name] for name in ("teacher", "second")}
    run(write(tmp_path, with_first(world, first, methods=methods, clip=False)), tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "first" / "teacher")
    first["teacher"] = TEACHER | {"optim.lr": 0.5}
    path = write(tmp_path, with_first(world, first, methods=methods, clip=False))
    error = str(refusal(run, path, tmp_path / "out"))
    assert "teachers.1.name names" in error
    assert str(Path("first", "second", "inputs.json")) in error
    assert "another file by content" in error


def test_a_first_run_that_was_removed_is_made_again(world: World, tmp_path: Path) -> None:
    path = write(tmp_path, with_first(world, methods={"kd": None}, clip=False))
    run(path, tmp_path / "out")
    before = (tmp_path / "out" / "compare.json").read_bytes()
    kept = (tmp_path / "out" / "runs" / "kd-e1-s0" / "summary.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "out" / "first")
    run(path, tmp_path / "out")
    assert (tmp_path / "out" / "compare.json").read_bytes() == before
    assert (tmp_path / "out" / "runs" / "kd-e1-s0" / "summary.json").stat().st_mtime_ns == kept
