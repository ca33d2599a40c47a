"""Where the student of a name lies, and what it is called."""

from __future__ import annotations

import os
from pathlib import Path

from richkd.config.model_name import parse_model_name
from richkd.core.errors import ModelError


def folder_of(model: str | Path) -> Path:
    """The path that a student's name means; a student on the hub is fetched.

    Args:
        model: a path, ``local-dir:`` and a path, or ``hf-hub:OWNER/REPO``.

    Raises:
        ModelError: the name is empty, or the student cannot be fetched from the hub.

    Example:
        >>> folder_of("local-dir:runs/small").as_posix(), folder_of(Path("runs/small")).as_posix()
        ('runs/small', 'runs/small')
    """
    name = parse_model_name(str(model))
    if not name.value.strip():
        # An empty path, as of an unset variable of the shell, would be the current folder.
        raise ModelError(
            "The name of a student must not be empty",
            got=repr(model),
            fix="give the folder of a run or of a student.",
        )
    if name.kind == "hf-hub":
        # Imported here, because only this needs the client of the hub.
        from richkd.export.hub import fetch_student

        return fetch_student(name.value)
    return name.path if name.kind == "local-dir" else Path(model)


def name_of(model: str | Path) -> str:
    """The name of a student: that of its run or repository, which is what its artifacts are called, too.

    Example:
        >>> name_of("runs/small/student"), name_of("local-dir:runs/a/checkpoints/best.ckpt")
        ('small', 'a')
        >>> name_of("hf-hub:jane/leaves@main")
        'leaves'
    """
    name = parse_model_name(str(model))
    if name.kind == "hf-hub":
        return name.value.partition("@")[0].rpartition("/")[2]
    # Links keep their names, which Path.resolve would replace.
    path = Path(os.path.abspath(folder_of(model)))  # noqa: PTH100
    if path.name == "student":
        return path.parent.name
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.name
