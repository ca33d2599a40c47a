"""The frozen teacher: the student's views at its own resolution, and nothing of it that changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from richkd.core.types import Batch
from richkd.data.augmentations import CropFlip
from richkd.data.views import Views, render
from richkd.models.build import Network
from richkd.models.create import Blueprint
from richkd.teachers.cache.row_format import as_stored
from richkd.teachers.vision import VisionTeacher

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


class Tiny(nn.Module):
    """A convolution, batch norm and dropout, under timm's contract."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.norm.running_mean = torch.full((6,), 0.1)

    def forward_features(self, x: Tensor) -> Tensor:
        self.seen = x
        out: Tensor = self.norm(self.conv(x)).relu()
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = nn.functional.dropout(x.mean((2, 3)), 0.5, self.training)
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Module:
        return self.fc


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(Tiny(), "tiny", size=24, mean=MEAN, std=STD).train()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (5, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return Batch("train", torch.arange(5), pixels, torch.zeros(5, dtype=torch.int64))


@pytest.fixture
def views(batch: Batch) -> Views:
    return CropFlip(16, 2).draw(0, 0, batch.index_B)


CPU = torch.device("cpu")


def test_outputs_are_the_networks_on_the_view_at_its_own_resolution(
    network: Network, batch: Batch, views: Views
) -> None:
    reference = copy.deepcopy(network).eval()
    teacher = VisionTeacher(network, CPU)
    output = teacher.outputs(batch, views)
    pixels = render(batch.pixels_BHWC, views, 24, MEAN, STD)
    assert pixels.shape[-1] == 24
    expected = as_stored(reference(pixels))
    assert torch.equal(output.logits_BC, expected.logits_BC)
    assert torch.equal(output.feats_BF, expected.feats_BF)
    assert torch.equal(network.model.seen, pixels)  # type: ignore[union-attr, arg-type]


def test_a_teacher_never_changes(network: Network, batch: Batch, views: Views) -> None:
    teacher = VisionTeacher(network, CPU)
    before = copy.deepcopy(network.state_dict())
    first = teacher.outputs(batch, views)
    second = teacher.outputs(batch, views)
    assert torch.equal(first.logits_BC, second.logits_BC)  # no dropout
    assert not first.logits_BC.requires_grad
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_an_image_is_judged_alone(network: Network, batch: Batch, views: Views) -> None:
    teacher = VisionTeacher(network, CPU)
    whole = teacher.outputs(batch, views)
    one = Batch("train", batch.index_B[2:3], batch.pixels_BHWC[2:3], batch.labels_B[2:3])
    view = Views(views.box_B4[2:3], views.flip_B[2:3], views.border)
    assert torch.allclose(teacher.outputs(one, view).logits_BC, whole.logits_BC[2:3], rtol=1e-3)


def test_autocast_keeps_outputs_in_float32(network: Network, batch: Batch, views: Views) -> None:
    exact = VisionTeacher(copy.deepcopy(network), CPU).outputs(batch, views)
    rough = VisionTeacher(network, CPU, torch.bfloat16).outputs(batch, views)
    assert rough.logits_BC.dtype == rough.feats_BF.dtype == torch.float32
    assert not torch.equal(rough.logits_BC, exact.logits_BC)
    assert torch.allclose(rough.logits_BC, exact.logits_BC, atol=0.05)


def test_arguments_of_a_network_are_part_of_its_cache(network: Network) -> None:
    plain = VisionTeacher(network, CPU).ingredients()
    assert "arguments" not in plain
    network.blueprint = Blueprint("tiny", {"act_layer": "silu"})
    assert VisionTeacher(network, CPU).ingredients() == {**plain, "arguments": {"act_layer": "silu"}}


def test_each_property_of_network_and_computation_is_an_ingredient(network: Network) -> None:
    def ingredients(**changes: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {"size": 24, "mean": MEAN, "std": STD} | changes
        clone = Network(copy.deepcopy(network.model), "tiny", **settings)
        return VisionTeacher(clone, CPU).ingredients()

    plain = ingredients()
    assert ingredients() == plain
    for changes in (
        {"size": 32},
        {"mean": (*MEAN[:2], 0.1)},
        {"std": (*STD[:2], 0.1)},
    ):
        assert ingredients(**changes) != plain, changes
    teacher = VisionTeacher(network, CPU, torch.bfloat16)
    teacher.compiled = True
    # The outputs of training images depend on precision and compilation, those of others do not.
    assert teacher.ingredients() == plain | {"precision": "torch.bfloat16", "compiled": True}
    assert teacher.ingredients(trained=False) == plain
    assert plain["device"] == "cpu"
    with torch.no_grad():
        network.model.norm.running_mean[0] += 1  # type: ignore[union-attr,index,operator]
    assert VisionTeacher(network, CPU).ingredients() != plain


@pytest.mark.parametrize("split", ["val", "test", None])
def test_images_that_are_not_for_training_are_computed_in_float32_without_rounding(
    network: Network, batch: Batch, views: Views, split: str | None
) -> None:
    reference = copy.deepcopy(network).eval()
    held_out = Batch(split, batch.index_B, batch.pixels_BHWC, batch.labels_B)
    output = VisionTeacher(network, CPU, torch.bfloat16).outputs(held_out, views)
    exact = reference(render(batch.pixels_BHWC, views, 24, MEAN, STD))
    assert torch.equal(output.logits_BC, exact.logits_BC)
    assert torch.equal(output.feats_BF, exact.feats_BF)
    assert not torch.equal(output.logits_BC, as_stored(output).logits_BC)


def test_what_a_teacher_says_of_itself(network: Network) -> None:
    teacher = VisionTeacher(network, CPU)
    assert (teacher.name, teacher.feature_width, teacher.logit_scale) == ("tiny", 6, 1.0)
