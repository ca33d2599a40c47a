"""Arrays that somebody computed elsewhere: read from a file without running code, and refused by name."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from richkd.core.errors import RichKDError
from richkd.data.classes import check_same_classes, clean_name

KEY_COLUMNS = ("files", "file", "keys", "key")

Array = NDArray[Any]


@dataclass(frozen=True)
class GivenArrays:
    """The arrays of one file.

    Attributes:
        path: the file, which every message names.
        arrays: what it holds, by name.
        refusal: the error that is raised for what cannot be used.
    """

    path: Path
    arrays: Mapping[str, Array]
    refusal: type[RichKDError]

    def take(self, name: str) -> Array:
        """The array of this name; refused where there is none."""
        if name not in self.arrays:
            raise self.refusal(
                f"{self.path} must hold an array '{name}'", got=self._names, fix="add it, or rename another."
            )
        return self.arrays[name]

    def key_column(self, asked: str | None = None) -> str:
        """The name of the array that pairs rows with images: ``asked``, else the first of `KEY_COLUMNS`."""
        if asked is not None:
            self.take(asked)
            return asked
        result = next((name for name in KEY_COLUMNS if name in self.arrays), None)
        if result is None:
            raise self.refusal(
                f"{self.path} must hold the images' keys as one of {', '.join(KEY_COLUMNS)}",
                got=self._names,
                fix="add the keys, or rename the array that holds them.",
            )
        return result

    def matrix(self, name: str) -> Tensor:
        """A matrix of floating-point numbers, in float16 or float32; refused where it is none."""
        array = self.take(name)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise self.refusal(
                f"{self.path}: '{name}' must be a matrix of floating-point numbers, one row each",
                got=f"shape {array.shape}, type {array.dtype}",
                fix="save one row of numbers for each item.",
            )
        # torch reads neither big-endian nor extended types, which numpy files may have. A number that is
        # too large becomes infinite, and is refused as such.
        with np.errstate(over="ignore"):
            plain = array if array.dtype in (np.float16, np.float32) else array.astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(plain))

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        items = self.take(name).ravel().tolist()
        return [item.decode() if isinstance(item, bytes) else str(item) for item in items]

    def check_classes(self, class_names: Sequence[str], names: Sequence[str]) -> None:
        """Refuse other classes than the data's; case, underscores and blanks may differ.

        Raises:
            ClassError: number, names or order differ.
        """
        expected, received = ([clean_name(n).casefold() for n in listed] for listed in (class_names, names))
        check_same_classes(expected, received, where=str(self.path), reference="the data")

    def check_rows(self, name: str, rows: int, other: str, count: int) -> None:
        """Refuse an array that does not have a row for each item of another."""
        if rows != count:
            raise self.refusal(
                f"{self.path}: '{name}' must have one row for each of '{other}'",
                got=f"{rows} rows for {count}",
                fix="save both from the same run.",
            )

    @property
    def _names(self) -> str:
        return ", ".join(sorted(self.arrays)) or "no arrays"


def read_arrays(path: str | Path, refusal: type[RichKDError], what: str) -> GivenArrays:
    """Open an ``.npz``, or a ``.safetensors`` whose lists of text are JSON in its metadata.

    Args:
        refusal: the error to raise, now and for what is wrong with the arrays.
        what: what the file is said to hold, for messages.

    Raises:
        RichKDError: ``refusal``, where there is no such file, or it is damaged, or holds Python objects.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise refusal(f"The file of given {what} does not exist", got=str(path), fix="check the path.")
    if path.suffix not in (".npz", ".safetensors"):
        raise refusal(
            f"Given {what} are read from .npz or .safetensors", got=str(path), fix="convert the file."
        )
    try:
        return GivenArrays(path, _safetensors(path) if path.suffix == ".safetensors" else _npz(path), refusal)
    except (OSError, ValueError, EOFError, TypeError, AttributeError, SafetensorError) as error:
        raise _unreadable(path, refusal, error) from error
    except (zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise _unreadable(path, refusal, error) from error


def hash_given(described: Sequence[Any], matrices: Iterable[Tensor]) -> str:
    """SHA-256 of plain values and of the type and content of matrices."""
    digest = hashlib.sha256(json.dumps(described).encode())
    for matrix in matrices:
        digest.update(str(matrix.dtype).encode())
        digest.update(matrix.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_repeated(refusal: type[RichKDError], rule: str, keys: Sequence[str]) -> Never:
    """Raise an error that counts and names the keys that come more than once."""
    seen: set[str] = set()
    repeated = [key for key in keys if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
    raise refusal(
        rule,
        got=f"{len(repeated)} repeated: {first(list(dict.fromkeys(repeated)))}",
        fix="use a column that names each image once, such as its path.",
    )


def first(items: Sequence[str], count: int = 5) -> str:
    """The first few items, for a message."""
    return ", ".join(items[:count]) + (" …" if len(items) > count else "")


def _safetensors(path: Path) -> dict[str, Array]:
    with safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        texts = file.metadata() or {}
    return {name: np.asarray(json.loads(text)) for name, text in texts.items() if text[:1] == "["} | arrays


def _npz(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _unreadable(path: Path, refusal: type[RichKDError], error: Exception) -> RichKDError:
    return refusal(
        f"{path} cannot be read, or holds Python objects, which are refused because they can run code",
        got=str(error),
        fix="save plain arrays; write names as np.array(names, dtype=str), not dtype=object.",
    )
