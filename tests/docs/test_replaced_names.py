"""What a test replaces by name exists, also in the slow tests that run less often."""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT


def replaced_names(file: Path) -> Iterator[str]:
    """The dotted names that are the first argument of ``setattr`` and ``delattr`` of ``monkeypatch``."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="setattr" | "delattr"), args=[ast.Constant(value=str(name)), *_]
            ):
                yield name


NAMES = sorted(
    {
        name
        for folder in ("tests", "examples")
        for file in (ROOT / folder).rglob("*.py")
        for name in replaced_names(file)
    }
)


@pytest.mark.parametrize("name", NAMES)
def test_a_replaced_name_exists(name: str) -> None:
    pkgutil.resolve_name(name)


def test_names_are_found(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(
        'monkeypatch.setattr("os.path.exists", None)\nmonkeypatch.delattr("os.getuid")\nsetattr(a, "b", 1)\n'
    )
    assert list(replaced_names(file)) == ["os.path.exists", "os.getuid"]
