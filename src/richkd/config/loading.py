"""Where settings come from: recipes in YAML, dotted overrides, and helpful errors for mistyped names.

A setting has one dotted name (``optim.lr``): in a recipe, on the command line (``--optim.lr 0.1``) and in
Python (``config.optim.lr``). Later sources win: defaults, recipe, overrides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from richkd.config.listing import choices_of, fields_of, section_type
from richkd.config.messages import message_of
from richkd.config.names import LISTING, OBJECTIVE, TEACHERS, nearest_setting, setting_names
from richkd.config.renamed import RENAMED_VALUES
from richkd.config.schema import Config
from richkd.core.checksums import SUMS, check_hashes
from richkd.core.errors import ConfigError, nearest
from richkd.core.regular_files import kind_of
from richkd.core.structured import parse_yaml, read_yaml
from richkd.core.visible import counted, one_line

OBJECTIVE_FORM = "a list of {TERM: {SETTING: value}} with one term each, or one such mapping"
OBJECTIVE_FIX = "write `objective: [{ce: {}}, {kd: {temperature: 4}}]`, for example."
# The short option that gives what a section lacks.
OPTION_OF_SECTION = {"data": "data", "student": "student", "clip": "clip", TEACHERS: "teacher"}

# Endings of pydantic's errors about the type of a value, which no other setting can make right.
OF_TYPE = ("_type", "_parsing", "_from_float", "literal_error")

# Largest recipe in bytes, and length up to which a message shows a wrong value.
RECIPE_LIMIT, SHOWN = 1 << 20, 300


def load_config(recipe: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Build a `Config` from defaults, a YAML recipe and dotted overrides; later sources win.

    Args:
        recipe: path of a YAML file with nested settings.
        overrides: value by dotted name. A text value is read as YAML, so ``"0.1"`` is a number, except for
            settings that are texts or paths: a folder may be called ``2024`` or ``on``.

    Raises:
        ConfigError: a setting that does not exist (with the nearest name), a value that it does not take, or
            a ``config.yaml`` in a run folder that is not as the run wrote it.

    Example:
        >>> config = load_config(None, {"data.path": "photos", "student.name": "resnet18", "optim.lr": "0.1"})
        >>> config.optim.lr, config.train.epochs
        (0.1, 240)
    """
    merged: dict[str, Any] = {}
    if recipe is not None:
        merged = read_recipe(Path(recipe))
    for dotted, value in (overrides or {}).items():
        _assign(merged, dotted, _read_text(dotted, value) if isinstance(value, str) else value)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise explain(first_error(error), str(recipe) if recipe else "the settings") from None


def check_types(overrides: Mapping[str, Any]) -> None:
    """Refuse overrides that are wrong whatever a recipe says: of another type, or of no setting.

    Args:
        overrides: as for `load_config`.

    Raises:
        ConfigError: a value has another type than its setting, or a teacher has no such setting.

    Example:
        >>> check_types({"optim.lr": "0.1", "optim.momentum": "7"})  # a number, although it is too large
        >>> try:
        ...     check_types({"optim.lr": "ten"})
        ... except ConfigError as error:
        ...     error.got
        "'ten'"
    """
    merged: dict[str, Any] = {}
    for dotted, value in overrides.items():
        read = _read_text(dotted, value) if isinstance(value, str) else value
        # The second teacher may follow the first one of a recipe, which is not read here.
        with suppress(ConfigError):
            _assign(merged, dotted, read)
    try:
        Config.model_validate(merged)
    except ValidationError as error:
        for wrong in error.errors():
            place = ".".join(_location(wrong))
            given = any(place == name or place.startswith(f"{name}.") for name in overrides)
            if given and (wrong["type"] == "extra_forbidden" or wrong["type"].endswith(OF_TYPE)):
                raise explain(wrong, "the settings") from None


def dotted_overrides(tokens: Sequence[str], options: Iterable[str] = ()) -> dict[str, str]:
    """Read ``--optim.lr 0.1 --augment.flip=false`` into ``{"optim.lr": "0.1", "augment.flip": "false"}``.

    ``options`` are the command's own options, one of which a mistyped name may have meant.

    Raises:
        ConfigError: a token that is not an option, an option without a value, or an unknown setting.

    Example:
        >>> dotted_overrides(["--optim.lr", "0.1", "--objective.kd.temperature=4"])
        {'optim.lr': '0.1', 'objective.kd.temperature': '4'}
    """
    known = set(setting_names())
    overrides: dict[str, str] = {}
    remaining = list(tokens)
    while remaining:
        token = remaining.pop(0)
        if not token.startswith("--"):
            raise ConfigError(
                "Settings are given as --section.name value", got=repr(token), fix="see `richkd settings`."
            )
        name, equals, value = token[2:].partition("=")
        name = _with_underscores(name)
        if name not in known and not _is_free(name):
            hint = nearest_setting(name, options, prefix="--")
            listing = "" if hint.endswith(LISTING) else f" {LISTING}"
            raise ConfigError(f"There is no option --{name}", fix=hint + listing)
        if not equals:
            # No setting has values that look like an option.
            if not remaining or remaining[0].startswith("--"):
                raise ConfigError(f"Option --{name} needs a value", fix=f"write --{name} VALUE.")
            value = remaining.pop(0)
        overrides[name] = value
    return overrides


