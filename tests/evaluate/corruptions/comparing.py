"""Compare a corrupted batch with slow implementations for single images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from richkd.evaluate.corruptions.draws import draws_for
from richkd.evaluate.corruptions.severity import constants


def drawn_for(name: str, severity: int, images_BHWC: torch.Tensor, number: int) -> dict[str, Any]:
    """The random numbers of one image of the batch, as arguments of the slow implementation."""
    size = images_BHWC.shape[1]
    draws = draws_for(images_BHWC, name, severity, seed=0)

    def field(drawn: torch.Tensor) -> NDArray[np.float64]:
        return drawn[number].double().numpy()

    if name == "glass_blur":
        _, shift, rounds = (round(value) for value in constants(name, severity, size))
        words = draws.uniform((rounds * (size - 2 * shift) ** 2, 2))[number]
        return {"moves": ((words * 2 * shift).long() - shift).numpy()}
    if name == "motion_blur":
        return {"degrees": float(draws.uniform(())[number] * 90 - 45)}
    if name == "snow":
        degrees = float(draws.uniform((), number=1)[number] * 90 - 135)
        return {"flakes": field(draws.normal((1, size, size)))[0], "degrees": degrees}
    if name == "frost":
        noises = [field(draws.uniform((size, size), k)) * 2 - 1 for k in (0, 1)]
        return {"noises": noises, "file": int(draws.uniform((), number=2)[number] * 5)}
    if name == "fog":
        return {"noise": field(draws.uniform((size, size))) * 2 - 1}
    if name == "spatter":
        return {"noise": field(draws.normal((1, size, size)))[0]}
    if name == "elastic_transform":
        moves = field(draws.uniform((3, 2))) * 2 - 1
        return {"moves": moves, "fields": field(draws.uniform((2, size, size), 1)) * 2 - 1}
    return {}


def different(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The share of bytes that are not the truncated values, apart from rounding errors."""
    return float(((theirs - ours < -0.01) | (theirs - ours > 1.01)).mean())
