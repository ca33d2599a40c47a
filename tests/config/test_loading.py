"""Settings: what is refused and how, who wins, and YAML that reads back as what was written."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from pydantic import ValidationError

from richkd.config.choices import TERMS
from richkd.config.listing import choices_of, settings
from richkd.config.loading import check_types, dotted_overrides, load_config
from richkd.config.names import setting_names
from richkd.config.renamed import RENAMED, RENAMED_VALUES
from richkd.config.schema import Config, OptimConfig
from richkd.core.errors import ConfigError
from richkd.methods.objective import read_objective
from tests.fixtures import refusal as other_refusal

NEEDED = {"data.path": "cifar100", "student.name": "resnet18"}


def loaded(recipe: Path | None = None, **changes: Any) -> Config:
    return load_config(recipe, NEEDED | {name.replace("__", "."): value for name, value in changes.items()})


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(recipe: Path | None = None, **changes: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(recipe, **changes)
    return caught.value


# Names


@pytest.mark.parametrize(
    ("name", "refused", "hint"),
    [
        ("optim.lrr", "optim.lrr", "'optim.lr'"),
        ("lr", "lr", "'optim.lr'"),
        ("train.weight_decay", "train.weight_decay", "'optim.weight_decay'"),
        ("fussion", "fussion", "'fusion'"),
        ("optm.lr", "optm", "'optim'"),
        ("methods.variant", "methods", "'method'"),
    ],
)
def test_an_unknown_setting_names_the_nearest(name: str, refused: str, hint: str, tmp_path: Path) -> None:
    error = refusal(**{name: 1})
    assert error.rule == f"There is no setting '{refused}' (in the settings)"
    assert hint in str(error.fix)
    section, _, leaf = name.rpartition(".")
    recipe = written(tmp_path, f"{section}: {{{leaf}: 1}}" if section else f"{leaf}: 1")
    assert refusal(recipe).rule == f"There is no setting '{refused}' (in {recipe})"


@pytest.mark.parametrize(
    ("text", "refused", "hint"),
    [
        ("dta: {path: x}\nstudent: {name: r}", "dta", "Did you mean 'data'?"),
        ("Data: {path: x}\nstudent: {name: r}", "Data", "Did you mean 'data'?"),
        ("data: {path: x}\nstudnt: {name: r}", "studnt", "'student'"),
        ("data: {pth: x}\nstudent: {name: r}", "data.pth", "'data.path'"),
        ("data: {path: x}\nstudent: {nme: r}", "student.nme", "'student.name'"),
        ("data: {path: x}\nstudent: {name: r}\nclip: {nme: x}", "clip.nme", "'clip.name'"),
        ("data: {path: x}\nstudent: {name: r}\nteachers: [{nme: x}]", "teachers.1.nme", "'teachers.1.name'"),
        (
            "data: {path: x}\nstudent: {name: r}\nteachers: [{name: a}, {name: b, wights: c}]",
            "teachers.2.wights",
            "'teachers.2.weights'",
        ),
    ],
)
def test_a_mistyped_name_of_a_recipe_is_named_before_what_it_leaves_missing(
    text: str, refused: str, hint: str, tmp_path: Path
) -> None:
    recipe = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(recipe)
    assert caught.value.rule == f"There is no setting '{refused}' (in {recipe})"
    assert hint in str(caught.value.fix)


@pytest.mark.parametrize("term", ["{kd: {temprature: 4}}", "{kd: {weight: x, temprature: 4}}"])
def test_a_mistyped_setting_of_a_term_in_a_list_is_named(term: str, tmp_path: Path) -> None:
    recipe = written(tmp_path, f"objective: [{{ce: }}, {term}]")
    error = other_refusal(read_objective, loaded(recipe))
    assert error.rule == "There is no setting 'temprature' (in objective.kd)"
    assert error.fix == "Did you mean 'temperature'?"


@pytest.mark.parametrize(
    "text", ["ce", "[ce, kd]", "[{ce: , kd: }]", "[{}]", "[{kd: 4}]", "{kd: 4}", "{1: {}}", "[{1: {}}]"]
)
def test_an_objective_of_another_form_is_refused_with_its_form(text: str, tmp_path: Path) -> None:
    recipe = written(tmp_path, f"objective: {text}")
    error = other_refusal(lambda: read_objective(loaded(recipe)))
    assert error.rule.startswith("Setting 'objective' must be a list of {TERM: {SETTING: value}}")


def test_a_word_that_many_settings_have_is_hinted_at_with_three() -> None:
    with pytest.raises(ConfigError) as caught:
        dotted_overrides(["--name", "x"])
    fix = str(caught.value.fix)
    assert fix.count("'--") == 3
    assert "`richkd settings` lists all." in fix


def test_a_name_in_several_sections_is_hinted_at_in_order() -> None:
    with pytest.raises(ConfigError) as caught:
        dotted_overrides(["--weights", "x"])
    hint = "Did you mean '--student.weights' or '--fusion.weights'? "
    assert str(caught.value.fix).startswith(hint)


@pytest.mark.parametrize(
    ("overrides", "flag"),
    [
        ({"data.path": "x"}, "--student"),
        ({"student.name": "x"}, "--data"),
        ({"teachers.1.weights": "x"}, "--data"),
    ],
)
def test_what_is_needed_names_its_option(overrides: dict[str, str], flag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert caught.value.fix == f"add {flag} or a recipe (-c)."


def test_a_teacher_needs_a_name() -> None:
    error = refusal(teachers__1__weights="x.pth")
    assert error.rule == "Setting 'teachers.1.name' is required"
    assert error.fix == "add --teacher or a recipe (-c)."


def test_teachers_are_set_by_number_and_added_in_order(tmp_path: Path) -> None:
    recipe = written(tmp_path, "teachers: [{name: a, weights: a.pth}]")
    config = loaded(recipe, teachers__1__size="64", teachers__2__name="b")
    assert [(one.name, one.size) for one in config.teachers] == [("a", 64), ("b", None)]
    assert config.teachers[0].weights == Path("a.pth")
    assert "count from 1" in refusal(recipe, teachers__3__name="c").rule
    assert "count from 1" in refusal(recipe, teachers__0__name="c").rule
    as_text = tmp_path / "text.yaml"
    as_text.write_text("teachers: [resnet18]")
    assert refusal(as_text, teachers__1__size=32).rule == "teachers.1 must be names with values"
    assert "²" in str(refusal(**{"teachers.².size": 32}))


@pytest.mark.parametrize(
    ("text", "dotted"),
    [
        ("data: [photos]", "data.path"),
        ("optim: [lr, 0.1]", "optim.lr"),
        ("objective: [{ce: {}}, {kd: 5}]", "objective.kd.temperature"),
        ("objective: {kd: [1]}", "objective.kd.temperature"),
    ],
)
def test_an_option_needs_a_section_of_the_recipe(tmp_path: Path, text: str, dotted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, text), {dotted: 4})
    assert caught.value.rule == f"{dotted.rpartition('.')[0]} must be a section of settings"


def test_terms_are_set_by_label_in_a_mapping_and_in_a_list(tmp_path: Path) -> None:
    mapping = loaded(objective__kd__temperature="4", objective__kd__weight="1.5")
    assert mapping.objective == {"kd": {"temperature": 4, "weight": 1.5}}
    recipe = written(tmp_path, "objective: [{ce: }, {kd: {target: clip}}]")
    changed = loaded(recipe, objective__kd__temperature="4", objective__ce__weight="2")
    assert changed.objective == [{"ce": {"weight": 2}}, {"kd": {"target": "clip", "temperature": 4}}]
    assert loaded(written(tmp_path, loaded(recipe).to_yaml())).objective == loaded(recipe).objective


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_a_setting_of_version_0_1_is_answered_with_its_new_name(old: str) -> None:
    new = RENAMED[old]
    known = {*setting_names(), *Config.model_fields, "teacher_cache", "test_calibration_fraction"}
    assert new in known or new.split(".")[0] in ("objective", "teachers")
    with pytest.raises(ConfigError) as caught:
        dotted_overrides([f"--{old}", "x"])
    assert f"It is called '--{new.replace('_', '-') if '.' not in new else new}'" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("name", "old"), [(name, old) for name, values in RENAMED_VALUES.items() for old in values]
)
def test_a_value_of_version_0_1_is_answered_with_its_new_name(name: str, old: str) -> None:
    # Settings of terms are read when the objective is.
    error = (
        refusal(**{name: old})
        if not name.startswith("objective.")
        else other_refusal(read_objective, loaded(**{name: old}))
    )
    assert RENAMED_VALUES[name][old] in str(error.fix)
    assert RENAMED_VALUES[name][old] in choices_of(name)


# Values


@pytest.mark.parametrize(
    ("name", "value", "got"),
    [
        ("optim.lr", "fast", "'fast'"),
        ("optim.lr", 0, "0"),
        ("optim.momentum", "1", "1"),
        ("method.variant", "x", "'x'"),
        ("augment.policy", "mixup", "'mixup'"),
        ("data.val_fraction", "1", "1"),
        ("train.epochs", "1.5", "1.5"),
        ("train.batch_size", "1", "1"),
        ("fusion.alpha", "1.01", "1.01"),
        ("fusion.weights", "[1, x]", "'x'"),
        ("augment.scale", "[0.5]", "[0.5]"),
        ("augment.scale", "[0, 1]", "[0, 1]"),
        ("augment.scale", "[0, 0]", "[0, 0]"),
        ("augment.scale", "[-1, 2]", "[-1, 2]"),
        ("augment.scale", "[0.5, 8]", "[0.5, 8]"),
        ("augment.scale", "[0.9, 0.1]", "[0.9, 0.1]"),
        ("augment.ratio", "[0, 1]", "[0, 1]"),
        ("augment.ratio", "[2, 0.5]", "[2, 0.5]"),
        ("optim.milestones", "[150, 180, 210]", "150"),
        ("optim.milestones", "[0.5, -3]", "-3"),
        ("optim.milestones", "[0]", "0"),
        ("optim.milestones", "[1]", "1"),
        ("train.seed", str(2**64), str(2**64)),
        ("train.seed", "-1", "-1"),
        ("student.mean", "[0.5, 0.5]", "[0.5, 0.5]"),
        ("train.trackers", "[carrier-pigeon]", "'carrier-pigeon'"),
        ("optim.lr", "[0.1", "'[0.1'"),
        ("clip", "ViT-B-32", "'ViT-B-32'"),
    ],
)
def test_a_bad_value_is_named_with_its_setting(name: str, value: Any, got: str) -> None:
    error = refusal(**{name: value})
    # An item of a list is named by its place, as in 'fusion.weights.1'.
    assert re.match(rf"Setting '{name}(\.\d)?' does not take this value: \w", error.rule)
    assert error.got == got


def test_names_in_the_place_of_a_file_are_refused_without_words_of_python() -> None:
    error = refusal(clip={"name": "ViT-B-32:openai", "rename_classes": {"crane": "a bird"}})
    assert error.rule.endswith(
        "'clip.rename_classes' does not take this value: it must be the path of a file or folder"
    )


def test_limits_are_accepted_and_milestones_in_epochs_are_explained() -> None:
    config = loaded(augment__scale="[1e-3, 1]", augment__ratio="[1, 1]", train__seed=2**64 - 1)
    assert (config.augment.scale, config.augment.ratio) == ((1e-3, 1.0), (1.0, 1.0))
    assert config.train.seed == 2**64 - 1
    assert loaded(optim__milestones="[]").optim.milestones == ()
    assert "epoch 150 of 240 is 0.625" in refusal(optim__milestones="[150, 180, 210]").rule


def test_arguments_of_a_model_are_yaml(tmp_path: Path) -> None:
    args = {"img_size": [64, 32], "act_layer": "gelu", "drop": None, "nested": {"on": True}}
    text = "{img_size: [64, 32], act_layer: gelu, drop: null, nested: {'on': true}}"
    overrides = dotted_overrides(["--student.args", text, "--teachers.1.args", text])
    config = load_config(None, NEEDED | {"teachers.1.name": "a"} | overrides)
    assert config.student.args == config.teachers[0].args == args
    again = load_config(written(tmp_path, config.to_yaml()))
    assert again.student.args == again.teachers[0].args == args
    assert loaded(student__args="{}").student.args == {}


@pytest.mark.parametrize("text", ["depth", "[1]", "{a: 2020-01-01}", "{1: 2}", "null", "{a: !!set {b}}"])
def test_arguments_that_cannot_be_saved_are_refused(text: str) -> None:
    assert "'student.args" in refusal(student__args=text).rule


def test_texts_are_read_as_yaml() -> None:
    config = loaded(
        optim__lr="0.25",
        optim__weight_decay="1e-4",
        augment__flip="false",
        fusion__weights="[1, 2.5]",
        train__trackers="[]",
        student__size="null",
        objective__contrastive__num_negatives="64",
    )
    assert (config.optim.lr, config.optim.weight_decay, config.augment.flip) == (0.25, 1e-4, False)
    assert config.fusion.weights == (1.0, 2.5)
    assert (config.train.trackers, config.student.size) == ((), None)
    assert config.objective == {"contrastive": {"num_negatives": 64}}


@pytest.mark.parametrize(
    "name", ["2024", "2024-01-01", "on", "1e3", "[x", "#1", "a: b", "*", "local-dir:/tmp/x"]
)
def test_names_and_paths_are_taken_as_they_are(name: str) -> None:
    config = loaded(data__path=name, data__label_column=name, out=name, student__weights=name)
    assert (config.data.path, config.data.label_column) == (name, name)
    assert config.out == config.student.weights == Path(name)


def test_null_unsets_a_text(tmp_path: Path) -> None:
    recipe = written(tmp_path, "data: {path: x, label_column: fine}")
    assert loaded(recipe).data.label_column == "fine"
    assert loaded(recipe, data__label_column="null").data.label_column is None


def test_settings_never_change() -> None:
    config = loaded()
    with pytest.raises(ValidationError):
        config.optim.lr = 3.0  # type: ignore[misc]


# Sources


def test_overrides_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path) -> None:
    recipe = written(tmp_path, "optim: {lr: 0.2, momentum: 0.5}\ntrain: {epochs: 7}\nteachers: [{name: a}]")
    config = loaded(recipe, optim__lr="0.3", teachers__1__name="b")
    assert (config.optim.lr, config.optim.momentum, config.train.epochs) == (0.3, 0.5, 7)
    assert config.optim.weight_decay == OptimConfig().weight_decay
    assert [teacher.name for teacher in config.teachers] == ["b"]


def test_empty_sections_of_a_recipe_can_be_filled(tmp_path: Path) -> None:
    recipe = written(tmp_path, "data:\nstudent:\nteachers:\n")
    config = loaded(recipe, teachers__1__name="resnet34")
    assert config.data.path == "cifar100"
    assert [teacher.name for teacher in config.teachers] == ["resnet34"]


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words"])
def test_a_recipe_must_hold_sections(text: str, tmp_path: Path) -> None:
    recipe = written(tmp_path, text)
    assert refusal(recipe).rule == f"The recipe {recipe} must hold sections such as data: and student:"


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert refusal(missing).rule == f"The recipe {missing} does not exist"
    assert "cannot be read as YAML" in refusal(written(tmp_path, "data: [")).rule
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    assert "cannot be read as YAML" in refusal(tmp_path / "recipe.yaml").rule
    error = refusal(tmp_path)
    assert (error.rule, error.got) == (f"The recipe {tmp_path} must be a file", "a folder")


def test_a_value_cannot_be_a_section(tmp_path: Path) -> None:
    recipe = written(tmp_path, "optim: fast")
    error = refusal(recipe, optim__lr=1)
    assert error.rule == "optim must be a section of settings"
    assert error.got == "'fast'"


small = st.floats(1e-6, 0.999)
text = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=12)
changes = st.fixed_dictionaries(
    {},
    optional={
        "data.path": text,
        "data.class_names": text.map(Path),
        "teachers": st.lists(
            st.fixed_dictionaries({"name": text, "mean": st.tuples(small, small, small)}), max_size=2
        ),
        "objective": st.dictionaries(
            st.sampled_from(["kd", "ce"]), st.fixed_dictionaries({"weight": small}), max_size=2
        ),
        "clip": st.fixed_dictionaries({"name": text}),
        "optim.lr": small,
        "optim.weight_decay": st.floats(0, 1e-5),
        "optim.milestones": st.lists(small, max_size=3),
        "fusion.weights": st.lists(st.floats(-1e6, 1e6), max_size=3),
        "train.seed": st.integers(0, 2**62),
        "train.ema_decay": small,
        "train.trackers": st.lists(
            st.sampled_from(["tensorboard", "wandb", "mlflow", "trackio"]), max_size=3
        ),
        "augment.flip": st.booleans(),
    },
)


@budget(max_examples=60, deadline=None)
@given(changes)
def test_yaml_reads_back_as_what_was_written(tmp_path_factory: Any, overrides: dict[str, Any]) -> None:
    plain = {name: value for name, value in overrides.items() if not isinstance(value, str)}
    config = load_config(None, NEEDED | plain)
    if "data.path" in overrides:
        renamed = config.data.model_copy(update={"path": overrides["data.path"]})
        config = config.model_copy(update={"data": renamed})
    recipe = written(tmp_path_factory.mktemp("yaml"), config.to_yaml())
    assert load_config(recipe) == load_config(str(recipe)) == config


# The command line


def test_every_form_of_an_option() -> None:
    tokens = [
        "--optim.lr",
        "0.1",
        "--augment.flip=false",
        "--data.val-fraction",
        "0",
        "--data.path=a=b",
        "--out",
        "x",
    ]
    assert dotted_overrides(tokens) == {
        "optim.lr": "0.1",
        "augment.flip": "false",
        "data.val_fraction": "0",
        "data.path": "a=b",
        "out": "x",
    }
    assert dotted_overrides([]) == {}
    assert dotted_overrides(["--optim.lr", "-1"]) == {"optim.lr": "-1"}
    assert dotted_overrides(["--optim.lr", "1", "--optim.lr=2"]) == {"optim.lr": "2"}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--optim.lr"], "Option --optim.lr needs a value"),
        (["--optim.lr", "--optim.momentum", "0.5"], "Option --optim.lr needs a value"),
        (["--dta", "x"], "Did you mean '--data.path'"),
        # A section is no option.
        (["--fussion", "x"], "Did you mean '--fusion."),
        (["optim.lr", "1"], "Settings are given as --section.name value"),
        (["--lr", "1"], "Did you mean '--optim.lr'?"),
        (["--optim.lrr=1"], "optim.lr'"),
        (["--zzz"], "names are known. `richkd settings` lists all."),
    ],
)
def test_options_that_are_not_understood(tokens: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dotted_overrides(tokens)
    assert message in str(caught.value)
    assert str(caught.value).count("lists all") <= 1


@pytest.mark.parametrize(
    ("overrides", "got"),
    [
        ({"optim.lr": "ten"}, "'ten'"),
        ({"train.epochs": "1.5"}, "1.5"),
        ({"method.variant": "x"}, "'x'"),
        ({"teachers.1.size": "small"}, "'small'"),
        ({"student.args": "{a"}, "'{a'"),
        ({"objective": "ce"}, "'ce'"),
        # What a recipe has before it is not known.
        ({"teachers.1.size": "64", "teachers.3.name": "b", "optim.lr": "ten"}, "'ten'"),
    ],
)
def test_an_override_of_another_type_is_refused_without_a_recipe(overrides: dict[str, str], got: str) -> None:
    error = other_refusal(check_types, overrides)
    assert isinstance(error, ConfigError)
    assert error.got == got


@pytest.mark.parametrize(
    "overrides",
    [{}, {"optim.lr": "-1"}, {"teachers.2.weights": "b.pth"}, {"train.epochs": "0"}, {"fusion.mixing": "x"}],
)
def test_what_a_recipe_may_complete_or_only_the_range_refuses_is_no_other_type(
    overrides: dict[str, str],
) -> None:
    check_types(overrides)


def test_the_list_of_settings_has_each_once_with_its_default() -> None:
    listed = {setting.name: setting for setting in settings()}
    assert len(listed) == len(list(settings()))
    assert set(setting_names()) <= listed.keys()
    assert listed["optim.lr"].default == "0.05"
    assert listed["data.path"].default == listed["clip.name"].default == "required"
    assert listed["out"].default == "runs/latest"
    assert listed["augment.flip"].default == "true"
    assert listed["data.hierarchy"].meaning == "YAML file {superclass: [class, …]}"
    # Every default can be given by the setting's name.
    values = {
        name: setting.default
        for name, setting in listed.items()
        if setting.default not in ("", "required") and not name.startswith("objective.")
    }
    config = load_config(None, {**NEEDED, "clip.name": "c", **values})
    assert config.optim == OptimConfig()


def test_terms_list_their_own_settings() -> None:
    listed = {setting.name: setting for setting in settings("objective.")}
    for name in TERMS:
        assert listed[f"objective.{name}"].meaning.startswith("term: ")
        for field in TERMS[name].Config.model_fields:
            assert f"objective.{name}.{field}" in listed
    assert listed["objective.kd.temperature"].default == "3.0"


def test_a_word_filters_and_shows_experimental_values() -> None:
    def names(word: str) -> list[str]:
        (setting,) = (s for s in settings(word) if s.name == "fusion.mixing")
        return [name for name, _ in setting.choices]

    assert "simplex" not in names("")
    assert {"simplex", "confidence", "auto"} <= set(names("fusion.mixing"))
    assert all("cache" in f"{s.name} {s.meaning} {s.choices}".lower() for s in settings("cache"))
    assert list(settings("no such word")) == []


def test_every_setting_is_described() -> None:
    assert [setting.name for setting in settings() if len(setting.meaning) < 4] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim: {lr: 0.1}\ntrain: {}\noptim: {lr: 0.2}", "line 3: 'optim' appears twice, first in line 1"),
        ("optim:\n  lr: 0.1\n  lr: 0.2", "line 3: 'lr' appears twice"),
        ("a: &a [*a]", "contain itself"),
        ("[" * 5000, "nested too deeply"),
        ("x: !!python/object/apply:os.system [ls]", "python/object/apply"),
        ("x: 2024-99-99", "month"),
        ("1: 2\ndata: {path: x}\nstudent: {name: y}", "1"),
        ("null: 2\ndata: {path: x}\nstudent: {name: y}", "None"),
    ],
)
def test_hostile_recipes_are_refused_with_the_line(tmp_path: Path, text: str, words: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text, encoding="utf-8")
    error = other_refusal(load_config, recipe)
    assert isinstance(error, ConfigError)
    assert words in str(error)
    assert "recipe.yaml" in str(error)


def test_a_recipe_must_be_a_regular_file_of_a_recipes_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2 << 20))
    for path, words in (
        (tmp_path / "pipe.yaml", "a pipe"),
        (tmp_path / "large.yaml", "more than 1,048,576"),
        (tmp_path, "a folder"),
    ):
        assert words in str(other_refusal(load_config, path).got)


def test_an_option_with_a_key_twice_is_refused_and_a_long_value_is_shortened() -> None:
    settings = {"data.path": "x", "student.name": "y"}
    error = other_refusal(load_config, None, settings | {"student.args": "{depth: 2, depth: 3}"})
    assert "'depth' appears twice" in str(error)
    error = other_refusal(load_config, None, settings | {"optim.lr": "a" * 100_000})
    assert len(str(error)) < 1000


@pytest.mark.parametrize("form", ["recipe", "options", "dotted recipe"])
def test_settings_of_some_images_are_given_like_others(tmp_path: Path, form: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    words = ["--fusion.labeled.preset", "paper", "--fusion.labeled.weights=[1, 30]"]
    words += ["--fusion.labeled.entropy", "0.5", "--fusion.unlabeled.entropy", "match-teacher"]
    labeled = "{preset: paper, weights: [1, 30], entropy: 0.5}"
    recipe.write_text(f"fusion: {{labeled: {labeled}, unlabeled: {{entropy: match-teacher}}}}")
    given = dotted_overrides(words) if form == "options" else {}
    config = load_config(None if form == "options" else recipe, NEEDED | given)
    assert config.fusion.labeled is not None
    assert config.fusion.labeled.model_dump(exclude_none=True) == {
        "preset": "paper",
        "weights": (1.0, 30.0),
        "entropy": 0.5,
    }
    assert config.fusion.unlabeled is not None
    assert (config.fusion.unlabeled.entropy, config.fusion.entropy) == ("match-teacher", "own")
    # The settings of a run give the same settings again, and lack what was not given.
    written = tmp_path / "config.yaml"
    written.write_text(config.to_yaml())
    assert load_config(written) == config
    assert "labeled" not in load_config(None, NEEDED).to_yaml()


@pytest.mark.parametrize("name", ["fusion.entropy", "fusion.labeled.entropy", "fusion.unlabeled.entropy"])
@pytest.mark.parametrize(
    "value", ["0", "-1", ".nan", ".inf", "true", "[1]", "sharp", "1e400", "{a: 1}", "''"]
)
def test_an_entropy_is_one_of_two_words_or_a_positive_number(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, NEEDED | {name: value})
    assert (
        f"Setting '{name}' does not take this value: it must be own, match-teacher, or a positive number"
        in (caught.value.rule)
    )


def test_mistyped_settings_of_some_images_name_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        dotted_overrides(["--fusion.labeled.presett", "paper"])
    assert "fusion.labeled.preset" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load_config(None, NEEDED | {"fusion.labeled.features": "phi-s"})
    assert "no setting 'fusion.labeled.features'" in caught.value.rule
