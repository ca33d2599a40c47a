"""Check shell commands of the documentation without running them."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pkgutil
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import timm

import richkd
from richkd.cli import app
from richkd.config.loading import load_config
from richkd.config.model_name import parse_model_name
from richkd.config.schema import Config
from richkd.methods.objective import read_objective
from richkd.pipeline.roles import assign_roles
from richkd.pipeline.unused import refuse_unused
from tests.docs.blocks import ROOT

# A module that is imported while a stub is in place would keep it, so all are imported before.
for _module in pkgutil.walk_packages(richkd.__path__, "richkd."):
    if not _module.name.endswith("__main__"):
        importlib.import_module(_module.name)

# What each command calls. A stub raises `Reached` there, after all options and settings were read.
LIBRARY = (
    "richkd.training.run.distill",
    "richkd.training.run.teach_folds",
    "richkd.training.check.check_run",
    "richkd.pipeline.assemble.assemble",
    "richkd.evaluate.run.evaluate_models",
    "richkd.reporting.report.collect.collect",
    "richkd.compare.run.compare",
    "richkd.tune.run.tune",
    "richkd.tune.before.tuned",
    "richkd.export.student.load_student",
    "richkd.export.hub.plan_upload",
    "richkd.export.artifact.open_classifier",
    "richkd.export.run.export_student",
    "richkd.export.latency.benchmark_all",
    "richkd.pipeline.fill_cache.fill_caches",
    "richkd.pipeline.fill_cache.verify_caches",
    "richkd.pipeline.fill_cache.open_caches",
    "richkd.pipeline.import_outputs.import_outputs",
    "richkd.teachers.cache.removal.remove_cache",
    "richkd.demo.run.run_demo",
    "richkd.doctor.report.examine",
)
# Commands whose settings describe a run, so that its objective and its teachers must fit each other.
RUNS = (["distill"], ["teach"], ["check"], ["probe"], ["cache", "fill"])
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
VARIABLE = re.compile(r"^([A-Z]+) \?=", re.MULTILINE)
TARGET = re.compile(r"^(\w[\w-]*):", re.MULTILINE)


class Reached(Exception):
    """A command called the library; ``args`` are the arguments of the call."""


def commands_of(text: str) -> Iterator[list[str]]:
    """The commands of a shell block as lists of words.

    Comments and files that output goes to are left out, continued lines are joined.
    """
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        if ">" in words[-2:-1]:
            words = words[:-2]
        if words:
            yield words


def check(words: Sequence[str], files: Sequence[str] = ()) -> None:
    """Check one command: its program, its options and its settings.

    Args:
        files: paths, relative to the repository, that exist besides those of the repository.
    """
    program, arguments = Path(words[0]).name, list(words[1:])
    if program == "accelerate":
        assert arguments[0] == "launch", words
    if program in ("accelerate", "torchrun"):
        module = arguments.index("-m")
        program, arguments = arguments[module + 1], arguments[module + 2 :]
    if program == "richkd":
        check_richkd(arguments)
    elif program == "make":
        check_make(arguments)
    elif program == "python" and arguments[0] != "-m":
        check_script(ROOT / arguments[0], arguments[1:])
    elif program == "pip":
        check_pip(arguments)
    elif program == "npm":
        assert arguments[:2] == ["install", "--prefix"], words
        assert (ROOT / arguments[2] / "package.json").is_file(), f"{arguments[2]} has no package.json"
    elif program == "mkdir":
        assert arguments[0] == "-p", "folders may be there already, and those around them may not"
    elif program in ("python", "ruff", "mypy", "cp"):
        for path in _paths(arguments):
            assert (ROOT / path).exists() or path in files, f"{path} does not exist"
    else:
        raise AssertionError(f"no rule for the program {program}: {shlex.join(words)}")


def check_make(words: Sequence[str]) -> None:
    """Check that the Makefile has these targets and variables (``NAME=VALUE``)."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in words if not ASSIGNMENT.fullmatch(word)]
    variables = [word.partition("=")[0] for word in words if word not in targets]
    assert targets, "make needs a target"
    assert set(targets) <= set(TARGET.findall(makefile)), f"the Makefile lacks one of {targets}"
    assert set(variables) <= set(VARIABLE.findall(makefile)), f"the Makefile lacks one of {variables}"


def check_pip(words: Sequence[str]) -> None:
    """Check that the package of a clone is installed, which is on no index, with extras that it has."""
    assert words[0] == "install", words
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words[1:]:
        name, _, extras = word.removesuffix("]").partition("[")
        assert name == ".", f"no rule for {word}"
        for extra in filter(None, extras.split(",")):
            assert extra in project["optional-dependencies"], f"there is no extra {extra}"


def check_richkd(words: Sequence[str]) -> Config | None:
    """Parse a command of ``richkd`` up to the call of the library; returns the settings of a run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in LIBRARY:
            module, _, function = name.rpartition(".")
            patch.setattr(importlib.import_module(module), function, _reach)
        # `richkd cache verify` looks for damage before it reads the settings.
        manifest = importlib.import_module("richkd.teachers.cache.manifest")
        patch.setattr(manifest, "list_caches", lambda folder: [folder])
        patch.setattr("richkd.pipeline.fill_cache.damaged_shards", lambda folder: [])
        # The run that --from names is not read; it has these settings.
        patch.setattr("richkd.cli.options.recipe_of", _recipe)
        try:
            app(list(words), exit_on_error=False, print_error=False, result_action="return_value")
        except Reached as call:
            config = next((value for value in call.args if isinstance(value, Config)), None)
            if config is not None:
                _check_models(config)
                if any(list(words[: len(command)]) == command for command in RUNS):
                    check_run(config)
            return config
    return None


def check_run(config: Config) -> None:
    """Check that the objective, the teachers and the settings of a run fit each other."""
    specs = read_objective(config)
    refuse_unused(config, specs, assign_roles(config, specs))


def check_script(script: Path, words: Sequence[str]) -> None:
    """Check that a script exists and that its parser accepts these options."""
    assert script.is_file(), f"{script} does not exist"
    assert "ArgumentParser" in script.read_text(encoding="utf-8"), f"{script} does not parse options"
    parse_args = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        parser.exit_on_error = False
        parse_args(parser, list(words))
        raise Reached

    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Reached):
        patch.syspath_prepend(script.parent)
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        runpy.run_path(str(script), run_name="__main__")
        raise AssertionError(f"{script} does not parse options")
    # The modules of benchmarks/ have short names, which must not hide other modules.
    for name in set(sys.modules) - before:
        if str(script.parent) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def _reach(*args: Any, **kwargs: Any) -> None:
    raise Reached(*args, *kwargs.values())


def _recipe(run: Path, settings: Mapping[str, Any]) -> Config:
    return load_config(None, {"data.path": "photos", "student.name": "resnet50", **settings})


def _check_models(config: Config) -> None:
    for model in (config.student, *config.teachers):
        if parse_model_name(model.name).kind == "name":
            assert timm.is_model(model.name), f"timm has no model {model.name}"


def _paths(arguments: Sequence[str]) -> list[str]:
    return [word for word in arguments if not word.startswith("-") and ("/" in word or word.endswith(".py"))]
