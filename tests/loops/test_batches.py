"""The forms of a batch."""

from __future__ import annotations

import pytest
import torch

from richkd.core.errors import DataError
from richkd.loops.batches import parts_of
from tests.loops.test_loop import separable


def test_mappings_are_batches_and_other_forms_are_refused() -> None:
    pixels_B3HW, labels_B = separable(4, 0)
    device = torch.device("cpu")
    pixels, labels, index = parts_of(
        {"pixel_values": pixels_B3HW, "labels": labels_B, "index": torch.tensor([3, 1, 2, 0])}, device
    )
    assert torch.equal(pixels, pixels_B3HW)
    assert torch.equal(labels, labels_B)
    assert index is not None
    assert index.tolist() == [3, 1, 2, 0]
    for broken in (pixels_B3HW, (pixels_B3HW,), (pixels_B3HW, labels_B[:2]), {"image": pixels_B3HW}, 7, ()):
        with pytest.raises(DataError, match="A batch must hold pixels"):
            parts_of(broken, device)
