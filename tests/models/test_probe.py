"""Looking at a network changes nothing, decides how its head ends, and refuses what cannot be trained."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from richkd.config.schema import ModelConfig
from richkd.core.errors import ModelError
from richkd.models.build import Network, build_network
from richkd.models.probe import map_shapes, probe_head, unchanged
from tests.fixtures import PlainNet, refusal

RGB = (0.5, 0.5, 0.5)


def probed(model: nn.Module, name: str = "net", size: int = 8) -> Network:
    return Network(model, name, size=size, mean=RGB, std=RGB)


def built(name: str, classes: int = 4, **options: Any) -> Network:
    config = ModelConfig(name=f"{__name__}:{name}", size=8, **options)
    return build_network(config, classes, role="student", new_classifier=True)


class Restless(PlainNet):
    """Counts its calls in a buffer, draws random numbers and replaces a buffer, in every mode."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__(num_classes)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.full((2,), float("nan")))
        self.norm = nn.BatchNorm2d(3)

    def forward_features(self, pixels_B3HW: Tensor) -> Tensor:
        self.calls += 1
        self.last = torch.rand(2)
        noisy_B3HW: Tensor = self.norm(pixels_B3HW) + torch.rand_like(pixels_B3HW)
        return super().forward_features(noisy_B3HW)


def test_nothing_is_changed() -> None:
    model = Restless().train()
    # Two parts in other modes, as in a network whose first layers are frozen.
    model.norm.eval()
    model.fc.training = False
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    buffer, modes, random = model.last, [m.training for m in model.modules()], torch.get_rng_state()
    network = probed(model)
    with pytest.raises(ModelError):
        network.map_shapes()
    for training in (False, True):
        with unchanged(model, training=training):
            assert all(m.training == training for m in model.modules())
            model.forward_features(torch.rand(2, 3, 8, 8))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert model.last is buffer
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7), state[key].nan_to_num(7)), key


