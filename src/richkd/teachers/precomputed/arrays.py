"""Read arrays that were computed elsewhere from a file, without executing code from it, and check them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from richkd.core.archives import read_npz
from richkd.core.errors import RichKDError
from richkd.core.home import expanded
from richkd.core.presence import is_file
from richkd.core.structured import parse_json
from richkd.data.class_text import normalized
from richkd.data.classes import check_same_classes, clean_name

KEY_COLUMNS = ("files", "file", "keys", "key")

Array = NDArray[Any]


@dataclass(frozen=True)
class GivenArrays:
    """The arrays of one file.

    Attributes:
        path: the file, for messages.
        arrays: the arrays by name.
        refusal: class of the errors that the methods raise.

    Example:
        >>> from richkd.core.errors import CacheError
        >>> arrays = {"logits": np.zeros((2, 3), np.float32), "files": np.array(["1.png", "2.png"])}
        >>> given = GivenArrays(Path("outputs.npz"), arrays, CacheError)
        >>> given.key_column(), tuple(given.matrix("logits").shape), given.texts("files")
        ('files', (2, 3), ['1.png', '2.png'])
    """

    path: Path
    arrays: Mapping[str, Array]
    refusal: type[RichKDError]

    def take(self, name: str) -> Array:
        """The array with this name.

        Raises:
            RichKDError: of class ``refusal``, if there is no such array.
        """
        if name not in self.arrays:
            raise self.refusal(
                f"{self.path} must contain an array '{name}'",
                got=self._names,
                fix="add the array, or rename the array that contains these values.",
            )
        return self.arrays[name]

    def key_column(self, asked: str | None = None) -> str:
        """The name of the array with the image keys: ``asked`` if given, else the first of `KEY_COLUMNS`.

        Raises:
            RichKDError: of class ``refusal``, if there is no such array.
        """
        if asked is not None:
            self.take(asked)
            return asked
        column = next((name for name in KEY_COLUMNS if name in self.arrays), None)
        if column is None:
            raise self.refusal(
                f"{self.path} must contain the keys of the images as one of {', '.join(KEY_COLUMNS)}",
                got=self._names,
                fix="add the keys, or rename the array that contains them.",
            )
        return column

    def matrix(self, name: str) -> Tensor:
        """A floating-point matrix as float16 or float32.

        Raises:
            RichKDError: of class ``refusal``, if the array does not exist or is no floating-point matrix.
        """
        array = self.take(name)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise self.refusal(
                f"{self.path}: '{name}' must be a matrix of floating-point numbers, one row per item",
                got=f"shape {array.shape}, type {array.dtype}",
                fix="save one row of numbers for each item.",
            )
        # torch cannot read big-endian and extended-precision arrays, which numpy files may contain. Numbers
        # that are too large for float32 become infinite, which later checks reject.
        with np.errstate(over="ignore"):
            native = array if array.dtype in (np.float16, np.float32) else array.astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(native))

    def texts(self, name: str) -> list[str]:
        """An array of text, flattened to a list.

        Raises:
            RichKDError: of class ``refusal``, if the array does not exist or has bytes that are no UTF-8.
        """
        items = self.take(name).ravel().tolist()
        try:
            return [item.decode() if isinstance(item, bytes) else str(item) for item in items]
        except UnicodeDecodeError as error:
            raise self.refusal(
                f"{self.path}: the texts in '{name}' must be UTF-8",
                got=repr(error.object),
                fix="decode them first, for example np.array([item.decode('latin-1') for item in items]).",
            ) from None

    def check_classes(self, class_names: Sequence[str], names: Sequence[str]) -> None:
        """Check that the class names of the file are those of the data, in the same order.

        Letter case, underscores and spaces may differ.

        Args:
            class_names: names of the classes of the data.
            names: names of the classes in the file.

        Raises:
            ClassError: number, names or order of the classes differ.
        """
        expected = [clean_name(name).casefold() for name in class_names]
        received = [clean_name(name).casefold() for name in names]
        check_same_classes(expected, received, where=str(self.path), reference="the data")

    def check_rows(self, name: str, rows: int, other: str, count: int) -> None:
        """Check that array ``name`` with ``rows`` rows has one row for each of ``count`` items of ``other``.

        Raises:
            RichKDError: of class ``refusal``, if the numbers differ.
        """
        if rows != count:
            raise self.refusal(
                f"{self.path}: '{name}' must have one row for each of '{other}'",
                got=f"{rows} rows for {count}",
                fix="save both arrays from the same run.",
            )

    @property
    def _names(self) -> str:
        return ", ".join(sorted(self.arrays)) or "no arrays"


def read_arrays(path: str | Path, refusal: type[RichKDError], what: str) -> GivenArrays:
    """Read an ``.npz`` file, or a ``.safetensors`` file whose metadata contains lists of text as JSON.

    Args:
        path: the file.
        refusal: class of the errors to raise, here and by the methods of the result.
        what: what the file contains, for messages.

    Raises:
        RichKDError: of class ``refusal``, if the file does not exist, is damaged, or contains Python objects.

    Example:
        >>> import tempfile
        >>> from richkd.core.errors import CacheError
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/outputs.npz", logits=np.zeros((2, 3), np.float32))
        ...     given = read_arrays(f"{folder}/outputs.npz", CacheError, "outputs")
        >>> tuple(given.matrix("logits").shape)
        (2, 3)
    """
    path = expanded(path)
    if not is_file(path):
        raise refusal(f"The file of {what} does not exist", got=str(path), fix="check the path.")
    if path.suffix not in (".npz", ".safetensors"):
        raise refusal(
            f"The file of {what} must be .npz or .safetensors", got=str(path), fix="convert the file."
        )
    try:
        return GivenArrays(
            path, _safetensors(path) if path.suffix == ".safetensors" else read_npz(path), refusal
        )
    # safetensors raises errors of many types for damaged files and for types that numpy lacks.
    except Exception as error:
        raise _unreadable(path, refusal, error) from error


def hash_given(described: Sequence[Any], matrices: Iterable[Tensor]) -> str:
    """SHA-256 of values that JSON can represent, and of dtype and content of matrices.

    Example:
        >>> matrix = torch.zeros(2, 3)
        >>> hash_given(["ant"], [matrix]) == hash_given(["ant"], [matrix.half()])
        False
    """
    digest = hashlib.sha256(json.dumps(described).encode())
    for matrix in matrices:
        digest.update(str(matrix.dtype).encode())
        digest.update(matrix.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_keys(wanted: Sequence[str], place_of: Mapping[str, int]) -> list[int]:
    """The place of each key, or −1. Keys are paths, which file systems write in different normal forms.

    Example:
        >>> find_keys(["a.png", "e\u0301.png", "b.png"], {"\u00e9.png": 0, "a.png": 1})
        [1, 0, -1]
    """
    forms = {normalized(key): place for key, place in place_of.items()}
    return [place_of.get(key, forms.get(normalized(key), -1)) for key in wanted]


def refuse_repeated(refusal: type[RichKDError], rule: str, keys: Sequence[str]) -> Never:
    """Raise an error with the number and the names of repeated keys.

    Args:
        refusal: class of the error.
        rule: first line of the message.
        keys: all keys.

    Example:
        >>> from richkd.core.errors import CacheError
        >>> refuse_repeated(CacheError, "Keys must be unique", ["1.png", "2.png", "1.png"])
        Traceback (most recent call last):
        ...
        richkd.core.errors.CacheError: Keys must be unique
        Got: 1 repeated: 1.png
        Fix: use a column that has a unique value for each image, such as the path.
    """
    known: set[str] = set()
    repeated = [key for key in keys if key in known or known.add(key)]  # type: ignore[func-returns-value]
    raise refusal(
        rule,
        got=f"{len(repeated)} repeated: {first(list(dict.fromkeys(repeated)))}",
        fix="use a column that has a unique value for each image, such as the path.",
    )


def first(items: Sequence[str], count: int = 5) -> str:
    """The first ``count`` items, for a message.

    Example:
        >>> first(["1.png", "2.png", "3.png"], count=2)
        '1.png, 2.png …'
    """
    return ", ".join(items[:count]) + (" …" if len(items) > count else "")


def _safetensors(path: Path) -> dict[str, Array]:
    with safe_open(path, framework="np") as file:
        arrays: dict[str, Array] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        texts = file.metadata() or {}
    return {name: np.asarray(parse_json(text)) for name, text in texts.items() if text[:1] == "["} | arrays


def _unreadable(path: Path, refusal: type[RichKDError], error: Exception) -> RichKDError:
    return refusal(
        f"{path} cannot be read, or contains Python objects, which are rejected as they can execute code",
        got=str(error),
        fix="save arrays of numbers and text; write names as np.array(names, dtype=str), not dtype=object.",
    )