def first_error(error: ValidationError) -> ErrorDetails:
    """The error of a validation that must be explained first: a mistyped name, else the first one.

    A section whose name is mistyped is missing as well, and its own name says why.

    Example:
        >>> try:
        ...     Config.model_validate({"dta": {"path": "photos"}, "student": {"name": "resnet18"}})
        ... except ValidationError as error:
        ...     first_error(error)["loc"]
        ('dta',)
    """
    errors = error.errors()
    return next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])


def explain(error: ErrorDetails, where: str, known: Sequence[str] | None = None) -> ConfigError:
    """Convert a pydantic error to a `ConfigError`.

    Args:
        error: the first error of a validation.
        where: the recipe or section that holds the setting.
        known: the section's settings, for the nearest name; all settings if None.

    Example:
        >>> error = {"type": "extra_forbidden", "loc": ("optim", "lrr"), "msg": "", "input": 0.1}
        >>> print(explain(error, "recipe.yaml"))
        There is no setting 'optim.lrr' (in recipe.yaml)
        Fix: Did you mean 'optim.lr' or 'optim'?
    """
    location = _location(error)
    dotted = ".".join(location)
    if error["type"] == "extra_forbidden":
        section, _, leaf = location[-1].rpartition(".")
        if section and dotted in set(setting_names()):
            fix = f"write `{section.replace('.', ': {')}: {{{leaf}: …}}{'}' * section.count('.')}`."
            return ConfigError(f"A recipe has settings in sections: '{dotted}' (in {where})", fix=fix)
        listing = f"`richkd settings {where}` lists all."
        hint = nearest_setting(dotted) if known is None else nearest(dotted, known, listing)
        return ConfigError(f"There is no setting '{dotted}' (in {where})", fix=hint)
    if error["type"] == "invalid_key":
        rule, fix = f"A setting must have a name that is text (in {where})", "correct this key."
        return ConfigError(rule, got=_shown(error["input"]), fix=fix)
    name = dotted if known is None else f"{where}.{dotted}"
    # Other deep places are items of a list that is too short.
    if error["type"] == "missing" and (len(location) <= 2 or location[0] == TEACHERS):
        flag = OPTION_OF_SECTION.get(location[0], name)
        return ConfigError(
            f"Setting '{name}' is required", got="no value", fix=f"add --{flag} or a recipe (-c)."
        )
    if known is None and location[0] == OBJECTIVE:
        return ConfigError(
            f"Setting '{OBJECTIVE}' must be {OBJECTIVE_FORM}", got=repr(error["input"]), fix=OBJECTIVE_FIX
        )
    value = error["input"]
    renamed = RENAMED_VALUES.get(name, {}).get(str(value))
    choices = choices_of(name)
    if renamed:
        fix = f"it is called '{renamed}' since version 0.2."
    else:
        fix = f"choose one of: {', '.join(choices)}." if choices else f"see `richkd settings {name}`."
    return ConfigError(
        f"Setting '{name}' does not take this value: {message_of(error)}", got=_shown(value), fix=fix
    )


