"""First runs in a plan: what they are made of, who needs them, and mistakes with their lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from richkd.compare.first import FirstRun
from richkd.compare.runs import first_runs_of
from tests.compare.first_plans import TEACHER, with_first
from tests.compare.plans import runs_of, write
from tests.fixtures import World, refusal

TEXT = """\
base:
  data: {path: photos}
  student: {name: cifar_resnet8}
  teachers: [{name: "run:large"}]
  train.precision: fp32
first:
  large: {student: {name: resnet18}, train.epochs: 5}
methods:
  kd: {}
  ce: {}
seeds: [3, 4]
budgets: [2]
"""


def text_plan(folder: Path, *changes: tuple[str, str]) -> Path:
    text = TEXT
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "plan.yaml").write_text(text, encoding="utf-8")
    return folder / "plan.yaml"


def first_of_plan(path: Path) -> list[FirstRun]:
    return first_runs_of(runs_of(path))


def test_a_first_run_has_the_settings_of_base_and_its_own(tmp_path: Path) -> None:
    (large,) = first_of_plan(text_plan(tmp_path))
    config = large.config
    assert (large.name, config.out) == ("first/large", tmp_path / "out" / "first" / "large")
    assert (config.student.name, config.train.epochs, config.train.precision) == ("resnet18", 5, "fp32")
    assert (config.method.name, config.teachers, config.clip) == ("ce", (), None)
    assert config.train.seed == 3


def test_runs_need_the_first_runs_that_they_name(tmp_path: Path) -> None:
    runs = runs_of(text_plan(tmp_path))
    model = f"local-dir:{tmp_path / 'out' / 'first' / 'large' / 'student'}"
    assert {run.method: [t.name for t in run.config.teachers] for run in runs} == {"kd": [model], "ce": []}
    assert {run.method: [one.first for one in run.needs] for run in runs} == {"kd": ["large"], "ce": []}


def test_a_first_run_may_set_its_seed_and_its_method(tmp_path: Path) -> None:
    changes = (
        ("train.epochs: 5}", "train: {epochs: 5, seed: 9}}\n  again: {method: kd, train.epochs: 1}"),
        ("kd: {}", "kd: {teachers: [{name: run:again, size: 64}]}\n  dkd: {teachers.1.name: run:again}"),
    )
    large, again = first_of_plan(text_plan(tmp_path, *changes))
    assert large.config.train.seed == 9
    assert (again.config.method.name, again.config.train.seed) == ("kd", 3)
    assert [one.first for one in again.needs] == ["large"]
    kd = next(run for run in runs_of(tmp_path / "plan.yaml") if run.method == "kd")
    assert (kd.config.teachers[0].name, kd.config.teachers[0].size) == (again.model, 64)


def test_a_student_may_start_from_a_first_run(tmp_path: Path) -> None:
    path = text_plan(tmp_path, ("ce: {}", "ce: {student.name: run:large}"))
    ce = next(run for run in runs_of(path) if run.method == "ce")
    assert ce.config.student.name == f"local-dir:{tmp_path / 'out' / 'first' / 'large' / 'student'}"
    assert [one.name for one in ce.needs] == ["first/large"]


def test_a_recipe_as_base_may_name_a_first_run(tmp_path: Path) -> None:
    base = "data: {path: photos}\nstudent: {name: resnet18}\nteachers: [{name: 'run:big'}]\n"
    (tmp_path / "recipe.yaml").write_text(base)
    (tmp_path / "plan.yaml").write_text(
        f"base: {tmp_path / 'recipe.yaml'}\n"
        "first: {big: {train.epochs: 1}}\nmethods: {kd: }\nseeds: [0]\n"
    )
    assert [one.first for one in first_of_plan(tmp_path / "plan.yaml")] == ["big"]
    (tmp_path / "recipe.yaml").write_text(base.replace("run:big", "run:bog"))
    error = str(refusal(runs_of, tmp_path / "plan.yaml"))
    assert "no first run 'bog' (recipe.yaml, line 3)" in error


def test_folds_are_several_runs(tmp_path: Path) -> None:
    folds = first_of_plan(text_plan(tmp_path, ("train.epochs: 5", "train.epochs: 5, folds: 3")))
    assert [run.name for run in folds] == [f"first/large/fold-{fold}" for fold in range(3)]
    assert [run.config.data.exclude_fold for run in folds] == [(0, 3), (1, 3), (2, 3)]
    kd = next(run for run in runs_of(tmp_path / "plan.yaml") if run.method == "kd")
    assert kd.config.teachers[0].name == f"folds:{tmp_path / 'out' / 'first' / 'large'}"
    assert len(kd.needs) == 3


def test_a_first_run_is_done_once_for_each_data_set_whose_runs_use_it(tmp_path: Path) -> None:
    changes = (
        ("  data: {path: photos}\n", ""),
        (
            "first:",
            "data:\n  one: {data.path: a}\n  two: {data: {path: b}, teachers: [{name: run:other}]}\nfirst:",
        ),
        ("train.epochs: 5}", "train.epochs: 5}\n  other: {train.epochs: 1}"),
    )
    first = first_of_plan(text_plan(tmp_path, *changes))
    assert [(run.name, run.config.data.path) for run in first] == [
        ("first/large-one", "a"),
        ("first/other-two", "b"),
    ]
    by_data = {run.cell.data: run.needs for run in runs_of(tmp_path / "plan.yaml") if run.method == "kd"}
    assert {data: [one.name for one in needs] for data, needs in by_data.items()} == {
        "one": ["first/large-one"],
        "two": ["first/other-two"],
    }


def test_the_plan_of_the_small_world(world: World, tmp_path: Path) -> None:
    runs = runs_of(write(tmp_path, with_first(world)))
    assert {run.method for run in runs if run.needs} == {"kd", "richkd", "richkd shuffled"}
    (teacher,) = first_runs_of(runs)
    assert teacher.config.student.name == TEACHER["student"]["name"]


LARGE = "large: {student: {name: resnet18}, train.epochs: 5}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([('"run:large"', '"run:larg"')], ("no first run 'larg' (plan.yaml, line 4)", "mean 'large'?")),
        ([("first:\n", ""), (f"  {LARGE}\n", "")], ("no first run 'large'", "line 4", "under first:")),
        ([('"run:large"', '"run:ce"')], ("no first run 'ce'", "'ce' is one of methods:")),
        ([('"run:large"', '"run:"')], ("no first run ''", "line 4")),
        ([('"run:large"', '"runs:large"')], ("line 4", "Did you mean 'run:large'?")),
        ([('"run:large"', '"folds:large"')], ("line 4", "Did you mean 'run:large'?")),
        ([('"run:large"', '"local-dir:large"')], ("line 4", "Did you mean 'run:large'?")),
        ([('"run:large"', '"run: large"')], ("no first run ' large'", "line 4", "'large'")),
        ([("ce: {}", "ce: {student.name: run:larger}")], ("no first run 'larger'", "line 10", "'large'")),
        ([("kd: {}", "richkd: {clip.name: run:large}")], ("not a CLIP", "line 9")),
        ([("kd: {}", "kd: {teachers.1.name: run:large, teachers.2.name: run:lrge}")], ("'lrge'", "line 9")),
        ([("resnet18}", "resnet18}, method: kd")], ("must not need itself", "line 7", "large needs large")),
        (
            [(LARGE, "a: {method: kd, teachers: [{name: run:b}], train.epochs: 1}\n"
              "  b: {student.name: run:a, train.epochs: 1}\n  large: {train.epochs: 1}")],
            ("must not need itself", "line 7", "a needs b needs a"),
        ),
        ([(LARGE, f"{LARGE}\n  spare: {{train.epochs: 1}}")], ("another run", "line 8", "'spare'")),
        ([(", train.epochs: 5", "")], ("number of epochs", "line 7")),
        ([("large: {student", "dkd: {student"), ("run:large", "run:dkd")], ("must say its method", "line 7")),
        ([("train.epochs: 5", "train.epochs: 5, folds: 1")], ("number of folds", "line 7", "1")),
        ([("train.epochs: 5", "train.epochs: 5, folds: yes")], ("number of folds", "line 7", "True")),
        (
            [("train.epochs: 5", "train.epochs: 5, folds: 2"), ("ce: {}", "ce: {student.name: run:large}")],
            ("must start from one network", "line 10"),
        ),
        ([("train.epochs: 5", "train.epoch: 5")], ("no setting 'train.epoch' (plan.yaml, line 7)",)),
        ([("train.epochs: 5", "optim.lr: -1, train.epochs: 5")], ("'optim.lr'", "line 7", "run:large")),
        ([("train.epochs: 5", "out: x, train.epochs: 5")], ("'out' must not be given here", "line 7")),
        ([("train.epochs: 5", "clip.name: x:y, train.epochs: 5")], ("line 7", "run:large")),
        ([("large: {student", "a/b: {student"), ("run:large", "run:a/b")], ("folder (plan.yaml, line 7)",)),
        ([("large: {student", "on: {student")], ("must be text (plan.yaml, line 7)", "quotes")),
        (
            [(LARGE, f"{LARGE}\n  LARGE: {{train.epochs: 1}}"),
             ("kd: {}", "kd: {}\n  dkd: {teachers: [{name: run:LARGE}]}")],
            ("same folder", "first/LARGE"),
        ),
        ([(LARGE, "large: 3")], ("'first.large'", "line 7")),
        ([("first:\n", "first: [1]\nx:\n")], ("'first'", "line 6")),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, changes: list[tuple[str, str]], words: tuple[str, ...]
) -> None:
    error = str(refusal(runs_of, text_plan(tmp_path, *changes)))
    for word in words:
        assert word in error, error


def test_a_setting_that_only_a_first_run_reads_is_read(tmp_path: Path) -> None:
    base = ("  train.precision: fp32\n", "  train.precision: fp32\n  objective.dkd.temperature: 5\n")
    assert "no effect in any run" in str(refusal(runs_of, text_plan(tmp_path, base)))
    large: tuple[str, str] = ("resnet18}", "resnet18}, method: dkd, teachers: [{name: run:root}]")
    root = ("methods:", "  root: {train.epochs: 1}\nmethods:")
    (_, run) = first_of_plan(text_plan(tmp_path, base, large, root))
    assert run.config.objective == {"dkd": {"temperature": 5}}


def test_a_first_run_may_have_the_name_of_a_method_of_the_plan(tmp_path: Path) -> None:
    changes: list[Any] = [("large: {student", "kd: {method: ce, student"), ("run:large", "run:kd")]
    (first,) = first_of_plan(text_plan(tmp_path, *changes))
    assert (first.name, first.config.method.name) == ("first/kd", "ce")
    assert {run.method for run in runs_of(tmp_path / "plan.yaml")} == {"kd", "ce"}
