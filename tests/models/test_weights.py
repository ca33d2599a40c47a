"""Weights from a file: exactly for a teacher, and as a start with a new classifier for a student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from richkd.core.errors import ModelError
from richkd.models.weights import Loaded, adapted, classifier_keys, load_weights, without_prefix
from richkd.pipeline.assemble import assemble
from tests.fixtures import World, refusal


def network(name: str = "resnet18", classes: int = 5, seed: int = 0, **settings: Any) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(name, num_classes=classes, **settings)
    return model


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "test_vit", "test_convnext", "cifar_resnet8"]
)
def test_a_start_keeps_everything_but_the_classifier(name: str, tmp_path: Path) -> None:
    source, target = network(name, 7), network(name, 5, seed=1)
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    path = saved(source.state_dict(), tmp_path)
    loaded = load_weights(target, path, role="student", new_classifier=True)
    classifier = classifier_keys(target)
    assert set(loaded.new) == classifier
    assert loaded.ignored == ()
    for key, tensor in target.state_dict().items():
        expected = before[key] if key in classifier else source.state_dict()[key]
        assert torch.equal(tensor, expected), key
    # What is evaluated must have the classes of the data.
    error = refusal(load_weights, target, path, role="teacher")
    assert isinstance(error, ModelError)
    assert "one output for each class" in error.rule
    assert "richkd teach" in str(error.fix)


def test_a_classifier_of_the_same_size_is_kept(tmp_path: Path) -> None:
    source, target = network(), network(seed=1)
    loaded = load_weights(target, saved(source.state_dict(), tmp_path), role="student", new_classifier=True)
    assert loaded.new == ()
    assert all(torch.equal(t, source.state_dict()[key]) for key, t in target.state_dict().items())


def test_a_file_without_a_classifier_starts_a_student_but_is_no_teacher(tmp_path: Path) -> None:
    state = {key: t for key, t in network().state_dict().items() if not key.startswith("fc.")}
    path, target = saved(state, tmp_path), network(seed=1)
    assert load_weights(target, path, role="student", new_classifier=True).new == ("fc.bias", "fc.weight")
    assert refusal(load_weights, target, path, role="teacher").got == "no 'fc.bias' for 5 classes"


def training_entries(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Files of training scripts that hold more than the model."""
    one = torch.ones(1)
    counted = {f"{key.rpartition('.')[0]}.total_ops": one for key in state}
    return {
        "profiler": {**state, **counted, "total_params": one},
        "average": {"n_averaged": one, **{f"module.{key}": t for key, t in state.items()}},
        "lightning": {"criterion.weight": one, **{f"model.{key}": t for key, t in state.items()}},
        "nested": {"teacher.fc.weight": one, **{f"student.net.{key}": t for key, t in state.items()}},
        "no counters": {key: t for key, t in state.items() if not key.endswith("num_batches_tracked")},
        "projector": {**state, "projector.0.weight": one},
    }


@pytest.mark.parametrize("kind", ["profiler", "average", "lightning", "nested", "no counters", "projector"])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_entries_of_training_scripts_are_no_obstacle(kind: str, role: str, tmp_path: Path) -> None:
    source, target = network(), network(seed=1)
    path = saved(training_entries(source.state_dict())[kind], tmp_path)
    loaded = load_weights(target, path, role=role)
    assert loaded.new == ()
    weights = {key: t for key, t in source.state_dict().items() if "num_batches" not in key}
    assert loaded.kept >= len(weights)
    assert all(torch.equal(target.state_dict()[key], t) for key, t in weights.items())


@pytest.mark.parametrize(("first", "second"), [("resnet34", "resnet18"), ("resnet18", "resnet34")])
def test_another_architecture_is_refused_for_a_start_too(first: str, second: str, tmp_path: Path) -> None:
    path = saved(network(first).state_dict(), tmp_path)
    error = refusal(load_weights, network(second), path, role="student", new_classifier=True)
    assert isinstance(error, ModelError)
    assert "another architecture than ResNet" in error.rule
    assert "layer1.2.bn1" in str(error.got)


def test_averaged_weights_are_preferred_and_named(tmp_path: Path) -> None:
    raw, averaged, target = network(), network(seed=1), network(seed=2)
    content = {"state_dict": raw.state_dict(), "state_dict_ema": averaged.state_dict(), "epoch": 3}
    loaded = load_weights(target, saved(content, tmp_path), role="teacher")
    assert torch.equal(target.state_dict()["conv1.weight"], averaged.state_dict()["conv1.weight"])
    assert "averaged weights, EMA" in str(loaded)


def test_an_empty_dictionary_holds_no_averaged_weights(tmp_path: Path) -> None:
    source, target = network(), network(seed=1)
    content = {"model_ema": {}, "model": source.state_dict()}
    assert str(load_weights(target, saved(content, tmp_path), role="teacher")) == "122 tensors loaded"
    assert torch.equal(target.state_dict()["fc.weight"], source.state_dict()["fc.weight"])
    content = {"model_ema": {}, "model": {}}
    error = refusal(load_weights, target, saved(content, tmp_path), role="teacher")
    assert "state dict of tensors" in error.rule