def _shown(value: object) -> str:
    """A value for a message, which may be a whole file."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _location(error: ErrorDetails) -> list[str]:
    """The place of a pydantic error; teachers count from 1."""
    parts = [str(part) for part in error["loc"]]
    if len(parts) > 1 and parts[0] == TEACHERS and parts[1].isdecimal():
        parts[1] = str(int(parts[1]) + 1)
    return parts


def _with_underscores(name: str) -> str:
    """Options may be written with dashes; labels of terms and values stay as they are."""
    section, dot, rest = name.partition(".")
    if section == OBJECTIVE and dot:
        label, dot2, leaf = rest.partition(".")
        return f"{section}.{label}{dot2}{leaf.replace('-', '_')}"
    return name.replace("-", "_")


def _is_free(dotted: str) -> bool:
    """Whether a name is ``objective.LABEL.setting`` or ``teachers.NUMBER.setting``."""
    parts = dotted.split(".")
    return len(parts) == 3 and (parts[0] == OBJECTIVE or (parts[0] == TEACHERS and parts[1].isdecimal()))


def read_recipe(path: Path) -> dict[str, Any]:
    """The nested settings in a recipe, without any checks of their names.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or holds something else than settings.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = Path(folder, "recipe.yaml").write_text("optim: {lr: 0.1}")
        ...     read_recipe(Path(folder, "recipe.yaml"))
        {'optim': {'lr': 0.1}}
    """
    kind = kind_of(path)
    if kind is not None:
        raise ConfigError(f"The recipe {path} must be a file", got=kind, fix="check the path.")
    # The settings of a run are read as a recipe, too.
    fix = f"change a copy of it in another folder, or remove {path.parent / SUMS}."
    check_hashes(path.parent, [path.name], ConfigError, fix)
    try:
        content = read_yaml(path, RECIPE_LIMIT)
    except FileNotFoundError:
        raise ConfigError(
            f"The recipe {path} does not exist", got="no such file", fix="check its path."
        ) from None
    except OSError as error:
        got = error.strerror or one_line(error)
        raise ConfigError(f"The recipe {path} cannot be read", got=got, fix="check the file.") from None
    except ValueError as error:
        raise ConfigError(
            f"The recipe {path} cannot be read as YAML", got=one_line(error), fix="correct the file."
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"The recipe {path} must hold sections such as data: and student:",
            got=_shown(content),
            fix="write `data: {path: photos/}` and so on; `richkd settings` lists all sections.",
        )
    return content


def _read_text(dotted: str, text: str) -> Any:
    # "null" unsets a text, too; a comment, as in "#1", is not null.
    if _takes_text(dotted) and text.lower() not in ("", "~", "null"):
        return text
    try:
        return parse_yaml(text)
    except ValueError as error:
        if text.lstrip()[:1] in ("{", "[") and not _takes_text(dotted):
            rule = f"Setting '{dotted}' does not take this value: {' '.join(str(error).split())}"
            fix = "correct it, and quote it for the shell, such as '{a: 1}'."
            raise ConfigError(rule, got=_shown(text), fix=fix) from None
        return text


@cache
def _takes_text(dotted: str) -> bool:
    section, _, leaf = dotted.rpartition(".")
    fields = dict(fields_of(Config))
    if section.startswith(TEACHERS):
        teacher = section_type(Config.model_fields[TEACHERS], items=True)
        assert teacher is not None
        fields, dotted = dict(fields_of(teacher)), leaf
    if dotted not in fields:
        return False
    annotation = fields[dotted].annotation
    # A mapping has texts as keys, but is written as YAML.
    kinds = get_args(annotation) if get_origin(annotation) is not dict else ()
    return bool({str, Path} & {annotation, *kinds})


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, leaf = dotted.split(".")
    place: Any = tree
    for depth, section in enumerate(sections):
        place = _enter(place, section, ".".join(sections[: depth + 1]))
    _refuse_no_section(place, ".".join(sections), dict)
    place[leaf] = value


def _refuse_no_section(place: Any, dotted: str, *kinds: type) -> None:
    if not isinstance(place, kinds):
        raise ConfigError(
            f"{dotted} must be a section of settings", got=_shown(place), fix=f"write {dotted}: {{…}}."
        )


def _enter(place: dict[str, Any], section: str, dotted: str) -> dict[str, Any]:
    """The section of this name, created if it is missing; of a list, the item of that number or label."""
    if isinstance(place, list):
        return _enter_list(place, section, dotted)
    # YAML reads a section without settings as null.
    if place.get(section) is None:
        place[section] = [] if section == TEACHERS else {}
    inner = place[section]
    if isinstance(inner, tuple):
        inner = place[section] = list(inner)
    _refuse_no_section(inner, dotted, dict, list)
    return inner  # type: ignore[no-any-return]


def _enter_list(items: list[Any], key: str, dotted: str) -> dict[str, Any]:
    if key.isdecimal():
        number = int(key)
        if not 1 <= number <= len(items) + 1:
            raise ConfigError(
                f"{dotted}: teachers count from 1",
                got=counted(len(items), "teacher"),
                fix="name the teacher first.",
            )
        if number > len(items):
            items.append({})
        item = items[number - 1]
        if not isinstance(item, dict):
            raise ConfigError(
                f"{dotted} must be names with values", got=_shown(item), fix="write {name: …} in its place."
            )
        return item
    for item in items:
        if isinstance(item, dict) and key in item:
            item[key] = item[key] or {}
            inner: dict[str, Any] = item[key]
            return inner
    items.append({key: {}})
    added: dict[str, Any] = items[-1][key]
    return added
