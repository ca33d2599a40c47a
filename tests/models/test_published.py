"""A file of weights does not say which normalization it needs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import timm
import torch

from richkd.config.schema import ModelConfig
from richkd.models.build import build_network
from richkd.models.published import normalizations

NAME = "mobilenetv3_large_100"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save(timm.create_model(NAME, num_classes=3).state_dict(), file)
    return file


def test_every_tag_is_in_one_kind() -> None:
    tags = [tag for kind in normalizations(NAME).values() for tag in kind]
    assert sorted(f"{NAME}.{tag}" for tag in tags) == sorted(timm.list_models(f"{NAME}.*", pretrained=True))


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({}, True),
        ({"name": f"{NAME}.miil_in21k"}, False),
        ({"mean": (0, 0, 0), "std": (1, 1, 1)}, False),
    ],
)
def test_a_file_without_a_tag_is_warned_about(
    weights: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, object], warned: bool
) -> None:
    config = ModelConfig.model_validate({"name": NAME, "weights": weights, **changes})
    with caplog.at_level(logging.WARNING, logger="richkd"):
        build_network(config, 3, role="teacher")
        build_network(config, 3, role="student")
    messages = [record.getMessage() for record in caplog.records if "normalizations" in record.getMessage()]
    assert len(messages) == warned
    if warned:
        assert "miil_in21k" in messages[0]
        assert f"{NAME}.TAG" in messages[0]
