"""Networks from names and files: what is built, which checkpoints fit, and how the others are refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from richkd.config.schema import ModelConfig
from richkd.core.errors import ModelError
from richkd.export.student import save_student
from richkd.models.build import Network, build_network
from richkd.models.weights import load_weights

NAME = "cifar_resnet20"


def built(name: str = NAME, classes: int = 10, default_size: int | None = None, **options: Any) -> Network:
    config = ModelConfig(name=name, **options)
    return build_network(config, classes, role="student", default_size=default_size)


def refusal(name: str = NAME, classes: int = 10, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        built(name, classes, **options)
    return caught.value


def images(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return built().model.state_dict()


# Names


@pytest.mark.parametrize(("name", "hint"), [("resnet81", "resnet1"), ("cifar_resnt20", "'cifar_resnet20'")])
def test_an_unknown_name_names_the_nearest(name: str, hint: str) -> None:
    error = refusal(name)
    assert error.rule == f"No model is called '{name}' (the student)"
    assert hint in str(error.fix)


def test_what_timm_cannot_build_is_named() -> None:
    assert "vit_tiny_patch16_224.no_such_tag" in refusal("vit_tiny_patch16_224.no_such_tag").rule


FAMILIES = [
    ("cifar_resnet8x4", 32),
    ("resnet10t", 64),
    ("mobilenetv3_small_050", 64),
    ("shvit_s1", 64),
    ("mobilevitv2_050", 64),
    ("test_vit", 160),
    ("test_convnext", 64),
    ("test_efficientnet", 64),
    ("test_byobnet", 64),
]


@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_outputs_are_the_models_own(name: str, size: int) -> None:
    if not timm.is_model(name):
        pytest.skip(f"this timm has no {name}")
    network = built(name, 7, default_size=size).eval()
    assert network.size == size
    with torch.no_grad():
        output = network(images(size))
        expected = network.model(images(size))
    assert output.logits_BC.shape == (2, 7)
    assert torch.allclose(output.logits_BC, expected, atol=1e-5)
    assert output.feats_BF.shape == (2, network.feature_width)


def test_the_pooled_feature_is_computed_once() -> None:
    network = built("resnet10t", 7, default_size=32).eval()
    heads: list[bool] = []
    original = network.model.forward_head

    def counted(x: Tensor, pre_logits: bool = False) -> Tensor:
        heads.append(pre_logits)
        return original(x, pre_logits=pre_logits)  # type: ignore[operator, no-any-return]

    network.model.forward_head = counted  # type: ignore[assignment, method-assign]
    network(images(32))
    assert heads == [True]


def test_input_is_the_settings_then_the_models_then_the_default() -> None:
    assert built("resnet10t", default_size=32).size == 32
    model_size = timm.get_pretrained_cfg("resnet10t").input_size[-1]
    assert built("resnet10t").size == model_size
    network = built("resnet10t", default_size=32, size=64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert (network.size, network.mean, network.std) == (64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert built().mean == pytest.approx((0.5071, 0.4867, 0.4408), abs=1e-3)
    assert built().parameters_count == sum(p.numel() for p in built().model.parameters())


def test_building_leaves_the_mode_of_training_alone() -> None:
    assert built().model.training
    before = built().model.state_dict()
    assert torch.equal(before["bn1.running_mean"], torch.zeros(16))  # the probe was no training step


def test_a_size_that_the_model_does_not_take() -> None:
    error = refusal("cifar_vgg8", size=4)
    assert error.rule == "Model cifar_vgg8 does not accept images of 4×4 pixels"
    assert "--student.size" in str(error.fix)


# Callables


class Outlaw(nn.Module):
    """A classifier that does not follow timm's contract."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_features = 3
        self.fc = nn.Linear(3, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return x


class Lawful(Outlaw):
    """The contract, with logits that are more than the classifier's: scaled by a temperature."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean((2, 3))
        return pooled if pre_logits else 2 * self.fc(pooled)

    def get_classifier(self) -> nn.Module:
        return self.fc


def no_module(num_classes: int) -> str:
    return "surprise"


HERE = __name__


def test_a_callable_builds_the_model() -> None:
    network = built(f"{HERE}:Lawful", 5, default_size=16)
    assert isinstance(network.model, Lawful)
    assert (network.size, network.feature_width) == (16, 3)
    output = network(images(16))
    # The classifier alone would miss the factor 2.
    assert torch.allclose(output.logits_BC, 2 * network.model.fc(output.feats_BF), atol=1e-6)


def test_a_model_outside_the_contract_names_what_it_lacks() -> None:
    error = refusal(f"{HERE}:Outlaw", size=8)
    assert "timm's model interface" in error.rule
    assert error.got == "a Outlaw without forward_head, get_classifier"


@pytest.mark.parametrize(
    ("spec", "got"),
    [
        ("no_such_package.x:y", "ModuleNotFoundError"),
        (f"{HERE}:Absent", "AttributeError"),
        (":x", "ValueError"),
    ],
)
def test_a_callable_that_does_not_import(spec: str, got: str) -> None:
    error = refusal(spec)
    assert error.rule == f"The student '{spec}' must be an importable package.module:callable"
    assert str(error.got).startswith(got)


def test_a_callable_must_return_a_module() -> None:
    assert refusal(f"{HERE}:no_module").got == "str"


# Weights


def wrapped(kind: str, state: dict[str, Tensor]) -> dict[str, Any]:
    def prefixed(prefix: str) -> dict[str, Tensor]:
        return {prefix + name: value for name, value in state.items()}

    return {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 3, "best": 0.5},
        "model": {"model": state, "optimizer": {"lr": 1}},
        "net": {"net": state},
        "nested": {"state_dict": {"model": state}},
        "module.": prefixed("module."),
        "compiled": prefixed("_orig_mod."),
        "compiled, parallel": {"model": prefixed("_orig_mod.module.")},
        "parallel, compiled": {"model": prefixed("module._orig_mod.")},
        "lightning": {"state_dict": prefixed("model.")},
    }[kind]


KINDS = [
    "plain", "state_dict", "model", "net", "nested", "module.", "compiled", "compiled, parallel",
    "parallel, compiled", "lightning",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_wrapped_checkpoints_load(kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(wrapped(kind, state), path)
    loaded = built(weights=path).model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_safetensors_load(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    loaded = built(weights=tmp_path / "weights.safetensors").model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_weights_keep_the_models_own_resolution(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pth")
    assert built(weights=tmp_path / "weights.pth", default_size=64).size == 32
    assert built(default_size=64).size == 64


def test_weights_of_another_architecture(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    error = refusal("cifar_resnet32", weights=path)
    assert str(path) in error.rule
    assert "another architecture than CifarNet" in error.rule
    assert "missing (layer1.3" in str(error.got)
    assert "--student" in str(error.fix)
    error = refusal("cifar_resnet8", weights=path)
    assert "unknown (layer1.1" in str(error.got)
    assert "of another shape" in str(refusal("cifar_resnet8x4", weights=path).got)


def test_weights_with_other_classes(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    error = refusal(classes=12, weights=path)
    assert "one output for each class" in error.rule
    assert str(error.got).startswith("10 outputs in 'fc.")
    assert str(error.got).endswith("for 12 classes")


class Bomb:
    """A pickle that would make a file where it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(by: str, tmp_path: Path) -> None:
    path, crater = tmp_path / "weights.pth", tmp_path / "crater"
    if by == "torch":
        torch.save({"model": Bomb(crater)}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Bomb(crater)}))
    error = refusal(weights=path)
    assert error.rule == f"The weights {path} must be a checkpoint that holds only tensors"
    assert "files with code are never loaded" in str(error.fix)
    assert not crater.exists()
    # The bomb is live.
    if by == "torch":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert crater.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    assert "must be a checkpoint that holds only tensors" in refusal(weights=tmp_path / "model.pth").rule


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x04" + b"\x00" * 50])
def test_files_that_are_no_checkpoint(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    error = refusal(weights=tmp_path / name)
    assert error.rule == f"The weights {tmp_path / name} must be a checkpoint that holds only tensors"
    assert error.got


def test_a_damaged_checkpoint(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "must be a checkpoint" in refusal(weights=path).rule


def test_weights_must_be_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pth"):
        error = refusal(weights=path)
        assert error.rule == f"The weights {path} must be a file"


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"epoch": 3}, {0: torch.zeros(1)}])
def test_a_checkpoint_must_hold_named_tensors(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    assert refusal(weights=tmp_path / "weights.pth").rule == "A checkpoint must hold a state dict of tensors"


def test_a_real_teacher_of_cifar_loads(data_dir: Path) -> None:
    path = data_dir / "cifar100-teachers" / "cifar100_resnet20.pth"
    network = built(classes=100, weights=path)
    stored = torch.load(path, weights_only=True)
    assert torch.equal(network.model.state_dict()["fc.weight"], stored["fc.weight"])
    with pytest.raises(ModelError, match="another architecture"):
        load_weights(built("cifar_resnet32", 100).model, path, role="teacher")


# Folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student")
    network = built(classes=3, size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    save_student(path, network, ["cat", "dog", "owl"], 1.5, {})
    return path


def test_a_saved_folder_brings_classes_and_input_with_it(folder: Path) -> None:
    network = built(f"local-dir:{folder}", 3, default_size=64)
    assert network.class_names == ("cat", "dog", "owl")
    assert (network.size, network.mean, network.std) == (32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_folder_with_other_classes(folder: Path) -> None:
    error = refusal(f"local-dir:{folder}", 4)
    assert error.rule == f"The student in {folder} must have one output for each class of the data"
    assert error.got == "3 outputs for 4 classes"


@pytest.mark.parametrize("config", [None, "", "{}", "[1]", '{"num_classes": null}'])
def test_folders_without_a_usable_config(config: str | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert "must hold a config.json with num_classes" in refusal(f"local-dir:{tmp_path}", 3).rule


def test_a_folder_without_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert refusal(f"local-dir:{tmp_path}", 3).rule == f"The student's folder {tmp_path} cannot be loaded"
