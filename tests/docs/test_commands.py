"""The checks of documented commands refuse commands that do not work."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from cyclopts.exceptions import CycloptsError

from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from tests.docs.commands import check, check_richkd, commands_of

STUDENT = "richkd distill --data photos/ --student cifar_resnet8"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("richkd distil --data photos/", CycloptsError),
        ("richkd evaluate runs/small --data photos/ --bank cache/", CycloptsError),
        (f"{STUDENT} --method ce --bank cache/", ConfigError),
        (f"{STUDENT} --method ce --optim.lrr 1", ConfigError),
        (f"{STUDENT} --method ce --optim.schedule linear", ConfigError),
        (f"{STUDENT} --method kdd --teacher resnet18", ConfigError),
        (f"{STUDENT} --method kd --teacher resnet18 --objective.kd.tau 4", ConfigError),
        (f"{STUDENT} --method ce --teacher resnet18", ConfigError),
        (f"{STUDENT} --method kd --teacher resnet18 --fusion.mixing gate", ConfigError),
        (f"{STUDENT} --method kd --teacher resnet19", AssertionError),
        (f"{STUDENT} -c no-such-recipe.yaml", ConfigError),
        ("make tests", AssertionError),
        ("make bench DATUM=x", AssertionError),
        ("python benchmarks/no_such.py", AssertionError),
        ("python benchmarks/corruptions.py --images many", Exception),
        ("python benchmarks/corruptions.py --imges 5", BaseException),
        ("python -m pytest tests/no_such_folder", AssertionError),
        ("pip install '.[tflite]'", AssertionError),
        ("pip install something", AssertionError),
        ("npm install --prefix examples/none", AssertionError),
        ("richkd export runs/small", CycloptsError),
        ("richkd benchmark small.onnx --batch many", CycloptsError),
        ("curl https://example.com", AssertionError),
    ],
)
def test_commands_that_do_not_work(command: str, error: type[BaseException]) -> None:
    (words,) = commands_of(command)
    with pytest.raises(error):
        check(words)


def test_commands_that_work() -> None:
    config = check_richkd(shlex.split(f"{STUDENT} --method kd --teacher resnet18 --epochs 3")[1:])
    assert isinstance(config, Config)
    assert (config.teachers[0].name, config.train.epochs) == ("resnet18", 3)
    check(["make", "bench", "DATA=x"])
    check(["richkd", "settings", "optim"])
    check(shlex.split("accelerate launch --num_processes 2 -m richkd settings optim"))
    check(shlex.split("torchrun --nproc_per_node 2 -m richkd settings optim"))


def test_comments_and_continued_lines() -> None:
    text = "PYTHONPATH=. python a.py --x \\\n    1  # a comment\n# another one\n\nmake test\n"
    assert list(commands_of(text)) == [["python", "a.py", "--x", "1"], ["make", "test"]]
    assert list(commands_of("make test > log  # kept")) == [["make", "test"]]


def test_nothing_stays_replaced() -> None:
    from richkd.evaluate import run
    from richkd.reporting.report import collect

    check_richkd(["report", "runs/small"])
    assert vars(collect)["evaluate_models"] is run.evaluate_models
    assert Path(run.evaluate_models.__code__.co_filename).name == "run.py"
