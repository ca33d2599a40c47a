"""How many teacher outputs a run will have to compute, because the teacher cache does not have them yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from richkd.data.split import evenly_spaced
from richkd.pipeline.assemble import Parts
from richkd.teachers.cache.store import OutputCache

# Batches of an epoch whose views are looked up.
SAMPLE = 8


@dataclass(frozen=True)
class MissingOutputs:
    """What a run will add to its teacher caches.

    Attributes:
        steps: expected number of steps in which a teacher computes outputs, because those of an image of
            the batch are not stored.
        size: expected number of bytes that are added to the caches.
    """

    steps: float
    size: float


def count_missing_outputs(parts: Parts) -> MissingOutputs:
    """Look up the views of some batches in all epochs of a run, and conclude from them for all batches.

    Views are functions of (seed, epoch, image), so those of later epochs are known beforehand.
    """
    order, epochs = parts.order(), parts.config.train.epochs
    groups = order.epoch(0)
    sample = [groups[place] for place in evenly_spaced(len(groups), SAMPLE).tolist()]
    index_S = torch.cat(sample)
    caches = {cache: key == ("train", parts.augmentation) for key, cache in _caches(parts)}
    views = [parts.augmentation.draw(parts.config.train.seed, epoch, index_S) for epoch in range(epochs)]
    size, computes_ES = 0.0, np.zeros((epochs, len(index_S)), dtype=bool)
    for cache, of_training in caches.items():
        rows = cache.manifest.images * cache.manifest.views - len(cache)
        if of_training:
            numbers_ES = np.stack([np.asarray(view.number_B) for view in views])
            missing_ES = _missing(cache, index_S.numpy(), numbers_ES)
            rows = min(rows, missing_ES.sum(axis=0).mean() * order.images)
            computes_ES |= missing_ES
        size += rows * cache.format.row_bytes
    batches_EG = computes_ES.reshape(epochs, len(sample), -1).any(axis=2)
    return MissingOutputs(float(batches_EG.mean(axis=1).sum()) * order.steps, float(size))


def _caches(parts: Parts) -> list[tuple[tuple[str, object], OutputCache]]:
    return [
        (key, cache)
        for teacher in parts.teachers
        if teacher not in parts.mapped_teachers
        for member in teacher.members
        for key, cache in member.caches.items()
    ]


def _missing(
    cache: OutputCache, index_S: NDArray[np.int64], numbers_ES: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether an output is neither stored nor computed in an earlier epoch (E × S)."""
    keys_ES = index_S * cache.manifest.views + numbers_ES
    first_ES = np.zeros(keys_ES.size, dtype=bool)
    first_ES[np.unique(keys_ES, return_index=True)[1]] = True
    places = (torch.from_numpy(part) for part in np.divmod(keys_ES.ravel(), cache.manifest.views))
    stored_ES = (cache.find(*places) >= 0).numpy()
    missing_ES: NDArray[np.bool_] = first_ES & ~stored_ES
    return missing_ES.reshape(keys_ES.shape)
