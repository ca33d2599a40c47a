"""A CLIP whose outputs somebody computed elsewhere: features in a file instead of a model in memory."""

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
from richkd.teachers.precomputed.arrays import GivenArrays, first, hash_given, read_arrays, refuse_repeated

# exp(logit_scale) of the released CLIP models, which were trained with this as its upper bound.
RELEASED_LOGIT_SCALE = 100.0


class GivenClip(Teacher):
    """Stored outputs of a CLIP model, looked up by split and position; see `load_given`.

    They belong to one fixed rendering of each image, whatever view the student sees.
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
        assert not maps, "a CLIP gives no intermediate maps"
        return self.look_up(batch.split, batch.index_B).to(batch.pixels_BHWC.device)

    def look_up(self, split_name: str | None, index_B: Tensor) -> Output:
        """Cosines ``logits_BC`` in [-1, 1] and unit-norm features of images of a split.

        ``index_B`` holds positions in the split. Both outputs are float32, on the CPU.

        Raises:
            ClipError: there are no outputs for the split.
        """
        if split_name is None or split_name not in self._rows:
            raise ClipError(
                "CLIP outputs were given for other splits",
                got=f"'{split_name}'",
                fix=nearest(str(split_name), self._rows),
            )
        rows_B = self._rows[split_name][index_B]
        # Rows stay in the file's type, half the memory for float16; each batch is normalized in float32.
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
    """Open stored CLIP outputs and align them with the images of each split.

    The file is an ``.npz``, or a ``.safetensors`` whose two lists of text are JSON in its metadata:

    - ``image_features`` (N, D) and ``text_features`` (C, D), floating point, of any norm but zero;
    - ``classnames``: C names, in the order of ``class_names``; case, underscores and blanks may differ;
    - the key column, N names that pair rows with images: ``key_column``, else the first there is of
      ``files``, ``file``, ``keys`` and ``key``;
    - optionally ``prompt_features`` (P, C, D) and ``prompts``, P templates: what each of them makes of each
      class, so that templates can be compared and weighed;
    - optionally ``logit_scale``, the factor itself and not its logarithm. Without it, 100, which is
      that of the released CLIP models.

    ``keys_by_split`` gives the key of each image, by split and in the split's order. Rows that no image
    asks for are ignored.

    Raises:
        ClipError: the file or one of its arrays is missing, pickled or of a wrong shape; keys repeat;
            images have no row; a row is zero, NaN or infinite.
        ClassError: number, names or order of the classes differ from ``class_names``.
    """
    given = read_arrays(path, ClipError, "CLIP outputs")
    key_name = given.key_column(key_column)
    image_ND, text_CD = given.matrix("image_features"), given.matrix("text_features")
    names, keys = given.texts("classnames"), given.texts(key_name)

    given.check_classes(class_names, names)
    if image_ND.shape[1] != text_CD.shape[1]:
        raise ClipError(
            f"{given.path}: image and text features must come from one CLIP, with one width",
            got=f"'image_features' of width {image_ND.shape[1]}, 'text_features' of width {text_CD.shape[1]}",
            fix="compute both with the same model, after its projections.",
        )
    given.check_rows("text_features", len(text_CD), "classnames", len(names))
    given.check_rows("image_features", len(image_ND), key_name, len(keys))
    scale = _logit_scale(given)
    row_of = {key: row for row, key in enumerate(keys)}
    if len(row_of) < len(keys):
        refuse_repeated(ClipError, f"{given.path}: the keys in '{key_name}' must be unique", keys)
    usable_N = _usable(image_ND)
    rows_by_split = {
        split: _align(given.path, split, [str(key) for key in wanted], row_of, usable_N)
        for split, wanted in keys_by_split.items()
    }
    unusable = [names[row] for row in np.flatnonzero(~_usable(text_CD).numpy())]
    if unusable:
        raise ClipError(
            f"{given.path}: rows of 'text_features' must be finite and not zero",
            got=f"{len(unusable)} others: {first(unusable)}",
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
    wanted = (len(templates), *text_CD.shape)
    if array.shape != wanted or not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
        raise ClipError(
            f"{given.path}: 'prompt_features' must be finite numbers for each prompt, class and dimension",
            got=f"shape {array.shape}, type {array.dtype}",
            fix=f"save an array of shape {wanted}.",
        )
    embeds_PCD = torch.from_numpy(array.astype(np.float32))
    return PromptSet(tuple(templates), functional.normalize(embeds_PCD, dim=2))


def _logit_scale(given: GivenArrays) -> float:
    if "logit_scale" not in given.arrays:
        return RELEASED_LOGIT_SCALE
    array = given.arrays["logit_scale"]
    scale = float(array.item()) if array.size == 1 and np.issubdtype(array.dtype, np.number) else float("nan")
    if not (np.isfinite(scale) and scale > 0):
        raise ClipError(
            f"{given.path}: 'logit_scale' must be one positive number, the factor of the cosines",
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
        refuse_repeated(ClipError, f"The keys of the images of split '{split}' must be unique", wanted)
    missing = [key for key in wanted if key not in row_of]
    if missing:
        raise ClipError(
            f"Every image of split '{split}' needs a row in {path}",
            got=f"{len(missing)} of {len(wanted)} images without one: {first(missing)}",
            fix=f"add their rows, or make the keys agree: the file's look like '{next(iter(row_of), '')}'.",
        )
    rows = torch.tensor([row_of[key] for key in wanted], dtype=torch.long)
    unusable = [wanted[i] for i in (~usable_N[rows]).nonzero().flatten().tolist()]
    if unusable:
        raise ClipError(
            f"{path}: rows of 'image_features' must be finite and not zero",
            got=f"{len(unusable)} others in split '{split}': {first(unusable)}",
            fix="compute the features of these images again.",
        )
    return rows
