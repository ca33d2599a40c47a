"""Public names have an example in their docstring. The examples themselves run as doctests."""

from __future__ import annotations

import ast
import doctest
from collections.abc import Iterator

import pytest

import richkd
from tests.docs.blocks import ROOT

PACKAGE = ROOT / "src" / "richkd"
# Layers whose functions are pure enough for a short example.
PURE = ("core", "config", "data", "losses", "models", "metrics", "fusion", "methods")


def has_example(node: ast.AST) -> bool:
    """Whether a function or class, or a method of the class, has an example."""
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    parts = [node, *(part for part in node.body if isinstance(part, ast.FunctionDef))]
    return any(doctest.DocTestParser().get_examples(ast.get_docstring(part) or "") for part in parts)


def public_functions(layer: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every public function at the top level of a layer's modules, with its file."""
    for file in sorted((PACKAGE / layer).rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{file.relative_to(PACKAGE)}::{node.name}", node


@pytest.mark.parametrize("layer", PURE)
def test_every_public_function_has_an_example(layer: str) -> None:
    functions = dict(public_functions(layer))
    assert functions
    assert [name for name, node in functions.items() if not has_example(node)] == []


@pytest.mark.parametrize("name", richkd.__all__)
def test_every_name_of_the_package_has_an_example(name: str) -> None:
    home = getattr(richkd, name).__module__.removeprefix("richkd.").replace(".", "/")
    tree = ast.parse((PACKAGE / f"{home}.py").read_text(encoding="utf-8"))
    # The last one of a name is what is called; those before it declare types of arguments.
    *_, node = (part for part in tree.body if getattr(part, "name", None) == name)
    assert has_example(node)


def test_a_docstring_without_an_example_is_found() -> None:
    (with_one, without) = ast.parse('def f():\n  """>>> 1\n  1"""\ndef g():\n  """Text."""').body
    assert has_example(with_one)
    assert not has_example(without)
