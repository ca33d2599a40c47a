"""Remove the home folder and the user's name, so that a report can be pasted anywhere."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

HIDDEN = "USER"
CASE = re.IGNORECASE if os.name == "nt" else re.NOFLAG


def without_person(value: Any, home: Path | None = None, users: Sequence[str] | None = None) -> Any:
    """A value, in which home folders are ``~`` and folders named after the user are ``USER``.

    Args:
        value: a string, number, or nested mappings and lists of them.
        home: the home folder; by default that of the user.
        users: names of the user; by default those that the system knows.

    Example:
        >>> paths = {"cache": "/home/ada/.cache", "data": ["/scratch/ada/x"]}
        >>> without_person(paths, Path("/home/ada"), ["ada"])
        {'cache': '~/.cache', 'data': ['/scratch/USER/x']}
    """
    homes = _homes() if home is None else [str(home)]
    names = _users() if users is None else users
    return _converted(value, homes, names)


def _converted(value: Any, homes: Sequence[str], users: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {str(_converted(k, homes, users)): _converted(v, homes, users) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_converted(item, homes, users) for item in value]
    if not isinstance(value, str):
        return value
    for home in homes:
        # Not between more letters: /home/ada is no part of /home/adam or /mnt/home/ada.
        value = re.sub(rf"(?<![\w.-]){re.escape(home)}(?!\w)", "~", value, flags=CASE)
    for user in users:
        value = re.sub(rf"(?<=[\\/~]){re.escape(user)}(?!\w)", HIDDEN, value, flags=CASE)
    return value


def _homes() -> list[str]:
    try:
        home = str(Path.home())
    except RuntimeError:
        return []
    # The root folder, which some containers have as home, would be found in every path.
    homes = {home, os.path.realpath(home)} - {os.path.sep}
    return sorted((one for one in homes if Path(one) != Path(one).parent), key=len, reverse=True)


def _users() -> list[str]:
    names = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME")}
    # The user of a container may have no name.
    with suppress(OSError, KeyError, ImportError):
        names.add(getpass.getuser())
    # These names identify nobody, and occur as names of folders.
    return sorted(names - {"", "root", "user", "ubuntu", "runner", "admin"})
