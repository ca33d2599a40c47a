"""Show the doctests of docstrings as code.

Docstrings have a section ``Example:``; the parser of the site knows ``Examples:`` only.
"""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """Rename the section."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Called for every object that was read."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
