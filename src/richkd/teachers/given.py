"""A CLIP whose outputs somebody computed elsewhere: features in a file instead of a model in memory."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from richkd.data.views import Views
from richkd.errors import ClipError, check_same_classes, nearest
from richkd.records import Batch, Output
from richkd.teachers.prompts import clean_name

KEY_COLUMNS = ("files", "file", "keys", "key")
# exp(logit_scale) of the released CLIP models, which were trained with this as its upper bound.
RELEASED_LOGIT_SCALE = 100.0

Array = NDArray[Any]


class GivenClip:
    """Stored outputs of a CLIP model, looked up by split and position; see `load_given`.

    They belong to one fixed rendering of each image, whatever view the student sees.
    """

    name = "CLIP outputs"

    def __init__(
        self,
        feats_ND: Tensor,
        class_embeddings_CD: Tensor,
        rows_by_split: Mapping[str, Tensor],
        *,
        logit_scale: float,
        fingerprint: str,
    ) -> None:
        self.logit_scale = logit_scale
        self.fingerprint = fingerprint
        self.feature_width = feats_ND.shape[1]
        self.class_embeddings_CD = functional.normalize(class_embeddings_CD.float(), dim=1)
        self._feats_ND = feats_ND
        self._rows = dict(rows_by_split)

    def outputs(self, batch: Batch, views: Views) -> Output:
        return self.look_up(batch.split, batch.index_B)

    def look_up(self, split_name: str, index_B: Tensor) -> Output:
        """Cosines ``logits_BC`` in [-1, 1] and unit-norm features of images of a split.

        ``index_B`` holds positions in the split. Both outputs are float32, on the device of ``index_B``.

        Raises:
            ClipError: there are no outputs for the split.
        """
        if split_name not in self._rows:
            raise ClipError(
                "CLIP outputs were given for other splits",
                got=f"'{split_name}'",
                fix=nearest(split_name, self._rows),
            )
        rows_B = self._rows[split_name][index_B.cpu()]
        # Rows stay in the file's type, half the memory for float16; each batch is normalised in float32.
        feats_BD = functional.normalize(self._feats_ND[rows_B].to(index_B.device).float(), dim=1)
        with torch.autocast(index_B.device.type, enabled=False):
            cosines_BC = feats_BD @ self.class_embeddings_CD.to(index_B.device).T
        return Output(logits_BC=cosines_BC.clamp(-1.0, 1.0), feats_BF=feats_BD)


def load_given(
    path: str | Path,
    keys_by_split: Mapping[str, Sequence[str]],
    class_names: Sequence[str],
    *,
    key_column: str | None = None,
) -> GivenClip:
    """Open stored CLIP outputs and align them with the images of each split.

    The file is an ``.npz``, or a ``.safetensors`` whose two lists of text are JSON in its metadata:

    - ``image_features`` (N, D) and ``text_features`` (C, D), floating point, of any norm but zero;
    - ``classnames``: C names, in the order of ``class_names``; case, underscores and blanks may differ;
    - the key column, N names that pair rows with images: ``key_column``, else the first there is of
      ``files``, ``file``, ``keys`` and ``key``;
    - optionally ``logit_scale``, the factor itself and not its logarithm. Without it, 100, which is
      that of the released CLIP models.

    ``keys_by_split`` gives the key of each image, by split and in the split's order. Rows that no image
    asks for are ignored.

    Raises:
        ClipError: the file or one of its arrays is missing, pickled or of a wrong shape; keys repeat;
            images have no row; a row is zero, NaN or infinite.
        ClassError: number, names or order of the classes differ from ``class_names``.
    """
    path = Path(path).expanduser()
    arrays = _read(path)
    key_name = _key_column(path, arrays, key_column)
    image_ND, text_CD = (_matrix(path, arrays, name) for name in ("image_features", "text_features"))
    names, keys = (_strings(_take(path, arrays, name)) for name in ("classnames", key_name))

    check_same_classes(_comparable(class_names), _comparable(names), where=str(path), reference="the data")
    _check_sizes(path, image_ND, text_CD, names, keys, key_name)
    scale = _logit_scale(path, arrays)
    row_of = {key: row for row, key in enumerate(keys)}
    if len(row_of) < len(keys):
        _refuse_repeated(f"{path}: the keys in '{key_name}' must be unique", keys)
    usable_N = _usable(image_ND)
    rows_by_split = {
        split: _align(path, split, [str(key) for key in wanted], row_of, usable_N)
        for split, wanted in keys_by_split.items()
    }
    unusable = [names[row] for row in np.flatnonzero(~_usable(text_CD).numpy())]
    if unusable:
        raise ClipError(
            f"{path}: rows of 'text_features' must be finite and not zero",
            got=f"{len(unusable)} others: {_first(unusable)}",
            fix="compute the embeddings of these classes again.",
        )
    digest = hashlib.sha256(json.dumps([key_name, keys, names, scale]).encode())
    for matrix in (image_ND, text_CD):
        digest.update(str(matrix.dtype).encode())
        digest.update(matrix.reshape(-1).view(torch.uint8).numpy().data)
    return GivenClip(image_ND, text_CD, rows_by_split, logit_scale=scale, fingerprint=digest.hexdigest())


def _read(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise ClipError("The file of given CLIP outputs does not exist", got=str(path), fix="check the path.")
    if path.suffix not in (".npz", ".safetensors"):
        raise ClipError(
            "Given CLIP outputs are read from .npz or .safetensors", got=str(path), fix="convert it."
        )
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                texts = file.metadata() or {}
            return {
                name: np.asarray(json.loads(text)) for name, text in texts.items() if text[:1] == "["
            } | arrays
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    except (zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ClipError:
    return ClipError(
        f"{path} cannot be read, or holds Python objects, which are refused because they can run code",
        got=str(error),
        fix="save plain arrays; write names as np.array(names, dtype=str), not dtype=object.",
    )


def _take(path: Path, arrays: Mapping[str, Array], name: str) -> Array:
    if name not in arrays:
        raise ClipError(
            f"{path} must hold an array '{name}'",
            got=f"{', '.join(sorted(arrays)) or 'no arrays'}",
            fix="add it, or rename the array that holds it.",
        )
    return arrays[name]


def _key_column(path: Path, arrays: Mapping[str, Array], asked: str | None) -> str:
    if asked is not None:
        _take(path, arrays, asked)
        return asked
    found = next((name for name in KEY_COLUMNS if name in arrays), None)
    if found is None:
        raise ClipError(
            f"{path} must hold the images' keys as one of {', '.join(KEY_COLUMNS)}",
            got=f"{', '.join(sorted(arrays)) or 'no arrays'}",
            fix="add the keys, or name the array that holds them with key_column.",
        )
    return found


def _matrix(path: Path, arrays: Mapping[str, Array], name: str) -> Tensor:
    array = _take(path, arrays, name)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise ClipError(
            f"{path}: '{name}' must be a matrix of floating-point numbers, one row each",
            got=f"shape {array.shape}, type {array.dtype}",
            fix="save one embedding for each row.",
        )
    # torch reads neither big-endian nor extended types, which numpy files may have.
    plain = array if array.dtype in (np.float16, np.float32) else array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(plain))


def _strings(array: Array) -> list[str]:
    return [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]


def _comparable(names: Sequence[str]) -> list[str]:
    return [clean_name(name).casefold() for name in names]


def _check_sizes(
    path: Path, image_ND: Tensor, text_CD: Tensor, names: Sequence[str], keys: Sequence[str], key_name: str
) -> None:
    if image_ND.shape[1] != text_CD.shape[1]:
        raise ClipError(
            f"{path}: image and text features must come from one CLIP, with one width",
            got=f"'image_features' of width {image_ND.shape[1]}, 'text_features' of width {text_CD.shape[1]}",
            fix="compute both with the same model, after its projections.",
        )
    for feature, rows, other, count in (
        ("text_features", text_CD.shape[0], "classnames", len(names)),
        ("image_features", image_ND.shape[0], key_name, len(keys)),
    ):
        if rows != count:
            raise ClipError(
                f"{path}: '{feature}' must have one row for each of '{other}'",
                got=f"{rows} rows for {count}",
                fix="save both from the same run.",
            )


def _logit_scale(path: Path, arrays: Mapping[str, Array]) -> float:
    if "logit_scale" not in arrays:
        return RELEASED_LOGIT_SCALE
    array = arrays["logit_scale"]
    scale = float(array.item()) if array.size == 1 and np.issubdtype(array.dtype, np.number) else float("nan")
    if not (np.isfinite(scale) and scale > 0):
        raise ClipError(
            f"{path}: 'logit_scale' must be one positive number, the factor of the cosines",
            got=repr(array.tolist()),
            fix="save exp(model.logit_scale), about 100 for released models, or leave it out.",
        )
    return scale


def _usable(matrix: Tensor) -> Tensor:
    # A norm is NaN or infinite if any entry of its row is, so one pass answers for the row.
    norms = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float32)
    usable: Tensor = norms.isfinite() & (norms > 0)
    return usable


def _align(
    path: Path, split: str, wanted: Sequence[str], row_of: Mapping[str, int], usable_N: Tensor
) -> Tensor:
    if len(set(wanted)) < len(wanted):
        _refuse_repeated(f"The keys of the images of split '{split}' must be unique", wanted)
    missing = [key for key in wanted if key not in row_of]
    if missing:
        raise ClipError(
            f"Every image of split '{split}' needs a row in {path}",
            got=f"{len(missing)} of {len(wanted)} images without one: {_first(missing)}",
            fix=f"add their rows, or make the keys agree: the file's look like '{next(iter(row_of), '')}'.",
        )
    rows = torch.tensor([row_of[key] for key in wanted], dtype=torch.long)
    unusable = [wanted[i] for i in (~usable_N[rows]).nonzero().flatten().tolist()]
    if unusable:
        raise ClipError(
            f"{path}: rows of 'image_features' must be finite and not zero",
            got=f"{len(unusable)} others in split '{split}': {_first(unusable)}",
            fix="compute the features of these images again.",
        )
    return rows


def _refuse_repeated(rule: str, keys: Sequence[str]) -> None:
    seen: set[str] = set()
    repeated = [key for key in keys if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
    raise ClipError(
        rule,
        got=f"{len(repeated)} repeated: {_first(list(dict.fromkeys(repeated)))}",
        fix="use a column that names each image once, such as its path.",
    )


def _first(items: Sequence[str], count: int = 5) -> str:
    return ", ".join(items[:count]) + (" …" if len(items) > count else "")
