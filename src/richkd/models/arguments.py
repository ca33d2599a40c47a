"""Arguments of the constructors of models: their names, and errors about them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from richkd.core.errors import ModelError, nearest
from richkd.models.probe import first_line


def option(role: str, setting: str) -> str:
    """The command-line option of a setting of a model.

    Example:
        >>> option("student", "args"), option("teacher", "args")
        ('--student.args', '--teachers.1.args')
    """
    return f"--{'student' if role == 'student' else 'teachers.1'}.{setting}"


def parameters_of(constructor: Any) -> tuple[str, ...]:
    """Names of the arguments of a callable; none if they cannot be known.

    Example:
        >>> parameters_of(lambda num_classes, width=6: None)
        ('num_classes', 'width')
    """
    try:
        return tuple(inspect.signature(constructor).parameters)
    except (TypeError, ValueError):
        return ()


def not_built(
    name: str, args: Mapping[str, Any], role: str, error: BaseException, constructor: Any
) -> ModelError:
    """The error for a constructor that raised an exception; names an unknown argument.

    Example:
        >>> print(not_built("net", {}, "student", ValueError("no"), None))
        The student net could not be built
        Got: ValueError: no
        Fix: see what net needs.
    """
    known = parameters_of(constructor)
    unknown = [arg for arg in args if known and arg not in known]
    fix = f"see what {name} needs."
    if args:
        # A partial function, or an object that can be called, has no name of its own.
        shown = getattr(constructor, "__name__", name)
        hint = f" {nearest(unknown[0], known, f'help({shown}) lists all.')}" if unknown else ""
        fix = f"correct or remove {', '.join(unknown or args)} in {option(role, 'args')}.{hint}"
    return ModelError(f"The {role} {name} could not be built", got=first_line(error), fix=fix)
