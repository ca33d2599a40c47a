"""docs/layout.md names every module of the package, and no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from richkd.config.choices import TERMS
from tests.docs.blocks import ROOT, blocks_of

LAYOUT = ROOT / "docs" / "layout.md"
PACKAGE = PurePosixPath("src/richkd")
INDENT = 2


def tree() -> Iterator[tuple[PurePosixPath, str]]:
    """Each path of the file tree with its description; the path of a folder has no suffix."""
    (text,) = (block.text for block in blocks_of(LAYOUT) if block.text.startswith(f"{PACKAGE}/"))
    parents: list[PurePosixPath] = []
    for line in text.splitlines():
        name, _, description = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // INDENT
        path = (parents[depth - 1] if depth else PurePosixPath()) / name
        parents[depth:] = [path]
        yield path, description.strip()


def package_files() -> tuple[set[str], set[str]]:
    """The packages and the modules of the source tree; ``__init__.py`` stands for its package."""
    files = [file.relative_to(ROOT).as_posix() for file in (ROOT / PACKAGE).rglob("*.py")]
    packages = {str(Path(file).parent) for file in files if file.endswith("__init__.py")}
    return packages, {file for file in files if not file.endswith("__init__.py")}


def test_the_tree_has_exactly_the_modules_of_the_package() -> None:
    packages, modules = package_files()
    paths = [path for path, _ in tree()]
    assert len(paths) == len(set(paths))
    named = {str(path) for path in paths if path.is_relative_to(PACKAGE)}
    listed = {path for path in named if path.endswith(".py")}
    # A loss term is one module, which its card and `richkd settings objective` describe.
    terms = {f"src/{TERMS[name].__module__.replace('.', '/')}.py" for name in TERMS}
    assert listed <= modules
    assert modules - listed <= terms
    assert {path for path in named if not PurePosixPath(path).suffix} >= packages
    assert all((ROOT / path).exists() for path in paths)


def test_every_line_of_the_tree_has_a_description() -> None:
    assert [str(path) for path, description in tree() if not description] == []


def test_the_layers_are_the_packages_and_imports_run_downward() -> None:
    layers = layers_of_page()
    packages, _ = package_files()
    assert sorted(layers) == sorted(
        name.removeprefix(f"{PACKAGE}/")
        for name in packages
        if name.count("/") == PACKAGE.as_posix().count("/") + 1
    )
    upward = [
        f"{file.relative_to(ROOT)} imports {imported}"
        for layer in layers
        for file in sorted((ROOT / PACKAGE / layer).rglob("*.py"))
        for imported in imports_of(file)
        if layers.index(imported) > layers.index(layer)
    ]
    assert upward == []


def layers_of_page() -> list[str]:
    """The packages of the line of layers, lowest first."""
    (line,) = (
        line for line in LAYOUT.read_text(encoding="utf-8").splitlines() if line.startswith("`core` ←")
    )
    return [name.strip(" `") for name in line.replace("←", ",").split(",")]


def imports_of(file: Path) -> Iterator[str]:
    """The packages of richkd that a module imports from, at any place in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("richkd."))
