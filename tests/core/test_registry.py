"""Registries: named entries, read lazily, whose names settings and messages share."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from richkd.config import choices
from richkd.core.errors import ConfigError
from richkd.core.registry import Entry, OneOf, Registry
from tests.fixtures import refusal


def shapes() -> Registry[int]:
    """Three entries, one of them an experiment; their home registers nothing."""
    registry = Registry[int]("shape", home="richkd.core.registry")
    registry.register("triangle", "three corners")(3)
    registry.register("square", "four corners")(4)
    registry.register("heptagon", "seven corners", experimental=True)(7)
    return registry


def test_entries_are_read_by_name_and_keep_their_order() -> None:
    registry = shapes()
    assert list(registry) == ["triangle", "square", "heptagon"]
    assert len(registry) == 3
    assert registry["square"] == 4
    assert registry.entry("square") == Entry("square", 4, "four corners")
    assert "square" in registry
    assert "circle" not in registry
    assert 4 not in registry


def test_registering_returns_what_is_registered() -> None:
    registry = Registry[type]("kind", home="richkd.core.registry")

    @registry.register("first", "a class")
    class First:
        pass

    assert isinstance(First, type)
    assert registry["first"] is First


def test_a_name_is_registered_once() -> None:
    registry = shapes()
    with pytest.raises(AssertionError, match="shape 'square' is registered twice"):
        registry.register("square", "again")(5)
    assert registry["square"] == 4


@pytest.mark.parametrize("read", [Registry.__getitem__, Registry.entry])
@pytest.mark.parametrize(
    ("name", "hint"),
    [("sqare", "Did you mean 'square'?"), ("qqq", "Known: heptagon, square, triangle")],
)
def test_an_unknown_name_is_an_error_with_the_nearest_name(read: object, name: str, hint: str) -> None:
    error = refusal(read, shapes(), name)
    assert isinstance(error, ConfigError)
    assert error.rule == f"There is no shape '{name}'"
    assert error.fix == hint


def test_experimental_entries_are_left_out_on_request() -> None:
    registry = shapes()
    assert [entry.name for entry in registry.entries()] == ["triangle", "square", "heptagon"]
    assert [entry.name for entry in registry.entries(experimental=False)] == ["triangle", "square"]
    assert [entry.experimental for entry in registry.entries()] == [False, False, True]
    # They can still be chosen.
    assert registry["heptagon"] == 7


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that notes its import, and registers an entry in each of its two modules."""
    package = tmp_path / "registry_home"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from richkd.core.registry import Registry\n"
        "LOADED = []\n"
        "COLORS = Registry('color', home='registry_home')\n"
    )
    for name in ("blue", "red"):
        (package / f"{name}.py").write_text(
            "from registry_home import COLORS, LOADED\n"
            f"LOADED.append('{name}')\n"
            f"COLORS.register('{name}', 'a color')('{name}!')\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "registry_home"
    for name in [name for name in sys.modules if name.partition(".")[0] == "registry_home"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "read",
    [
        lambda registry: registry["red"],
        lambda registry: registry.entry("red"),
        lambda registry: "red" in registry,
        list,
        len,
        lambda registry: registry.entries(),
    ],
    ids=["getitem", "entry", "contains", "iter", "len", "entries"],
)
def test_every_module_of_the_home_package_is_imported_on_first_read(home: str, read: object) -> None:
    module = importlib.import_module(home)
    registry: Registry[str] = module.COLORS
    # Neither the declaration nor another registration imports the modules.
    registry.register("white", "a color")("white!")
    assert module.LOADED == []
    assert read(registry)  # type: ignore[operator]
    assert module.LOADED == ["blue", "red"]
    assert list(registry) == ["white", "blue", "red"]
    assert registry["red"] == "red!"
    assert module.LOADED == ["blue", "red"], "a module is imported once"


def test_a_new_module_is_all_that_a_new_entry_needs(home: str, tmp_path: Path) -> None:
    (tmp_path / "registry_home" / "green.py").write_text(
        "from registry_home import COLORS\nCOLORS.register('green', 'a color')('green!')\n"
    )
    assert sorted(importlib.import_module(home).COLORS) == ["blue", "green", "red"]


def test_declaring_the_choices_imports_no_implementation() -> None:
    code = (
        "import sys, richkd.config.choices\n"
        "homes = ('richkd.fusion', 'richkd.methods', 'richkd.data', 'richkd.evaluate', 'torch')\n"
        "print([name for name in sys.modules if name.startswith(homes)])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


@pytest.mark.parametrize("name", ["AUGMENTATIONS", "SCALES", "MIXINGS", "TERMS", "CORRUPTIONS", "FORMATS"])
def test_every_registry_of_the_package_has_entries_that_explain_themselves(name: str) -> None:
    registry = getattr(choices, name)
    assert len(registry) >= 3
    for entry in registry.entries():
        assert registry[entry.name] is entry.value
        assert entry.name == entry.name.lower().replace(" ", "-")
        assert len(entry.summary.split()) >= 2, entry.name
    assert registry.entries(experimental=False)


SHAPES = shapes()


class Drawing(BaseModel):
    """Settings that choose from a registry."""

    shape: Annotated[str, OneOf(SHAPES)] = "square"
    frame: Annotated[str | None, OneOf(SHAPES)] = None


def test_a_setting_takes_names_of_entries_and_none_where_it_is_optional() -> None:
    assert Drawing().shape == "square"
    assert Drawing(shape="heptagon", frame="triangle").model_dump() == {
        "shape": "heptagon",
        "frame": "triangle",
    }
    assert Drawing(frame=None).frame is None


@pytest.mark.parametrize("field", ["shape", "frame"])
@pytest.mark.parametrize(
    ("name", "hint"),
    [("sqare", "Did you mean 'square'?"), ("qqq", "Known: heptagon, square, triangle")],
)
def test_a_setting_refuses_other_names_with_the_names_of_the_registry(
    field: str, name: str, hint: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate({field: name})
    (error,) = caught.value.errors()
    assert error["loc"] == (field,)
    assert f"no shape '{name}'; {hint}" in error["msg"]


def test_a_setting_refuses_what_is_no_name() -> None:
    for value in (4, ["square"], None):
        with pytest.raises(ValidationError):
            Drawing.model_validate({"shape": value})
