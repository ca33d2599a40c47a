"""Classifiers that only have ``forward``: their features, weights and names, compared with a forward hook."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import transformers
from torch import Tensor, nn

from richkd.config.schema import ModelConfig
from richkd.core.errors import ModelError
from richkd.export.student import load_student, save_student
from richkd.models.build import Network, build_network
from richkd.models.plain import with_interface
from richkd.training.run import distill
from tests.fixtures import CLASSES, SIZE, World, refusal

HERE = __name__
# One network of each kind of head: dropout before the classifier, attention, normalization, several layers.
PUBLISHED = ["mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5", "convnext_tiny", "vgg11_bn"]


def built(name: str, classes: int = 3, size: int = 32, role: str = "student", **settings: Any) -> Network:
    config = ModelConfig(name=name, size=size, **settings)
    return build_network(config, classes, role=role, new_classifier=role == "student")


class Small(nn.Module):
    """A convolution, and a head with dropout; the attribute ``num_features`` means something else."""

    def __init__(self, num_classes: int, width: int = 6) -> None:
        super().__init__()
        self.num_features = 1
        self.stem = nn.Conv2d(3, width, 3, stride=2)
        self.norm = nn.BatchNorm2d(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.5))
        self.fc = nn.Linear(width, num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.norm(self.stem(pixels)).relu() * self.num_features
        logits: Tensor = self.fc(self.mlp(maps.mean(dim=(2, 3))))
        return logits


class Scaled(Small):
    """The linear layer does not make the logits alone."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels) * 2


class Twice(nn.Module):
    """One linear layer in two places."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem, self.fc = nn.Linear(3, num_classes), nn.Linear(num_classes, num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.fc(self.stem(pixels.mean(dim=(2, 3)))))
        return logits


class WithFeatures(Small):
    """A part of timm's interface."""

    def forward_features(self, pixels: Tensor) -> Tensor:
        return pixels


class Gray(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.stem = nn.Conv2d(1, 6, 3, stride=2)


class Large(Small):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.stem = nn.Conv2d(3, 6, 20)


def transformer(num_classes: int) -> nn.Module:
    """A model of transformers, which returns an object with the logits."""
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=SIZE,
        patch_size=8,
        num_labels=num_classes,
    )
    return transformers.ViTForImageClassification(config)  # type: ignore[no-any-return]


def with_auxiliary(num_classes: int) -> nn.Module:
    """Returns a tuple with logits of auxiliary classifiers in training, and a tensor in evaluation."""
    return torchvision.models.googlenet(num_classes=num_classes, init_weights=False)  # type: ignore[no-any-return]


def test_a_model_of_transformers() -> None:
    network = built(f"{HERE}:transformer", size=SIZE).eval()
    pixels = torch.rand(2, 3, SIZE, SIZE)
    original = transformer(3)
    original.load_state_dict(network.model.state_dict())
    with torch.no_grad():
        output, expected = network(pixels), original.eval()(pixels, output_hidden_states=True)
        # The classifier sees the first token after the last normalization.
        feats = original.vit.layernorm(expected.hidden_states[-1])[:, 0]  # type: ignore[operator, union-attr]
    assert torch.equal(output.logits_BC, expected.logits)
    assert torch.allclose(output.feats_BF, feats, atol=1e-6)


def test_auxiliary_classifiers_of_training_are_left_out() -> None:
    network = built(f"{HERE}:with_auxiliary", size=64).train()
    output = network(torch.rand(2, 3, 64, 64))
    assert (output.logits_BC.shape, output.feats_BF.shape) == ((2, 3), (2, 1024))


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_and_features_of_published_networks(name: str) -> None:
    size = 64
    network = built(f"torchvision.models:{name}", size=size).eval()
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    original = torchvision.models.get_model(name, weights=None, num_classes=3)
    original.load_state_dict(network.model.state_dict())
    last = [layer for layer in original.modules() if isinstance(layer, nn.Linear)][-1]
    inputs: list[Tensor] = []
    last.register_forward_pre_hook(lambda layer, given: inputs.append(given[0]))
    with torch.no_grad():
        logits = original.eval()(pixels)
        output = network(pixels)
    assert torch.equal(output.logits_BC, logits)
    assert torch.equal(output.feats_BF, inputs[0])
    assert network.ends_in_classifier
    assert network.feature_width == last.in_features


