"""Options of commands, made from the settings: each option's type and help text are those of its setting."""

from __future__ import annotations

import inspect
import itertools
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from cyclopts import Parameter, Token
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from richkd.cli.usage_errors import reading_words
from richkd.config.listing import default_text, section_type
from richkd.config.loading import check_types, dotted_overrides, load_config
from richkd.config.resumed import CHECKPOINTS, SETTINGS, is_run, resumed_config
from richkd.config.schema import Config, EvaluateConfig
from richkd.config.teacher_run import recipe_of
from richkd.core.errors import ConfigError
from richkd.core.presence import is_dir, stat_error

# Short options, and the settings that they stand for.
SHORT = {
    "data": "data.path",
    "student": "student.name",
    "model": "student.name",
    "weights": "student.weights",
    "unlabeled": "data.unlabeled",
    "clip": "clip.name",
    "teacher_cache": "cache.dir",
    "method": "method.name",
    "variant": "method.variant",
    "preset": "fusion.preset",
    "epochs": "train.epochs",
    "seed": "train.seed",
    "device": "train.device",
    "out": "out",
}
# Help of short options that means something else for a command than for a run.
OTHER_HELP = {
    ("probe", "out"): "folder of probe.html and probe.json (default: none is written)",
    ("check", "out"): f"run folder, which is not touched (default: {Config.model_fields['out'].default})",
}
# Value of --clip and --teacher that removes those of a recipe.
NULL = "null"
KEYWORD, POSITIONAL = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_ONLY
Command = Callable[..., None]

Resume = Annotated[
    bool,
    Parameter(
        help="resume the run in --out (bit-identical to an uninterrupted run), also after it was moved; "
        "another --epochs ends it earlier or later",
        negative="",
    ),
]
AcceptChangedImages = Annotated[
    bool, Parameter(help="resume the run although images were replaced", negative="")
]
ChosenCheckpoint = Annotated[
    Literal["best", "last"] | None,
    Parameter(help="use this checkpoint of a run instead of its student (default: last, if it has none)"),
]
Overwrite = Annotated[bool, Parameter(help="replace the run in --out", negative="")]


def whole(kind: Any, tokens: Sequence[Token]) -> int:
    """A whole number; the command line's own reader would round 1.5 to 2.

    Raises:
        ValueError: the text is none.
    """
    return int(tokens[0].value)


def wholes(kind: Any, tokens: Sequence[Token]) -> list[int]:
    """Whole numbers, for an option with any number of values.

    Raises:
        ValueError: a text is none.
    """
    return [whole(kind, [token]) for token in tokens]


def place(kind: Any, tokens: Sequence[Token]) -> Path:
    """A path that is not empty; an empty one, as of an unset variable of the shell, would be this folder.

    Raises:
        ValueError: the path is empty.
    """
    if not tokens[0].value.strip():
        raise ValueError("the path is empty")
    return Path(tokens[0].value)


def configured(*names: str, **fixed: Any) -> Callable[[Command], Command]:
    """Give a command, whose first keyword is ``config``, options for settings.

    The command accepts the short options ``names``, a recipe (``-c``), and every setting as ``--section.name
    VALUE``. It is called with the resulting `Config`. Its own parameters stay options; one that is called
    ``full`` is a run whose settings replace the recipe.

    Args:
        names: keys of `SHORT`, ``"teacher"`` and ``"teacher_weights"``.
        fixed: settings that the command fixes, by short option.
    """

    def decorate(function: Command) -> Command:
        parameters = [p for p in _parameters(function) if p.name != "config"]
        positional = [p for p in parameters if p.kind is POSITIONAL]
        keywords = [p for p in parameters if p.kind is not POSITIONAL]
        options, others = [_option(name, function.__name__) for name in names], list(map(_name_of, keywords))
        words = inspect.Parameter(
            "overrides",
            inspect.Parameter.VAR_POSITIONAL,
            annotation=Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
        )
        recipe_type = Annotated[
            Path | None,
            Parameter(name=["--config", "-c"], help="YAML recipe; options win over it", converter=place),
        ]
        recipe = inspect.Parameter("recipe", KEYWORD, default=None, annotation=recipe_type)

        def command(*args: Any, **values: Any) -> None:
            given, overrides = args[: len(positional)], args[len(positional) :]
            selected = {name: values.pop(name, None) for name in names} | fixed
            resume, full = bool(values.get("resume")), values.get("full")
            recipe = values.pop("recipe", None)
            config = config_of(recipe, selected, overrides, resume=resume, full=full, others=others)
            function(*given, config=config, **values)

        return _as_command(command, function, [*positional, words, *options, *keywords, recipe])

    return decorate


