"""Where the negatives of `contrastive` come from."""

from __future__ import annotations

import pytest
import torch

from richkd.losses.memory_bank import Banks, Queues
from richkd.methods import contrastive
from richkd.methods.contrastive import Contrastive, ContrastiveConfig
from richkd.methods.term import NetworkShapes, Setup


def negatives_of(images: int, kind: str = "auto") -> Banks | Queues:
    """Those of a term with two classes; a queue has more rows than there are images."""
    setup = Setup(NetworkShapes(4), (NetworkShapes(5),), torch.arange(images) % 2, classes=2, seed=0)
    config = ContrastiveConfig.model_validate({"negatives": kind, "embed_dim": 2, "num_negatives": 8})
    return Contrastive(config, setup).memory.negatives


def test_many_images_have_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "MOST_ROWS", 100)
    assert isinstance(negatives_of(100), Banks)
    assert isinstance(negatives_of(101), Queues)
    assert isinstance(negatives_of(101, "memory-bank"), Banks)
    assert isinstance(negatives_of(10, "queue"), Queues)


def test_the_number_is_stated_where_the_setting_is_read() -> None:
    description = ContrastiveConfig.model_fields["negatives"].description
    assert description is not None
    assert "more than 200,000 training images" in description
