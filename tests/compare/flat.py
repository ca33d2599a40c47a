"""A student without stages, which attention transfer cannot compare."""

from __future__ import annotations

from torch import nn

from tests.fixtures import PlainNet


def flat(num_classes: int) -> nn.Module:
    return PlainNet(num_classes)
