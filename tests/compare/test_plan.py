"""Plans: every mistake is found before a run starts, with its line, together with the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from richkd.compare.plan import CONTROLS, Plan, read_plan
from richkd.core.errors import ConfigError
from tests.compare.plans import content, runs_of, write
from tests.fixtures import World, refusal

TEXT = """\
base:
  data: {path: photos}
  student: {name: resnet18}
  optim.lr: 0.1
methods:
  ce:
  strong: {method: ce, optim: {weight_decay: 0.1}}
seeds: [0, 1]
budgets: [3]
"""


def text_plan(folder: Path, *changes: tuple[str, str]) -> Path:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "plan.yaml").write_text(text, encoding="utf-8")
    return folder / "plan.yaml"


def test_a_plan_becomes_runs(tmp_path: Path) -> None:
    runs = runs_of(text_plan(tmp_path))
    assert [run.name for run in runs] == ["ce-e3-s0", "strong-e3-s0", "ce-e3-s1", "strong-e3-s1"]
    assert [run.config.optim.weight_decay for run in runs] == [5e-4, 0.1, 5e-4, 0.1]
    assert {run.config.optim.lr for run in runs} == {0.1}
    assert [run.config.train.seed for run in runs] == [0, 0, 1, 1]
    assert {run.config.train.epochs for run in runs} == {3}
    assert runs[0].config.out == tmp_path / "out" / "runs" / "ce-e3-s0"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("seeds:", "seds:"), ("no part 'seds' (plan.yaml, line 8)", "Did you mean 'seeds'?")),
        (("optim.lr", "optim.lrr"), ("no setting 'optim.lrr' (plan.yaml, line 4)", "'optim.lr'")),
        (("weight_decay", "weight_decai"), ("'optim.weight_decai' (plan.yaml, line 7)",)),
        (("method: ce", "method: cee"), ("no method 'cee' (plan.yaml, line 7) (strong)",)),
        (("  ce:", "  cee:"), ("must say what it is (plan.yaml, line 6)",)),
        (("0.1\n", "-0.1\n"), ("'optim.lr'", "(plan.yaml, line 4) (ce; strong)")),
        (("weight_decay: 0.1", "weight_decay: much"), ("(plan.yaml, line 7) (strong)", "'much'")),
        (("[0, 1]", "[0, 0]"), ("same name", "plan.yaml, line 8")),
        (("[0, 1]", "[0, true]"), ("'seeds'", "plan.yaml, line 8")),
        (("[0, 1]", "[99999999999999999999]"), ("'seeds'", "plan.yaml, line 8")),
        (("[3]", "[0]"), ("'budgets'", "plan.yaml, line 9")),
        (("[3]", "[3]\nseeds: [1]"), ("line 10: 'seeds' appears twice, first in line 8",)),
        (("[3]", "[3]\ncontrols: [teacher-onli]"), ("'controls'", "'teacher-onli'", "line 10")),
        (("[3]", "[3]\nbaseline: cee"), ("baseline", "line 10", "'ce'")),
        (("  ce:", "  on: ce\n  ce:"), ("must be text (plan.yaml, line 6)", "quotes")),
        (("  ce:", "  other: {3: x}\n  ce:"), ("'methods.other' must be text (plan.yaml, line 6)", "quotes")),
        (("  ce:", "  other: {on: x}\n  ce:"), ("'methods.other' must be text (plan.yaml, line 6)",)),
        (("  ce:", "  other: {~: x}\n  ce:"), ("'methods.other' must be text (plan.yaml, line 6)",)),
        (("[3]", "[3]\npairs: {a: {3: x}}"), ("'pairs.a' must be text (plan.yaml, line 10)",)),
        (("[3]", "[3]\ncorruptions: {image: 3}"), ("no part 'corruptions.image'", "Did you mean 'images'?")),
        (("[0, 1]", "3"), ("it must be a list, such as [0, 1]",)),
        (("  ce:", "  kdd:"), ("must say what it is", "or 'kd'?")),
        (("weight_decay: 0.1}", "lr: 1}, optim.lr: 2"), ("given once: 'optim.lr'", "1 in plan.yaml, line 7")),
        (("  ce:", "  a/b: ce\n  ce:"), ("folder (plan.yaml, line 6)",)),
        (("  ce:", "  ..: ce\n  ce:"), ("folder (plan.yaml, line 6)",)),
        (("  ce:", "  CE: ce\n  ce:"), ("same name", "CE-e3-s0")),
        (("optim.lr: 0.1", "train.seed: 1"), ("'train.seed' must not be given here", "line 4", "seeds:")),
        (("optim.lr: 0.1", "train.epochs: 1"), ("'train.epochs' must not be given here", "budgets:")),
        (("optim.lr: 0.1", "method: {name: ce}"), ("'method.name' must not be given here", "methods:")),
        (("optim.lr: 0.1", "cache.top_k: 3"), ("'cache.top_k' has no effect in any run", "line 4")),
        (("weight_decay: 0.1", "milestones: [0.5], schedule: cosine"), ("no effect", "line 7")),
        (("base:\n", "base: ''\nx:\n"), ("'x'",)),
        (("[3]", '[3]\ncache: "a\\0b"'), ("'cache' of the plan", "line 10")),
        (("[3]", '[3]\nout: "a\\0b"'), ("'out' of the plan", "line 10")),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(
    tmp_path: Path, changes: tuple[str, str], words: tuple[str, ...]
) -> None:
    error = refusal(runs_of, text_plan(tmp_path, changes))
    assert isinstance(error, ConfigError)
    for word in words:
        assert word in str(error), str(error)


def test_the_baseline_can_be_another_one_than_that_of_the_plan(tmp_path: Path) -> None:
    path = text_plan(tmp_path)
    assert (read_plan(path).plan.reference, read_plan(path, "strong").plan.reference) == ("ce", "strong")
    assert "'strnog'" in str(refusal(read_plan, path, "strnog"))


def test_all_mistakes_are_listed_together(tmp_path: Path) -> None:
    path = text_plan(tmp_path, ("optim.lr", "optim.lrr"), ("weight_decay", "weight_decai"))
    error = str(refusal(runs_of, path))
    assert "2 problems" in error
    assert "optim.lrr" in error
    assert "weight_decai" in error


@pytest.mark.parametrize(
    "text", ["", "[1]", "a: *a", "methods:\n\t- x", "base: 3\nmethods: {ce: }\nseeds: [0]"]
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    assert isinstance(refusal(read_plan, tmp_path / "plan.yaml"), ConfigError)


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in str(refusal(read_plan, tmp_path / "none.yaml"))
    (tmp_path / "plan.yaml").write_bytes(b"\xff\xfe\x00")
    assert "must be text in UTF-8" in str(refusal(read_plan, tmp_path / "plan.yaml"))
    assert "cannot be read" in str(refusal(read_plan, tmp_path))


def test_a_recipe_can_be_the_base(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "data: {path: photos}\nstudent: {name: resnet18}\noptim: {lrr: 1}\n"
    )
    (tmp_path / "plan.yaml").write_text(f"base: {tmp_path / 'recipe.yaml'}\nmethods: {{ce: }}\nseeds: [0]\n")
    assert "'optim.lrr' (recipe.yaml, line 3)" in str(refusal(runs_of, tmp_path / "plan.yaml"))
    (tmp_path / "recipe.yaml").write_text("data: {path: photos}\nstudent: {name: resnet18}\n")
    (run,) = runs_of(tmp_path / "plan.yaml")
    assert (run.config.student.name, run.config.train.epochs) == ("resnet18", 240)


def test_methods_drop_what_they_do_not_read(world: World, tmp_path: Path) -> None:
    base = content(world)["base"]
    base |= {"objective": {"kd": {"temperature": 3}}, "fusion.alpha": 0.5, "fusion.mixing": "alpha"}
    plan = content(world, base=base, methods={"ce": None, "kd": None, "richkd": "richkd"}, controls=False)
    runs = {run.method: run.config for run in runs_of(write(tmp_path, plan)) if run.seed == 0}
    assert not runs["ce"].teachers
    assert runs["ce"].clip is runs["kd"].clip is None
    assert len(runs["kd"].teachers) == 1
    assert runs["ce"].objective == {}
    assert runs["kd"].objective == runs["richkd"].objective == {"kd": {"temperature": 3}}
    assert (runs["richkd"].fusion.alpha, runs["kd"].fusion.alpha) == (0.5, None)


def test_a_list_of_terms_wins_over_shared_terms(world: World, tmp_path: Path) -> None:
    base = content(world)["base"] | {"objective.kd.temperature": 3, "objective.kd.weight": 2}
    terms = [{"ce": None}, {"kd": {"target": "teacher", "temperature": 5}}]
    plan = content(world, base=base, methods={"mine": {"objective": terms}, "kd": None, "richkd": None})
    mine = next(run.config for run in runs_of(write(tmp_path, plan)) if run.method == "mine")
    assert mine.objective == [{"ce": None}, {"kd": {"target": "teacher", "temperature": 5, "weight": 2}}]


def test_controls_are_added_to_fused_methods(world: World, tmp_path: Path) -> None:
    runs = runs_of(write(tmp_path, content(world, controls=True)))
    controls = {run.config.fusion.control: run for run in runs if run.control_of and run.seed == 0}
    assert set(controls) == set(CONTROLS)
    for name, run in controls.items():
        assert (run.method, run.control_of) == (f"richkd {name}", "richkd")
        assert run.config.clip is not None
    methods = {"kd": None, "richkd": {"fusion.control": "shuffled"}}
    assert not [run for run in runs_of(write(tmp_path, content(world, methods=methods))) if run.control_of]
    assert len(runs_of(write(tmp_path, content(world, controls=False)))) == 4


def test_pairs_data_and_budgets_are_combined(world: World, tmp_path: Path) -> None:
    parts = {
        "pairs": {
            "small": {"student.name": "cifar_resnet8"},
            "large": {"student": {"name": "cifar_resnet14"}},
        },
        "data": {"colors": str(world.images), "more": {"data.path": str(world.images)}},
        "budgets": [1, 2],
    }
    runs = runs_of(
        write(tmp_path, content(world, methods={"ce": None}, base=without_teachers(world), **parts))
    )
    assert len(runs) == 2 * 2 * 2 * 2
    assert runs[0].name == "ce-small-colors-e1-s0"
    assert {run.config.student.name for run in runs if run.cell.pair == "large"} == {"cifar_resnet14"}
    assert len({run.name for run in runs}) == len(runs)


@pytest.mark.parametrize("given", [3, 3.0, "3", None])
def test_a_cell_has_the_epochs_of_its_runs(world: World, tmp_path: Path, given: object) -> None:
    base = without_teachers(world)
    methods: dict[str, Any] = {"ce": None}
    if given is None:
        methods = {"ce": {"train.epochs": 3}, "again": {"method": "ce", "train.epochs": 3}}
    else:
        base["train"] = base["train"] | {"epochs": given}
    plan = content(world, methods=methods, base=base, budgets=None, seeds=[0])
    for run in runs_of(write(tmp_path, plan)):
        assert (run.config.train.epochs, run.cell.epochs) == (3, 3)
        assert run.name.endswith("-e3-s0")


def without_teachers(world: World) -> dict[str, Any]:
    base = content(world)["base"]
    del base["teachers"], base["clip"], base["train"]["teacher_precision"]
    return dict(base)


def test_a_control_may_not_have_the_name_of_a_method(world: World, tmp_path: Path) -> None:
    methods = {"kd": None, "richkd": None, "richkd-shuffled": "kd"}
    error = refusal(runs_of, write(tmp_path, content(world, methods=methods)))
    assert "'richkd-shuffled-e1-s0' of method richkd shuffled" in str(error)


def test_every_part_of_a_plan_has_a_help_text() -> None:
    assert [name for name, field in Plan.model_fields.items() if not field.description] == []


def test_a_plan_has_the_fusion_of_some_images(world: World, tmp_path: Path) -> None:
    both = content(world)  # methods kd and richkd
    both["base"]["fusion"] = {"labeled": {"preset": "paper"}}
    runs = runs_of(write(tmp_path, both))
    groups = {run.method: run.config.fusion.labeled for run in runs}
    assert groups["richkd"] is not None
    assert groups["richkd"].preset == "paper"
    assert groups["kd"] is None  # it has a single teacher, so it drops the shared setting
    both["base"]["fusion"] = {"labeled": {"preset": "paper", "presett": 1}}
    error = refusal(runs_of, write(tmp_path, both))
    assert "There is no setting 'fusion.labeled.presett' (plan.yaml, line" in str(error)


def test_a_control_can_be_the_baseline(world: World, tmp_path: Path) -> None:
    path = write(tmp_path, content(world))
    assert read_plan(path, "richkd shuffled").plan.reference == "richkd shuffled"
    error = str(refusal(read_plan, path, "richkd clip-only"))
    assert "(--baseline)" in error
    assert "'richkd shuffled'" in error
    plan = content(world, baseline="kd shuffled")
    assert "fuse a vision teacher with a CLIP" in str(refusal(runs_of, write(tmp_path, plan)))