def evaluating(*fixed: str) -> Callable[[Command], Command]:
    """Give a command, whose keyword is ``config``, an option for each field of `EvaluateConfig`.

    Args:
        fixed: fields that the command sets itself; they get no option.
    """
    fields = {name: field for name, field in EvaluateConfig.model_fields.items() if name not in fixed}

    def decorate(function: Command) -> Command:
        parameters = [p for p in _parameters(function) if p.name != "config"]
        options = [_keyword(name, _plain_type(field), _help(field)) for name, field in fields.items()]

        def command(*args: Any, **values: Any) -> None:
            selected = {name: values.pop(name, None) for name in fields}
            selected["shift"] = _shifts_of(selected["shift"] or [])
            given = {name: value for name, value in selected.items() if value is not None}
            function(*args, config=_evaluate_config(given), **values)

        positional = [p for p in parameters if p.kind is not KEYWORD]
        keywords = [p for p in parameters if p.kind is KEYWORD]
        return _as_command(command, function, [*positional, *keywords, *options])

    return decorate


def config_of(
    recipe: Path | None,
    options: Mapping[str, Any],
    overrides: Iterable[str],
    *,
    resume: bool = False,
    full: Path | None = None,
    others: Iterable[str] = (),
) -> Config:
    """Settings from a recipe, short options and dotted options; later ones win.

    ``--clip null`` and ``--teacher null`` remove the CLIP and the teachers of a recipe. With ``resume``, the
    settings of the run to resume are the recipe if none is given. The settings of a full teacher's run
    ``full`` take the place of a recipe. A mistyped option may have meant one of ``others``, too.

    Raises:
        UsageError: an option that does not exist, has no value, or has one of another type.
        ConfigError: a value that a setting does not take, checkpoints that cannot be assigned to teachers,
            both ``recipe`` and ``full``, or no run to resume and no settings of one.
        CheckpointError: ``full`` is no finished run.

    Example:
        >>> options = {"data": "photos", "student": "resnet18", "epochs": 3}
        >>> config_of(None, options, ["--optim.lr", "0.1"]).optim.lr
        0.1
    """
    given = {option: value for option, value in options.items() if value is not None}
    settings = _teachers(given.pop("teacher", []), given.pop("teacher_weights", []))
    if given.get("clip") == NULL:
        settings["clip"] = None
        del given["clip"]
    settings |= {SHORT[option]: str(v) if isinstance(v, Path) else v for option, v in given.items()}
    names = [option.replace("_", "-") for option in (*options, "config")]
    with reading_words():
        settings |= dotted_overrides(list(overrides), [*names, *others])
        check_types(settings)
    if full is not None and recipe is not None:
        raise ConfigError(
            "The settings come from --from or from --config, not from both",
            got=f"--from {full} and --config {recipe}",
            fix="give what differs from the run as options.",
        )
    if full is not None:
        return recipe_of(full, settings)
    return _resumed(recipe, settings) if resume else load_config(recipe, settings)


def _resumed(recipe: Path | None, settings: Mapping[str, Any]) -> Config:
    """The settings of a run to resume, which must be there if no others are given."""
    if recipe is None and "data.path" not in settings:
        here = Path() if is_run(Path()) else Path(Config.model_fields["out"].default)
        _refuse_no_run(Path(settings.get("out") or here))
    return resumed_config(recipe, settings)


def _refuse_no_run(folder: Path) -> None:
    """Refuse to resume what is no run, where no other settings are given."""
    reason = stat_error(folder / SETTINGS) or stat_error(folder / CHECKPOINTS)
    if reason or not is_run(folder):
        missing = "no config.yaml with checkpoints/" if is_dir(folder) else "no such folder"
        raise ConfigError(
            f"--resume: there is no run in {folder}",
            got=reason or missing,
            fix="check --out, or repeat the whole command with --resume.",
        )


