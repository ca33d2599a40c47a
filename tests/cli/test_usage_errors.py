"""Mistakes in a command line have the form of all other errors: rule, received value, fix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from cyclopts import App
from cyclopts.argument import Argument

from richkd.cli import app, main
from richkd.cli.exit_status import USAGE

HELP = "`richkd {} --help` shows how it is used."


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
        (["demo", "--out"], f"Option --out must be given\nGot: no value\nFix: {HELP.format('demo')}"),
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