def test_an_exception_leaves_nothing_behind() -> None:
    model = Restless().train()

    def fails() -> None:
        with unchanged(model):
            model.forward_features(torch.rand(2, 3, 8, 8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (model.training, int(model.calls)) == (True, 0)


def test_maps_are_found_without_a_change() -> None:
    network = probed(timm.create_model("test_byobnet", num_classes=4), size=64)
    network.model.stages.eval()  # type: ignore[union-attr, operator]
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    assert len(network.map_shapes()) > 2
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


# The end of the head


class Head(PlainNet):
    """Puts a part between the pooled feature and the classifier."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__(4)
        self.between = between

    def forward_head(self, map_BFHW: Tensor, pre_logits: bool = False) -> Tensor:
        feats_BF = map_BFHW.mean(dim=(2, 3))
        return feats_BF if pre_logits else self.fc(self.between(feats_BF))

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(pixels_B3HW))


class Scale(nn.Module):
    """Multiplies by a parameter that starts at 1 and is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize(
    ("between", "ends"),
    [
        (nn.Identity(), True),
        (nn.Dropout(0.0), True),
        (nn.Dropout(0.5), False),
        (nn.BatchNorm1d(6), False),
        (nn.BatchNorm1d(6, eps=1e-12), False),
        (Scale(), False),
        (nn.ReLU(), False),
        (nn.Linear(6, 6), False),
    ],
)
def test_what_stands_before_the_classifier_is_not_left_out(between: nn.Module, ends: bool) -> None:
    model = Head(between)
    assert probe_head(model, "net", 8).ends_in_classifier == ends
    network, pixels = probed(model), torch.rand(4, 3, 8, 8)
    for training in (False, True):
        network.train(training)
        with unchanged(model, training=training):
            expected = model(pixels)
        with unchanged(model, training=training):
            assert torch.equal(network(pixels).logits_BC, expected)


class Averaged(PlainNet):
    """Changes the logits after the classifier, but only in evaluation mode."""

    def forward_head(self, map_BFHW: Tensor, pre_logits: bool = False) -> Tensor:
        output = super().forward_head(map_BFHW, pre_logits)
        return output if pre_logits or self.training else 2 * output


def test_both_modes_count() -> None:
    assert not probe_head(Averaged(4), "net", 8).ends_in_classifier


# What is refused


class Channels(PlainNet):
    def __init__(self, num_classes: int, channels: int = 1) -> None:
        super().__init__(num_classes)
        self.stem = nn.Conv2d(channels, self.num_features, 3, 2, 1)


@pytest.mark.parametrize(("channels", "got"), [(1, "1 channel"), (2, "2 channels"), (4, "4 channels")])
def test_images_are_rgb(channels: int, got: str) -> None:
    error = refusal(built, "Channels", args={"channels": channels})
    assert error.rule == f"Model {__name__}:Channels must take RGB images, which have 3 channels"
    assert error.got == f"a model of images with {got}"


class Stubborn(PlainNet):
    """Ignores the number of classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(10)


def test_the_number_of_outputs_is_that_of_the_classes() -> None:
    error = refusal(built, "Stubborn")
    assert error.rule == f"The student {__name__}:Stubborn must have one output for each class of the data"
    assert error.got == "10 outputs for 4 classes"


class Several(PlainNet):
    """Returns something else than a tensor of logits, or of pooled features."""

    def __init__(self, num_classes: int, kind: str) -> None:
        super().__init__(num_classes)
        self.kind = kind

    def forward_head(self, map_BFHW: Tensor, pre_logits: bool = False) -> Any:
        feats_BF, logits_BC = map_BFHW.mean((2, 3)), super().forward_head(map_BFHW)
        return {
            "tuple": feats_BF if pre_logits else (logits_BC, logits_BC),
            "dict": feats_BF if pre_logits else {"logits": logits_BC},
            "none": None,
            "map": map_BFHW if pre_logits else logits_BC,
            "flat": feats_BF if pre_logits else logits_BC.flatten(),
            "auxiliary": (logits_BC, logits_BC) if self.training and not pre_logits else logits_BC,
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "what", "got"),
    [
        ("tuple", "a tensor of logits (B, C) from forward_head(x)", "tuple"),
        ("dict", "a tensor of logits (B, C) from forward_head(x)", "dict"),
        ("none", "a tensor of logits (B, C) from forward_head(x)", "NoneType"),
        ("map", "a tensor of pooled features (B, F) from", "a tensor of shape (2, 6, 4, 4)"),
        ("flat", "a tensor of logits (B, C) from forward_head(x)", "a tensor of shape (8,)"),
        ("auxiliary", "a tensor of logits (B, C) from forward_head(x) in training mode", "tuple"),
    ],
)
def test_outputs_are_tensors_with_a_row_per_image(kind: str, what: str, got: str) -> None:
    error = refusal(built, "Several", args={"kind": kind})
    assert f"must return {what}" in error.rule
    assert error.got == f"{got} for two images"


def test_a_teacher_may_have_more_outputs_in_training() -> None:
    config = ModelConfig(name=f"{__name__}:Several", size=8, args={"kind": "auxiliary"})
    assert build_network(config, 4, role="teacher").classes == 4


class Failing(PlainNet):
    def __init__(self, num_classes: int, where: str, message: str = "") -> None:
        super().__init__(num_classes)
        self.where, self.message = where, message
        self.fail("init")

    def fail(self, where: str) -> None:
        if where == self.where:
            raise KeyError(*([self.message] if self.message else []))

    def forward_features(self, pixels_B3HW: Tensor) -> Tensor:
        self.fail("features")
        self.fail("training" if self.training else "evaluation")
        return super().forward_features(pixels_B3HW)

    def forward_intermediates(self, pixels_B3HW: Tensor) -> Any:
        self.fail("maps")
        return pixels_B3HW, [pixels_B3HW.flatten(1)]

    def get_classifier(self) -> nn.Module:
        self.fail("classifier")
        return self.fc


@pytest.mark.parametrize("message", ["", "no\nsuch key"])
@pytest.mark.parametrize(
    ("where", "rule"),
    [
        ("init", f"The student {__name__}:Failing could not be built"),
        ("features", "does not accept images of 8×8 pixels"),
        ("classifier", "does not accept images of 8×8 pixels"),
        ("training", "must run in training mode on two images of 8×8 pixels"),
    ],
)
def test_any_exception_of_a_model_is_named(where: str, rule: str, message: str) -> None:
    error = refusal(built, "Failing", args={"where": where, "message": message})
    assert rule in error.rule
    assert str(error.got).startswith("KeyError")
    assert "\n" not in str(error.got)
    assert error.fix


@pytest.mark.parametrize("where", ["maps", "nowhere"])
def test_maps_must_be_maps(where: str) -> None:
    network = built("Failing", args={"where": where})
    error = refusal(map_shapes, network, "net", 8)
    assert error.rule == "Model net must return its maps (B, C, H, W) from forward_intermediates"


def test_the_constructors_argument_for_the_resolution_is_named() -> None:
    model = timm.create_model("test_vit", num_classes=4, dynamic_img_size=False)
    error = refusal(probed, model, "test_vit", 64)
    assert error.rule == "Model test_vit does not accept images of 64×64 pixels"
    assert "--student.args '{img_size: 64}'" in str(error.fix)
    assert "img_size" not in str(refusal(probed, PlainNet(4), "plain", 0).fix)