def _as_command(command: Command, function: Command, parameters: Sequence[inspect.Parameter]) -> Command:
    """A function that the command line reads as ``function`` with these parameters."""
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__module__, command.__qualname__ = function.__module__, function.__qualname__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _parameters(function: Command) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def _keyword(name: str, kind: Any, description: str | None, **more: Any) -> inspect.Parameter:
    if int in (kind, *get_args(kind)):
        more["converter"] = whole
    elif Path in (kind, *get_args(kind)):
        more["converter"] = place
    parameter = Parameter(help=description, negative="", show_default=False, **more)
    default = False if kind is bool else None
    return inspect.Parameter(name, KEYWORD, default=default, annotation=Annotated[kind, parameter])


def _option(name: str, command: str) -> inspect.Parameter:
    """A short option of a command, with the type and the description of its setting."""
    if name == "teacher":
        description = f"{_field('student.name').description}; also folds:FOLDER or cache:NAME"
        return _keyword(name, list[str] | None, f"vision teacher: {description}; repeat for several teachers")
    if name == "teacher_weights":
        description = (
            "checkpoint of the teacher (.safetensors, .pth); with several teachers, one for each, in order"
        )
        return _keyword(name, list[Path] | None, description)
    field = _field(SHORT[name])
    return _keyword(name, _plain_type(field), OTHER_HELP.get((command, name)) or _help(field))


def _help(field: FieldInfo) -> str | None:
    """The description of a setting with its default, if it does not say it itself."""
    default, description = default_text(field), field.description or ""
    if default in ("", "required", "false") or "default" in description:
        return field.description
    return f"{description} (default: {default})"


def _name_of(option: inspect.Parameter) -> str:
    """How an option of a command itself is written, without its dashes."""
    for mark in getattr(option.annotation, "__metadata__", ()):
        if isinstance(mark, Parameter) and mark.name:
            return (mark.name if isinstance(mark.name, str) else next(iter(mark.name))).lstrip("-")
    return option.name.replace("_", "-")


def _field(dotted: str) -> FieldInfo:
    section, _, leaf = dotted.rpartition(".")
    if not section:
        return Config.model_fields[leaf]
    model = section_type(Config.model_fields[section])
    assert model is not None
    return model.model_fields[leaf]


def _plain_type(field: FieldInfo) -> Any:
    """The type of an option: that of its setting, without constraints, or None where it is not given."""
    annotation = field.annotation
    if annotation is bool:
        return bool
    if get_origin(annotation) is dict:
        return list[str] | None
    kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    kind = next(kind for kind in kinds if kind is not type(None))
    return (kind if get_origin(kind) is Literal or isinstance(kind, type) else str) | None


def _teachers(names: Sequence[str], weights: Sequence[Path]) -> dict[str, Any]:
    """Settings of the vision teachers that options name."""
    if len(weights) not in (0, len(names)) and (names or len(weights) > 1):
        raise ConfigError(
            "Each of several --teacher needs its own --teacher-weights, or none has one",
            got=f"{len(names)} of --teacher, {len(weights)} of --teacher-weights",
            fix="give as many of both, in the same order, or write the teachers into a recipe.",
        )
    if list(names) == [NULL]:
        return {"teachers": []}
    if not names:
        # The teacher of a recipe gets its checkpoint here.
        return {"teachers.1.weights": str(weights[0])} if weights else {}
    files = itertools.chain(map(str, weights), itertools.repeat(None))
    pairs = zip(names, files, strict=False)
    return {"teachers": [{"name": name} | ({"weights": file} if file else {}) for name, file in pairs]}


def _shifts_of(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    named = {name: path for name, _, path in pairs if name.strip() and path.strip()}
    if len(named) < len(words):
        raise ConfigError(
            "--shift takes a name and a folder, and each name once",
            got=", ".join(words),
            fix="--shift sketches=photos/sketches",
        )
    return named


def _evaluate_config(given: Mapping[str, Any]) -> EvaluateConfig:
    try:
        return EvaluateConfig.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(
            f"Option --{option} does not take this value: {first['msg']}",
            got=repr(first["input"]),
            fix="see `richkd evaluate --help`.",
        ) from None
