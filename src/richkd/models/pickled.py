"""Read PyTorch files without executing code from them; objects that hold only data are left out.

Training scripts store their options, paths and figures beside the weights. PyTorch then refuses the whole
file. Here, such objects are replaced by empty ones, so no class of the file is ever created, and paths of
another operating system are no problem. All other classes are refused by name.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from richkd.core.archives import check_zip
from richkd.core.errors import ModelError
from richkd.core.regular_files import check_regular

ZIP = b"PK\x03\x04"
NAMED = 5
# Built-in types, which stand for themselves as factories of dictionaries.
TYPES = ("bool", "bytes", "dict", "float", "int", "list", "set", "str", "tuple")


class Omitted:
    """Stands for an object of a checkpoint that holds no weights; it ignores everything that it is given.

    Example:
        >>> omitted = Omitted("a", 1)
        >>> omitted.__setstate__({"lr": 0.1})
        >>> vars(omitted)
        {}
    """

    def __new__(cls, *args: object) -> Omitted:
        return object.__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def plain_dict(*factory: object) -> dict[Any, Any]:
    """An empty dictionary in the place of a ``defaultdict``; its factory is ignored.

    Example:
        >>> plain_dict(list)
        {}
    """
    return {}


def read_pickled(path: Path, role: str = "model") -> Any:
    """Read a PyTorch file with ``weights_only=True``.

    Options (``argparse.Namespace``), paths, times, and arrays, numbers and types of NumPy become `Omitted`.

    Args:
        path: the file.
        role: what the weights belong to, for messages.

    Raises:
        ModelError: the file is damaged, grows too much when it is read, or contains objects of other classes,
            which the message names.

    Example:
        >>> import argparse, tempfile
        >>> content = {"model": {"w": torch.ones(1)}, "args": argparse.Namespace(lr=0.1, out=Path("runs"))}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(content, f"{folder}/a.pth")
        ...     read = read_pickled(Path(folder) / "a.pth")
        >>> read["model"]["w"].item(), type(read["args"]).__name__
        (1.0, 'Omitted')
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP)) == ZIP
        if is_zip:
            check_zip(path)
        with safe_globals(list(_known())), warnings.catch_warnings():
            # torch warns of pickles of old protocols, and of files of other programs.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling can raise any exception class, also without a message
        failure = error
    raise _refusal(path, role, failure)


def first_words(error: Exception) -> str:
    """The class of an error, and the beginning of the first line of its message.

    Example:
        >>> first_words(ValueError("no zip file\\nat all"))
        'ValueError: no zip file'
    """
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _known() -> Iterator[tuple[Any, str]]:
    """The classes and functions that are replaced, with the names that pickles give them."""
    yield plain_dict, "collections.defaultdict"
    paths = ("Path", "PurePath", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    numbers = ("bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    names = {
        "argparse": ("Namespace",),
        "types": ("SimpleNamespace",),
        "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
        "decimal": ("Decimal",),
        "fractions": ("Fraction",),
        "uuid": ("UUID",),
        "torch.torch_version": ("TorchVersion",),
        "numpy": ("dtype", "ndarray", *numbers, "float16", "float32", "float64", "str_", "bytes_"),
        "numpy.dtypes": tuple({type(dtype).__name__ for dtype in map(np.dtype, np.typecodes["All"])}),
        **dict.fromkeys(("pathlib", "pathlib._local"), paths),
        **dict.fromkeys(
            ("numpy.core.multiarray", "numpy._core.multiarray"), ("scalar", "_reconstruct", "_frombuffer")
        ),
        **dict.fromkeys(("numpy.core.numeric", "numpy._core.numeric"), ("_frombuffer",)),
        **dict.fromkeys(
            ("builtins", "__builtin__"),
            (*TYPES, "range", "xrange", "slice", "frozenset", "object"),
        ),
    }
    for module, members in names.items():
        for member in members:
            yield Omitted, f"{module}.{member}"


def _refusal(path: Path, role: str, error: Exception) -> ModelError:
    rule, refused = f"The weights {path} must be a checkpoint that holds only tensors", _refused(path, error)
    if refused:
        more = f" and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
        return ModelError(
            rule,
            got=f"objects of {', '.join(refused[:NAMED])}{more}, whose classes can run code",
            fix="files with code are never loaded. If you trust the file, convert it once where its training "
            f"script runs: content = torch.load({path.name!r}, weights_only=False); "
            "torch.save(content['state_dict'], 'weights.pth'), with the key of its weights.",
        )
    return ModelError(
        rule,
        got=first_words(error),
        fix=f"save the state_dict() of the {role} again, preferably as .safetensors; files with code are "
        "never loaded.",
    )


def _refused(path: Path, error: Exception) -> list[str]:
    """The names of the classes for which a file was refused; none if this was not the reason."""
    names = re.findall(r"GLOBAL (\S+)", str(error))
    if not names:
        return []
    try:
        with safe_globals(list(_known())):
            return sorted(get_unsafe_globals_in_checkpoint(str(path))) or names
    except Exception:  # the file is of an old format, or damaged
        return names
