"""The command ``richkd settings``; no logic."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

# Similarity of a name that is suggested instead of a word.
SIMILAR = 0.7


def settings(
    word: Annotated[str, Parameter(help="show settings that contain this word only")] = "",
    /,
    *,
    json: Annotated[bool, Parameter(help="print the settings as JSON", negative="")] = False,
) -> None:
    """List settings with default, allowed values and meaning.

    The names are those of recipes and of --section.name VALUE. Experimental values are shown when a word is
    given.

    For example:

    richkd settings

    richkd settings fusion

    richkd settings objective.kd
    """
    from dataclasses import asdict

    from rich.table import Table
    from rich.text import Text

    from richkd.config.listing import settings as listed
    from richkd.config.names import LISTING, nearest_setting
    from richkd.core.errors import ConfigError
    from richkd.core.json_text import to_json
    from richkd.core.terminal import Terminal

    rows = list(listed(word))
    if not rows:
        # A word is no name of a setting, so only a close name is an answer.
        hint = nearest_setting(word, similar=SIMILAR)
        fix = hint if LISTING in hint else f"{hint} {LISTING}"
        raise ConfigError(f"No setting contains '{word}'", got=word, fix=fix)
    if json:
        print(to_json([asdict(setting) for setting in rows], indent=1))
        return
    table = Table("setting", "default", "meaning", box=None, pad_edge=False)
    for setting in rows:
        choices = "".join(f"\n  {name}{f': {about}' if about else ''}" for name, about in setting.choices)
        if setting.choices and not any(about for _, about in setting.choices):
            choices = f" ({', '.join(name for name, _ in setting.choices)})"
        table.add_row(*(Text(text) for text in (setting.name, setting.default, setting.meaning + choices)))
    Terminal().print(table)
