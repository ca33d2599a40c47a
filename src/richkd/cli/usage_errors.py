"""Mistakes in a command line that its parser finds, as errors with rule, received value and fix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from cyclopts import App
from cyclopts.argument import Argument
from cyclopts.exceptions import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from richkd.config.names import nearest_option
from richkd.core.errors import ConfigError, nearest
from richkd.core.visible import counted

KINDS: Mapping[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}
# Values of options, of all commands or of one, as examples.
EXAMPLES = {
    "--data": "photos/",
    "--student": "resnet18",
    "--model": "resnet18",
    "--teacher": "resnet50",
    "--clip": "ViT-B-32:openai",
    "--out": "runs/small",
    "predict --out": "predictions.csv",
    "export --out": "small.onnx",
    "--tune": "10m",
    "--config": "recipe.yaml",
    "-c": "recipe.yaml",
    "--epochs": "30",
    "--batch": "1 8",
    "--picture": "480 640",
}


class UsageError(ConfigError):
    """A mistake in the words of a command line that the command itself finds, not its parser.

    Example:
        >>> isinstance(UsageError("There is no option --tp"), ConfigError)
        True
    """


@contextmanager
def reading_words() -> Iterator[None]:
    """Context in which a `ConfigError` is about the words of the command line: it becomes a `UsageError`.

    Example:
        >>> try:
        ...     with reading_words():
        ...         raise ConfigError("There is no option --tp", fix="Did you mean '--top'?")
        ... except UsageError as error:
        ...     error.fix
        "Did you mean '--top'?"
    """
    try:
        yield
    except ConfigError as error:
        raise UsageError(error.rule, got=error.got, fix=error.fix) from None


def as_config_error(error: CycloptsError | UsageError, app: App) -> ConfigError:
    """Convert a mistake to an error with the rule that was broken, the received value and the fix.

    Args:
        error: what the parser or the command found.
        app: the commands.

    Example:
        >>> from richkd.cli import app
        >>> try:
        ...     app(["distill", "--epochs", "many"], exit_on_error=False, print_error=False)
        ... except CycloptsError as error:
        ...     print(as_config_error(error, app))
        Option --epochs must be a whole number
        Got: 'many'
        Fix: `richkd distill --help` shows how it is used.
    """
    if isinstance(error, UsageError):
        return ConfigError(error.rule, got=error.got, fix=error.fix)
    command = " ".join(("richkd", *(error.command_chain or ())))
    shown = f"`{command} --help` shows how it is used."
    name = _named(error)
    if isinstance(error, UnknownCommandError):
        word = (error.unused_tokens or [""])[0]
        fix = nearest(word, _commands(app, error.command_chain or ()), f"`{command} --help` lists them.")
        return ConfigError(f"There is no command {command} {word}", fix=fix)
    if isinstance(error, MissingArgumentError):
        return _missing(error, name, shown)
    if isinstance(error, CoercionError):
        got = repr(error.token.value) if error.token is not None else None
        kind = kind_of(error.target_type)
        # The message of a converter of this package already has the rule.
        rule = f"{name} must be {kind}" if kind else f"{name} cannot be used: {error.msg}"
        return ConfigError(rule, got=got, fix=shown)
    if isinstance(error, RepeatArgumentError):
        return ConfigError(f"{name} must be given once", got="several values", fix="keep one of them.")
    if isinstance(error, UnknownOptionError):
        option = str(error.token.keyword or error.token.value)
        known = options_of(error.argument_collection or ())
        return ConfigError(f"{command} has no option {option}", fix=nearest_option(option, known, shown))
    if isinstance(error, UnusedCliTokensError):
        words = " ".join(error.unused_tokens or ())
        return ConfigError(f"{command} takes fewer arguments", got=words, fix=f"remove it; {shown}")
    return ConfigError(f"{command} must be called as its help shows", got=str(error), fix=shown)


def options_of(arguments: Iterable[Argument]) -> list[str]:
    """The names of the options of a command.

    Example:
        >>> from richkd.cli import app
        >>> options_of(app["completion"].assemble_argument_collection()), options_of([])
        ([], [])
    """
    return [name for argument in arguments for name in argument.names if name.startswith("-")]


def kind_of(hint: Any) -> str:
    """What a value of a type is, in words; empty for other types.

    Example:
        >>> kind_of(int | None), kind_of(list[float]), kind_of(Literal["onnx", "pt2"])
        ('a whole number', 'a number', 'onnx or pt2')
    """
    origin, inner = get_origin(hint), [part for part in get_args(hint) if part is not type(None)]
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, UnionType, list, tuple) and inner:
        return kind_of(inner[0])
    return KINDS.get(hint, "")


def _named(error: CycloptsError) -> str:
    """The option or argument that an error is about."""
    token = getattr(error, "token", None)
    names = error.argument.names if error.argument is not None else ()
    name = (getattr(token, "keyword", None) or next(iter(names), "")) if token or names else ""
    return f"Option {name}" if name.startswith("-") else f"Argument {name}"


def _missing(error: MissingArgumentError, name: str, shown: str) -> ConfigError:
    """An argument or option was not given, or an option without its value or with too many."""
    option = error.keyword
    if not option:
        return ConfigError(f"{name} must be given", got="no value", fix=shown)
    # The parser has one error for too few and too many values.
    given, most = getattr(error, "actual_count", 0), getattr(error, "max_allowed", None)
    if most is not None and given > most:
        rule = f"Option {option} takes at most {counted(most, 'value')}"
        return ConfigError(rule, got=" ".join(error.tokens_so_far), fix=shown)
    hint = None if error.argument is None else error.argument.hint
    choices = kind_of(hint).split(" or ") if Literal in _origins(hint) else []
    command = " ".join(error.command_chain or ())
    example = EXAMPLES.get(f"{command} {option}", EXAMPLES.get(option, choices[0] if choices else ""))
    more = f", such as {option} {example}" if example else ""
    return ConfigError(f"Option {option} needs a value", got="no value", fix=f"write {option} VALUE{more}.")


def _origins(hint: Any) -> list[Any]:
    return [get_origin(part) for part in (hint, *get_args(hint))]


def _commands(app: App, chain: Sequence[str]) -> list[str]:
    for name in chain:
        app = app[name]
    return [name for name in app if not name.startswith("-")]
