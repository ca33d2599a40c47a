"""Errors of the runs of a plan, each of them once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from richkd.core.errors import NAMED, Problems, RichKDError

T = TypeVar("T")


class RunProblems:
    """Collects errors of runs; an error that several methods have is one, with the names of these methods.

    Example:
        >>> def refuse():
        ...     raise RichKDError("The teacher must exist", got="none")
        >>> problems = RunProblems()
        >>> problems.attempt("kd", refuse), problems.attempt("richkd", refuse), problems.attempt("ce", int)
        (None, None, 0)
        >>> try:
        ...     problems.refuse_all()
        ... except RichKDError as error:
        ...     print(error)
        The teacher must exist (kd; richkd)
        Got: none
    """

    def __init__(self) -> None:
        self.errors: dict[str, tuple[RichKDError, list[str]]] = {}

    def attempt(self, name: str, function: Callable[..., T], *args: Any) -> T | None:
        """The result of a call, or None if it raised an error, which is then that of a name."""
        try:
            return function(*args)
        except RichKDError as error:
            _, names = self.errors.setdefault(str(error), (error, []))
            if name and name not in names:
                names.append(name)
            return None

    def refuse_all(self) -> None:
        """Raise all errors as one; do nothing without errors.

        Raises:
            RichKDError: the errors; each names at most three methods.
        """
        problems = Problems()
        for error, names in self.errors.values():
            more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
            where = f" ({'; '.join(names[:NAMED])}{more})" if names else ""
            named = type(error)(f"{error.rule}{where}", got=error.got, fix=error.fix)
            named.problems = error.problems
            problems.errors.append(named)
        problems.refuse_all()
