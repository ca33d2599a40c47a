"""Code blocks, and other code, in the Markdown files of the project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README, CONTRIBUTING, CHANGELOG = (ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG"))
# Documents whose code has to work today. The change log also names settings of earlier versions.
DOCUMENTS = (README, CONTRIBUTING, *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^(\s*)```(\w*)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        file: the document.
        line: line number of the opening fence, from 1.
        language: its label; empty if it has none.
        text: its lines, without the indentation of the fence.
    """

    file: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def blocks_of(file: Path) -> tuple[Block, ...]:
    """The fenced code blocks of a document, in order."""
    return tuple(block for block in _parts(file) if isinstance(block, Block))


def prose_of(file: Path) -> tuple[tuple[int, str], ...]:
    """The lines of a document outside its code blocks, with their numbers."""
    return tuple(part for part in _parts(file) if not isinstance(part, Block))


def _parts(file: Path) -> Iterator[Block | tuple[int, str]]:
    lines = iter(enumerate(file.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        opening = FENCE.match(line)
        if opening is None:
            yield number, line
            continue
        indent, inner = len(opening[1]), []
        for _, code in lines:
            if code.strip() == "```":
                break
            inner.append(code[indent:] if not code[:indent].strip() else code)
        else:
            raise AssertionError(f"{file.name}:{number}: the code block is not closed")
        yield Block(file, number, opening[2], "\n".join(inner) + "\n")
