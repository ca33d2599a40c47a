"""The terminal: a console that shows text as it is, never as markup or as a command to the terminal."""

from __future__ import annotations

from typing import IO, Any

from rich.console import Console
from rich.text import Text

from richkd.core.visible import visible


class Terminal(Console):
    """rich's console for text that may contain names from data, files and settings.

    Strings are shown by `visible`, also those in tables. ``[bold]`` and ``:bug:`` are no markup. Text with
    a style or with line breaks of our own is printed as `rich.text.Text`.

    Args:
        stderr: print to standard error.
        quiet: print nothing.
        width: width in characters; by default that of the terminal.
        file: where to print; by default standard output.

    Example:
        >>> Terminal().print("class [red]a[/] and b\\x1b[2J", soft_wrap=True)
        class [red]a[/] and b\\x1b[2J
    """

    def __init__(
        self,
        *,
        stderr: bool = False,
        quiet: bool = False,
        width: int | None = None,
        file: IO[str] | None = None,
    ) -> None:
        super().__init__(
            stderr=stderr, quiet=quiet, width=width, file=file, highlight=False, markup=False, emoji=False
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as text; rich calls this for every string, also in tables."""
        return super().render_str(visible(text), **options | {"markup": False, "emoji": False})


def log_to_stderr(message: str) -> None:
    """Print one line of progress to standard error, which keeps standard output for results.

    Example:
        >>> log_to_stderr("2 models evaluated")
    """
    Terminal(stderr=True).print(message, soft_wrap=True)