def test_a_training_step_is_that_of_the_original() -> None:
    torch.manual_seed(0)
    original = Small(3).train()
    adapted = with_interface(copy.deepcopy(original), SIZE)
    network = Network(adapted, "small", size=SIZE, mean=(0, 0, 0), std=(1, 1, 1)).train()
    pixels = torch.rand(4, 3, SIZE, SIZE)
    for model in (original, network):
        torch.manual_seed(1)
        output = model(pixels)
        logits = output if isinstance(output, Tensor) else output.logits_BC
        logits.square().sum().backward()
    pairs = zip(original.named_parameters(), adapted.named_parameters(), strict=True)
    for (name, before), (same_name, after) in pairs:
        assert name == same_name
        assert before.grad is not None
        assert after.grad is not None
        assert torch.equal(before.grad, after.grad), name
    assert torch.equal(original.norm.running_mean, adapted.norm.running_mean)  # type: ignore[union-attr, arg-type]
    assert adapted.num_features == 1


def test_a_copy_computes_with_its_own_weights() -> None:
    adapted = with_interface(Small(3), SIZE).eval()
    other = copy.deepcopy(adapted)
    pixels = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
        features = other.forward_features(pixels)  # type: ignore[operator]
        assert torch.equal(other.get_classifier()(features), other(pixels))  # type: ignore[operator]
        assert not torch.equal(features, adapted.forward_features(pixels))  # type: ignore[operator]


def test_an_error_leaves_the_classifier_as_it_was() -> None:
    adapted: Any = with_interface(Small(3), SIZE).eval()
    with pytest.raises(RuntimeError):
        adapted.forward_features(torch.rand(2, 5, SIZE, SIZE))
    assert adapted(torch.rand(2, 3, SIZE, SIZE)).shape == (2, 3)


@pytest.mark.parametrize("name", ["Scaled", "Twice"])
def test_another_end_is_refused(name: str) -> None:
    error = refusal(built, f"{HERE}:{name}", size=SIZE)
    assert isinstance(error, ModelError)
    assert "must end in a linear layer that makes its logits" in error.rule
    assert f"a {name} with another end and without forward_features" in str(error.got)


def test_what_is_wrong_with_a_network_is_not_said_of_its_end() -> None:
    assert "must take RGB images" in refusal(built, f"{HERE}:Gray", size=SIZE).rule
    assert "does not accept images of 8×8 pixels" in refusal(built, f"{HERE}:Large", size=8).rule
    # Who begins to implement timm's interface is told what is missing.
    assert "without forward_head, get_classifier" in str(refusal(built, f"{HERE}:WithFeatures").got)


def test_published_weights_start_a_student_with_another_classifier(tmp_path: Path) -> None:
    published = torchvision.models.mobilenet_v3_small(weights=None, num_classes=7)
    torch.save(published.state_dict(), tmp_path / "published.pth")
    name, weights = "torchvision.models:mobilenet_v3_small", tmp_path / "published.pth"
    network = built(name, weights=weights)
    assert network.loaded is not None
    assert set(network.loaded.new) == {"classifier.3.weight", "classifier.3.bias"}
    kept = {key: t for key, t in network.model.state_dict().items() if key not in network.loaded.new}
    assert all(torch.equal(tensor, published.state_dict()[key]) for key, tensor in kept.items())
    assert "one output for each class" in refusal(built, name, role="teacher", weights=weights).rule


def test_a_plain_classifier_is_saved_and_opened(tmp_path: Path) -> None:
    network = built(f"{HERE}:Small", size=SIZE).eval()
    save_student(tmp_path, network, CLASSES, 1.0, {})
    pixels = torch.rand(2, 3, SIZE, SIZE)
    opened = load_student(tmp_path).network.eval()
    assert torch.equal(opened(pixels).logits_BC, network(pixels).logits_BC)
    assert torch.equal(opened(pixels).feats_BF, network(pixels).feats_BF)


def test_a_plain_teacher_teaches_a_plain_student(world: World, tmp_path: Path) -> None:
    torch.save(Small(len(CLASSES)).state_dict(), tmp_path / "teacher.pth")
    teacher = {"teachers__1__name": f"{HERE}:Small", "teachers__1__weights": str(tmp_path / "teacher.pth")}
    student = {"student__name": f"{HERE}:Small", "student__size": SIZE}
    run = distill(world.config(tmp_path / "run", train__epochs=1, **teacher, **student), quiet=True)
    assert load_student(run.folder / "student").network.classes == len(CLASSES)


@pytest.mark.slow
def test_a_compiled_step_is_the_eager_one() -> None:
    network = built(f"{HERE}:Small", size=SIZE).eval()
    pixels = torch.rand(2, 3, SIZE, SIZE)
    compiled = torch.compile(network, fullgraph=True)(pixels)
    torch.testing.assert_close(compiled.logits_BC, network(pixels).logits_BC)
    torch.testing.assert_close(compiled.feats_BF, network(pixels).feats_BF)
