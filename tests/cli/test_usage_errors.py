"""Mistakes in a command line have the form of all other errors: rule, received value, fix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from cyclopts import App
from cyclopts.argument import Argument

from richkd.cli import app, main
from richkd.cli.exit_status import FAILED, USAGE

HELP = "`richkd {} --help` shows how it is used."
LISTING = "`richkd settings` lists all."
# The options of predict besides --help.
PREDICT = "5 names are known."
RUN = ["distill", "--data", "photos", "--student", "resnet18"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distil"], "There is no command richkd distil\nFix: Did you mean 'distill'?"),
        (["cache", "lss"], "There is no command richkd cache lss\nFix: Did you mean 'ls'?"),
        (["xyz"], "There is no command richkd xyz\nFix: 17 names are known. `richkd --help` lists them."),
        (["evaluate", "m"], f"Option --data must be given\nGot: no value\nFix: {HELP.format('evaluate')}"),
        (["cache", "rm"], f"Argument FOLDER must be given\nGot: no value\nFix: {HELP.format('cache rm')}"),
        (
            ["demo", "--out", ""],
            f"Option --out cannot be used: the path is empty\nGot: ''\nFix: {HELP.format('demo')}",
        ),
        (
            ["demo", "--out"],
            "Option --out needs a value\nGot: no value\nFix: write --out VALUE, such as --out runs/small.",
        ),
        (
            ["predict", "m", "x.png", "--out"],
            "Option --out needs a value\nGot: no value\nFix: write --out VALUE, "
            "such as --out predictions.csv.",
        ),
        (
            ["distill", "--data", "photos", "--tune", "-5m"],
            "Option --tune needs a value\nGot: no value\nFix: write --tune VALUE, such as --tune 10m.",
        ),
        (
            ["evaluate", "m", "--data", "x", "--checkpoint"],
            "Option --checkpoint needs a value\nGot: no value\nFix: write --checkpoint VALUE, "
            "such as --checkpoint best.",
        ),
        (
            ["predict", "m", "x.png", "--top"],
            "Option --top needs a value\nGot: no value\nFix: write --top VALUE.",
        ),
        (
            ["benchmark", "small.onnx", "--batch"],
            "Option --batch needs a value\nGot: no value\nFix: write --batch VALUE, such as --batch 1 8.",
        ),
        (
            ["benchmark", "small.onnx", "--picture", "--batch", "1"],
            "Option --picture needs a value\nGot: no value\nFix: write --picture VALUE, "
            "such as --picture 480 640.",
        ),
        (
            ["teach", "--data", "photos", "--folds", "2", "3"],
            f"Option --folds takes at most 1 value\nGot: 2 3\nFix: {HELP.format('teach')}",
        ),
        (["distill", "--dta", "photos"], "There is no option --dta\nFix: Did you mean '--data'? " + LISTING),
        (["check", "--dta", "photos"], "There is no option --dta\nFix: Did you mean '--data'? " + LISTING),
        (["cache", "fill", "--dta", "x"], "There is no option --dta\nFix: Did you mean '--data'? " + LISTING),
        (
            ["cache", "verify", "tests", "--sampel", "3"],
            "There is no option --sampel\nFix: Did you mean '--sample'? " + LISTING,
        ),
        (
            ["distill", "--overwrte"],
            "There is no option --overwrte\nFix: Did you mean '--overwrite'? " + LISTING,
        ),
        (["teach", "--frmo", "x"], "There is no option --frmo\nFix: Did you mean '--from'? " + LISTING),
        ([*RUN, "--optim.lr"], "Option --optim.lr needs a value\nFix: write --optim.lr VALUE."),
        (
            [*RUN, "--train.epochs", "1.5"],
            "Setting 'train.epochs' does not take this value: Input should be a valid integer, got a number "
            "with a fractional part\nGot: 1.5\nFix: see `richkd settings train.epochs`.",
        ),
        (["predict", "m", "x.png", "--tp", "3"], "There is no option --tp\nFix: Did you mean '--top'?"),
        (
            ["predict", "m", "--xyzzyx=3"],
            f"There is no option --xyzzyx\nFix: {PREDICT} {HELP.format('predict')}",
        ),
        (
            [*RUN, "--tune", "5x"],
            "Option --tune must be a time\nGot: '5x'\nFix: write --tune 10m, 1.5h or 90s.",
        ),
        (
            ["distill", "--epochs", "x"],
            f"Option --epochs must be a whole number\nGot: 'x'\nFix: {HELP.format('distill')}",
        ),
        (
            ["distill", "--resume=maybe"],
            f"Option --resume must be true or false\nGot: 'maybe'\nFix: {HELP.format('distill')}",
        ),
        (
            ["teach", "--folds", "two"],
            f"Option --folds must be a whole number\nGot: 'two'\nFix: {HELP.format('teach')}",
        ),
        (
            ["completion", "tcsh"],
            f"Argument SHELL must be bash or zsh or fish\nGot: 'tcsh'\nFix: {HELP.format('completion')}",
        ),
        (
            ["export", "x", "--to", "onnx", "--max-dorp", "1"],
            "richkd export has no option --max-dorp\nFix: Did you mean '--max-drop'?",
        ),
        (
            ["evaluate", "m", "--data", "x", "--splti", "val"],
            "richkd evaluate has no option --splti\nFix: Did you mean '--split'?",
        ),
        (
            ["tune", "a.yaml", "b.yaml"],
            f"richkd tune takes fewer arguments\nGot: b.yaml\nFix: remove it; {HELP.format('tune')}",
        ),
        (
            ["evaluate", "m", "--data", "a", "--data", "b"],
            "Option --data must be given once\nGot: several values\nFix: keep one of them.",
        ),
    ],
)
def test_what_was_wrong_is_said(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == USAGE
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", f"error: ConfigError\n{message}\n")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--optim.lr", "ten"], USAGE),
        (["--optim.lr", "[0.1"], USAGE),
        (["--fusion.weights", "[1, x]"], USAGE),
        (["--method.variant", "x"], USAGE),
        (["--teachers.1.nme", "x"], USAGE),
        # A number that is out of range is of the right type.
        (["--optim.lr", "0"], FAILED),
        (["--epochs", "0"], FAILED),
        (["--fusion.mixing", "x"], FAILED),
    ],
)
def test_a_value_of_another_type_is_no_word_of_the_command_line(words: list[str], status: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*RUN, *words])
    assert ended.value.code == status


def test_a_value_of_another_type_in_a_recipe_is_wrong_input(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {path: photos}\nstudent: {name: resnet18}\noptim: {lr: ten}")
    with pytest.raises(SystemExit) as ended:
        main(["distill", "-c", str(recipe)])
    assert ended.value.code == FAILED


def test_hidden_characters_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["distill", "--epochs", "\x1b[31m"])
    assert "\x1b" not in capsys.readouterr().err


def parameters(app: App) -> Iterator[tuple[str, Argument]]:
    for name in app:
        if name.startswith("-"):
            continue
        if app[name].default_command is None:
            yield from parameters(app[name])
        else:
            yield from ((name, argument) for argument in app[name].assemble_argument_collection())


def test_no_path_may_be_empty() -> None:
    """An empty path, as of an unset variable of the shell, would be this folder."""
    paths = [
        (name, argument)
        for name, argument in parameters(app)
        if Path in (argument.hint, *get_args(argument.hint))
    ]
    assert len(paths) > 20
    for name, argument in paths:
        assert argument.parameter.converter is not None, (name, argument.names)
