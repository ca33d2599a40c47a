"""Names of settings and options, and hints for mistyped ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from richkd.config.listing import fields_of
from richkd.config.renamed import new_name
from richkd.config.schema import Config, ModelConfig
from richkd.core.errors import NAMED, nearest

# Settings below these are free: terms by label, and teachers by number.
OBJECTIVE, TEACHERS = "objective", "teachers"
LISTING = "`richkd settings` lists all."


def setting_names() -> Iterator[str]:
    """The dotted names of all settings but those of terms.

    Example:
        >>> "optim.lr" in set(setting_names())
        True
    """
    yield from (name for name, _ in fields_of(Config))


def nearest_setting(dotted: str, options: Iterable[str] = (), prefix: str = "", similar: float = 0.0) -> str:
    """A hint for a setting that does not exist: its new name, the same last word, or a similar name.

    Args:
        dotted: the name.
        options: other names that may be meant.
        prefix: what precedes a name where it was written; with ``--``, names of sections are no answer.
        similar: smallest similarity of a name in the hint (`difflib.SequenceMatcher.ratio`); 0 for that of
            `nearest`.

    Example:
        >>> nearest_setting("lr")
        "Did you mean 'optim.lr'?"
        >>> nearest_setting("dta", ["data"], prefix="--")
        "Did you mean '--data'?"
        >>> nearest_setting("nonsense", similar=0.7)
        '`richkd settings` lists all.'
        >>> nearest_setting("train.ema")
        "It is called 'train.ema_decay' since version 0.2."
    """
    renamed = new_name(dotted)
    if renamed is not None:
        name = renamed.replace("_", "-") if "." not in renamed and prefix else renamed
        return f"It is called '{prefix}{name}' since version 0.2."
    known = list(setting_names())
    same = [name for name in known if name.rpartition(".")[2] == dotted.rpartition(".")[2]]
    # A setting comes before those of the same name that replace it for some images.
    same = [name for name in same if name.count(".") == 1] or same
    if same:
        hint = " or ".join(f"'{prefix}{name}'" for name in same[:NAMED])
        return f"Did you mean {hint}?{f' {LISTING}' if len(same) > NAMED else ''}"
    names = {*known, *_of_teachers(dotted), *options} | ({*Config.model_fields} if not prefix else set())
    close = [name for name in names if difflib.SequenceMatcher(None, name, dotted).ratio() >= similar]
    if not close:
        return LISTING
    return nearest_option(dotted, close, LISTING) if prefix else nearest(dotted, close, LISTING)


def nearest_option(option: str, known: Iterable[str], listing: str = "") -> str:
    """A hint for a mistyped option, as `nearest`, with the two dashes of options.

    The dashes are not compared: all options share them, so every short name would be similar.

    Args:
        option: the option, with or without its dashes.
        known: the options that there are, with or without their dashes.
        listing: a sentence that says where all options are listed.

    Example:
        >>> nearest_option("--tp", ["--top", "json"])
        "Did you mean '--top'?"
    """
    hint = nearest(option.lstrip("-"), [name.lstrip("-") for name in known], listing)
    return hint.replace(" '", " '--") if hint.startswith("Did you mean") else hint


def _of_teachers(dotted: str) -> list[str]:
    """The settings of the teacher that a mistyped name such as ``teachers.1.nme`` belongs to."""
    section, _, _ = dotted.rpartition(".")
    if section.partition(".")[0] != TEACHERS or not section.partition(".")[2].isdecimal():
        return []
    return [f"{section}.{name}" for name in ModelConfig.model_fields]