@pytest.mark.parametrize("name", ["cifar_shufflenetv1", "cifar_shufflenetv2", "cifar_resnet8"])
def test_a_classifier_with_another_published_name_is_found(name: str, tmp_path: Path) -> None:
    # All other layers of these published files have the names of this package.
    source = network(name, 5).state_dict()
    path = saved({key.replace("fc.", "linear."): t for key, t in source.items()}, tmp_path)
    target = network(name, 5, seed=1)
    loaded = load_weights(target, path, role="teacher")
    assert (loaded.new, loaded.ignored) == ((), ())
    assert all(torch.equal(t, source[key]) for key, t in target.state_dict().items())
    started = load_weights(network(name, 7), path, role="student", new_classifier=True)
    assert (started.new, started.ignored) == (("fc.bias", "fc.weight"), ())


def test_a_filter_that_expects_published_names_leaves_own_names_alone(tmp_path: Path) -> None:
    # timm's filter for Swin moves the layers of a file that has no classifier.
    name = "swin_tiny_patch4_window7_224"
    options: dict[str, Any] = {"embed_dim": 12, "num_heads": (1, 1, 1, 1)}
    source = network(name, 5, **options).state_dict()
    path = saved({key: t for key, t in source.items() if not key.startswith("head.")}, tmp_path)
    loaded = load_weights(network(name, 5, seed=1, **options), path, role="student", new_classifier=True)
    assert (loaded.new, loaded.ignored) == (("head.fc.bias", "head.fc.weight"), ())


def test_position_embeddings_are_resampled_to_the_resolution(tmp_path: Path) -> None:
    source = network("test_vit", img_size=160)
    target = network("test_vit", seed=1, img_size=96)
    loaded = load_weights(target, saved(source.state_dict(), tmp_path), role="teacher")
    assert loaded.new == ()
    assert target.state_dict()["pos_embed"].shape == (1, 37, 64)
    assert torch.equal(target.state_dict()["norm.weight"], source.state_dict()["norm.weight"])


def test_the_prefix_that_fits_is_removed() -> None:
    one = torch.ones(1)
    state = {"a.b.fc.weight": one, "a.b.conv.weight": one, "a.head.fc.weight": one}
    assert list(without_prefix(state, ["fc.weight", "conv.weight"]))[:2] == ["fc.weight", "conv.weight"]
    assert without_prefix({"x.y": one}, ["fc.weight"]) == {"x.y": one}


def test_the_log_line() -> None:
    assert str(Loaded(3)) == "3 tensors loaded"
    text = str(Loaded(3, ("a", "b", "c", "d"), ("e",), averaged=True))
    assert text == "3 tensors loaded (averaged weights, EMA), 4 new (a, b, c, …), 1 ignored (e)"


def test_a_run_says_what_its_student_starts_from(world: World, tmp_path: Path) -> None:
    path = saved(network("cifar_resnet8", 1000).state_dict(), tmp_path)
    lines: list[str] = []
    config = world.config(tmp_path / "run", student__weights=str(path))
    assemble(config, torch.device("cpu"), lines.append)
    (line,) = (line for line in lines if line.startswith("student:"))
    assert line.startswith(f"student: starts from {path}: ")
    assert line.endswith(" tensors loaded, 2 new (fc.bias, fc.weight)")


@pytest.mark.parametrize("name", ["cifar_resnet8", "torchvision.models:shufflenet_v2_x0_5"])
def test_a_teacher_without_weights_is_refused(world: World, tmp_path: Path, name: str) -> None:
    config = world.config(tmp_path / "run", **{"teachers.1.name": name})
    error = refusal(assemble, config, torch.device("cpu"))
    assert isinstance(error, ModelError)
    assert "random weights" in error.rule
    assert "--teacher-weights" in str(error.fix)


def test_counters_of_batch_norm_are_loaded_where_they_are(tmp_path: Path) -> None:
    source, target = network(), network(seed=1)
    source.state_dict()["bn1.num_batches_tracked"].fill_(7)
    load_weights(target, saved(source.state_dict(), tmp_path), role="student", new_classifier=True)
    assert int(target.state_dict()["bn1.num_batches_tracked"]) == 7


def test_a_file_with_two_networks_that_fit_is_ambiguous() -> None:
    one = torch.ones(1)
    error = refusal(without_prefix, {"student.fc.weight": one, "teacher.fc.weight": one}, ["fc.weight"])
    assert isinstance(error, ModelError)
    assert error.got == "networks under 'student.', 'teacher.'"


def test_a_tensor_outside_the_network_does_not_replace_one_inside() -> None:
    inside, outside = torch.ones(1), torch.zeros(1)
    state = {"net.fc.weight": inside, "net.fc.bias": inside, "fc.weight": outside}
    assert torch.equal(without_prefix(state, ["fc.weight", "fc.bias"])["fc.weight"], inside)


@pytest.mark.parametrize(
    ("published", "name"),
    [("vgg11", "vgg11"), ("vgg13_bn", "vgg13_bn"), ("densenet121", "densenet121"), ("resnet18", "resnet18")],
)
def test_files_of_torchvision_have_the_names_and_shapes_of_timm(published: str, name: str) -> None:
    # On the meta device, networks have names and shapes of weights, but no memory.
    with torch.device("meta"):
        state = torchvision.models.get_model(published, weights=None).state_dict()
        model = timm.create_model(name)
    shapes = {key: tensor.shape for key, tensor in adapted(state, model).items()}
    assert shapes == {key: tensor.shape for key, tensor in model.state_dict().items()}
