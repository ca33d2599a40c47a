"""A CLIP teacher whose features were computed elsewhere and are read from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from richkd.core.errors import ClipError, nearest
from richkd.core.types import Batch, Output
from richkd.data.views import Views
from richkd.teachers.base import Teacher, ZeroShot
from richkd.teachers.clip.prompt_weights import PromptSet
from richkd.teachers.precomputed.arrays import (
    GivenArrays,
    find_keys,
    first,
    hash_given,
    read_arrays,
    refuse_repeated,
)

# exp(logit_scale) of the released CLIP models; training clipped it at this value.
RELEASED_LOGIT_SCALE = 100.0


class GivenClip(Teacher):
    """Stored outputs of a CLIP model by split and image position; see `load_given`.

    The outputs were computed from one fixed view of each image, and are used for all views of the student.

    Args:
        feats_ND: image features of all rows of the file.
        class_embeddings_CD: text embedding of each class.
        rows_by_split: for each split, the row of each image.
        logit_scale: factor that turns cosines into logits.
        fingerprint: hash of the content of the file.
        prompts: class embeddings of each prompt template; None if they are not stored.

    Example:
        >>> rows = {"train": torch.tensor([1, 0])}
        >>> clip = GivenClip(torch.eye(2), torch.eye(2), rows, logit_scale=100.0, fingerprint="")
        >>> clip.look_up("train", torch.tensor([0])).logits_BC.tolist()
        [[0.0, 1.0]]
    """

    name = "CLIP outputs"
    role = "CLIP"

    def __init__(
        self,
        feats_ND: Tensor,
        class_embeddings_CD: Tensor,
        rows_by_split: Mapping[str, Tensor],
        *,
        logit_scale: float,
        fingerprint: str,
        prompts: PromptSet | None = None,
    ) -> None:
        self.prompts = prompts
        self.logit_scale = logit_scale
        self.fingerprint = fingerprint
        self.feature_width = feats_ND.shape[1]
        self.class_embeddings_CD = functional.normalize(class_embeddings_CD.float(), dim=1)
        self._feats_ND = feats_ND
        self._rows = dict(rows_by_split)

    @property
    def zero_shot(self) -> ZeroShot:
        def reweighted(class_embeddings_CD: Tensor) -> Teacher:
            teacher = copy(self)
            teacher.class_embeddings_CD = functional.normalize(class_embeddings_CD.float(), dim=1)
            return teacher

        return ZeroShot(self.class_embeddings_CD, lambda: self.prompts, reweighted)

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        assert not maps, "CLIP has no intermediate maps"
        return self.look_up(batch.split, batch.index_B).to(batch.pixels_BHWC.device)

    def look_up(self, split_name: str | None, index_B: Tensor) -> Output:
        """Cosines ``logits_BC`` in [-1, 1] and unit-norm features of images of a split, float32 on the CPU.

        Args:
            split_name: name of the split.
            index_B: positions of the images in the split.

        Raises:
            ClipError: there are no outputs for this split.
        """
        if split_name is None or split_name not in self._rows:
            raise ClipError(
                f"The stored CLIP outputs are for splits {', '.join(self._rows)}",
                got=f"split '{split_name}'",
                fix=nearest(str(split_name), self._rows),
            )
        rows_B = self._rows[split_name][index_B]
        # Rows keep the dtype of the file, as float16 halves the memory; each batch is converted to float32.
        feats_BD = functional.normalize(self._feats_ND[rows_B].float(), dim=1)
        with torch.autocast("cpu", enabled=False):
            cosines_BC = feats_BD @ self.class_embeddings_CD.T
        return Output(logits_BC=cosines_BC.clamp(-1.0, 1.0), feats_BF=feats_BD)


def load_given(
    path: str | Path,
    keys_by_split: Mapping[str, Sequence[str]],
    class_names: Sequence[str],
    *,
    key_column: str | None = None,
) -> GivenClip:
    """Read stored CLIP outputs and match their rows with the images of each split.

    The file is an ``.npz`` file, or a ``.safetensors`` file with the lists of text as JSON in its metadata:

    - ``image_features`` (N, D) and ``text_features`` (C, D): floating-point, with any norm except zero;
    - ``classnames``: C names in the order of ``class_names``; letter case, underscores and spaces may differ;
    - N image keys: the array ``key_column``, else the first of ``files``, ``file``, ``keys`` and ``key`` that
      exists;
    - optional ``prompts`` (P templates) and ``prompt_features`` (P, C, D), the class embeddings of each
      template, which are needed to compare and weight templates;
    - optional ``logit_scale``: the factor of the cosines (not its logarithm); default 100, as in the released
      CLIP models.

    Args:
        path: the file.
        keys_by_split: for each split, the keys of its images in order; other rows of the file are ignored.
        class_names: names of the classes, in label order.
        key_column: name of the array with the image keys.

    Raises:
        ClipError: the file or an array is missing, pickled or of a wrong shape; keys are not unique over all
            splits; an image has no row; or a row is zero, NaN or infinite.
        ClassError: number, names or order of the classes differ from ``class_names``.

    Example:
        >>> import tempfile
        >>> arrays = {"image_features": np.eye(2), "text_features": np.eye(2)}
        >>> names = {"classnames": ["ant", "bee"], "files": ["1.png", "2.png"]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/clip.npz", **arrays, **names)
        ...     clip = load_given(f"{folder}/clip.npz", {"test": ["2.png"]}, ["ant", "bee"])
        >>> clip.look_up("test", torch.tensor([0])).logits_BC.tolist()
        [[0.0, 1.0]]
    """
    given = read_arrays(path, ClipError, "CLIP outputs")
    key_name = given.key_column(key_column)
    image_ND, text_CD = given.matrix("image_features"), given.matrix("text_features")
    names, keys = given.texts("classnames"), given.texts(key_name)

    given.check_classes(class_names, names)
    if image_ND.shape[1] != text_CD.shape[1]:
        raise ClipError(
            f"{given.path}: image and text features must have the same width",
            got=f"'image_features' of width {image_ND.shape[1]}, 'text_features' of width {text_CD.shape[1]}",
            fix="compute both with the same model, after its projection layers.",
        )
    given.check_rows("text_features", len(text_CD), "classnames", len(names))
    given.check_rows("image_features", len(image_ND), key_name, len(keys))
    scale = _logit_scale(given)
    row_of = {key: row for row, key in enumerate(keys)}
    if len(row_of) < len(keys):
        refuse_repeated(ClipError, f"{given.path}: the keys in '{key_name}' must be unique", keys)
    rows_by_split = _rows_by_split(given.path, keys_by_split, row_of, _usable(image_ND))
    unusable = [names[row] for row in np.flatnonzero(~_usable(text_CD).numpy())]
    if unusable:
        raise ClipError(
            f"{given.path}: rows of 'text_features' must be finite and not zero",
            got=f"{len(unusable)} of {len(names)} rows are not: {first(unusable)}",
            fix="compute the embeddings of these classes again.",
        )
    fingerprint = hash_given([key_name, keys, names, scale], (image_ND, text_CD))
    return GivenClip(
        image_ND,
        text_CD,
        rows_by_split,
        logit_scale=scale,
        fingerprint=fingerprint,
        prompts=_prompts(given, text_CD),
    )


def _prompts(given: GivenArrays, text_CD: Tensor) -> PromptSet | None:
    if "prompt_features" not in given.arrays:
        return None
    array, templates = given.arrays["prompt_features"], given.texts("prompts")
    expected = (len(templates), *text_CD.shape)
    if array.shape != expected or not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise ClipError(
            f"{given.path}: 'prompt_features' must be finite numbers of shape (prompts, classes, width)",
            got=f"shape {array.shape}, type {array.dtype}",
            fix=f"save an array of shape {expected}.",
        )
    embeds_PCD = torch.from_numpy(array.astype(np.float32))
    return PromptSet(tuple(templates), functional.normalize(embeds_PCD, dim=2))


def _logit_scale(given: GivenArrays) -> float:
    if "logit_scale" not in given.arrays:
        return RELEASED_LOGIT_SCALE
    array = given.arrays["logit_scale"]
    # Complex numbers and time spans are numbers of NumPy, too.
    scale = float(array.item()) if array.size == 1 and array.dtype.kind in "fiu" else float("nan")
    if not (np.isfinite(scale) and scale > 0):
        raise ClipError(
            f"{given.path}: 'logit_scale' must be one positive number, the factor of the cosines",
            got=repr(array.tolist()),
            fix="save exp(model.logit_scale), about 100 for released models, or omit it.",
        )
    return scale


def _usable(matrix: Tensor) -> Tensor:
    # The norm of a row is NaN or infinite if any entry is, so no separate check of the entries is needed.
    norms = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float32)
    usable: Tensor = norms.isfinite() & (norms > 0)
    return usable


def _rows_by_split(
    path: Path, keys_by_split: Mapping[str, Sequence[str]], row_of: Mapping[str, int], usable_N: Tensor
) -> dict[str, Tensor]:
    """The row of each image of all splits."""
    # Images of two splits with the same key, as in shards that all start at 0000, would share a row.
    all_keys = [key for keys in keys_by_split.values() for key in keys]
    if len(set(all_keys)) < len(all_keys):
        refuse_repeated(ClipError, "The keys of the images must be unique over all splits", all_keys)
    return {split: _align(path, split, keys, row_of, usable_N) for split, keys in keys_by_split.items()}


def _align(
    path: Path, split: str, keys: Sequence[str], row_of: Mapping[str, int], usable_N: Tensor
) -> Tensor:
    """The row of each image of a split."""
    places = find_keys(keys, row_of)
    missing = [key for key, place in zip(keys, places, strict=True) if place < 0]
    if missing:
        raise ClipError(
            f"Every image of split '{split}' needs a row in {path}",
            got=f"{len(missing)} of {len(keys)} images without a row: {first(missing)}",
            fix=f"add these rows, or use the same keys; a key of the file is '{next(iter(row_of), '')}'.",
        )
    rows = torch.tensor(places, dtype=torch.long)
    unusable = [keys[i] for i in (~usable_N[rows]).nonzero().flatten().tolist()]
    if unusable:
        raise ClipError(
            f"{path}: rows of 'image_features' must be finite and not zero",
            got=f"{len(unusable)} of {len(keys)} rows in split '{split}' are not: {first(unusable)}",
            fix="compute the features of these images again.",
        )
    return rows
