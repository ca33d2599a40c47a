"""Modules from a name and constructor arguments: what is built, and which arguments are refused and how."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from richkd.config.schema import ModelConfig
from richkd.export.student import load_student, save_student
from richkd.models.build import Network, build_network
from richkd.models.create import RESERVED, create_module
from tests.fixtures import PlainNet, refusal


class Wide(PlainNet):
    """A network whose width is an argument."""

    def __init__(self, num_classes: int, width: int = 6, offset: float | None = 0.0) -> None:
        self.num_features = width
        super().__init__(num_classes)
        self.offset = offset


class Small(Wide):
    """A network that says what it expects, without the rest of timm's configuration."""

    pretrained_cfg = {"input_size": (3, 12, 12), "mean": (0.1, 0.2, 0.3)}  # noqa: RUF012


class Untouchable(Wide):
    """A network whose configuration cannot be set, and whose weights share their memory."""

    def __init__(self, num_classes: int, width: int = 6) -> None:
        super().__init__(num_classes, width)
        self.twin = self.fc

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        return {}


def loose(**settings: Any) -> nn.Module:
    return Wide(**settings)


def changed(num_classes: int, layers: int = 1) -> nn.Module:
    """A timm model with another first layer."""
    model: nn.Module = timm.create_model("test_resnet", num_classes=num_classes)
    more = [nn.Conv2d(3, 3, 1) for _ in range(layers)]
    model.conv1 = nn.Sequential(*more, model.conv1)  # type: ignore[arg-type]
    return model


# A callable without a name of its own.
wider = functools.partial(Wide, width=8)


class Gray(PlainNet):
    """A network whose configuration is that of grayscale images."""

    pretrained_cfg = {"input_size": (1, 12, 12), "mean": (0.5,), "std": (0.25,)}  # noqa: RUF012


class Unsaid(PlainNet):
    """A network whose configuration leaves out what it does not know."""

    pretrained_cfg = {"input_size": None, "mean": None, "std": None}  # noqa: RUF012


def dropouts(model: nn.Module) -> list[float]:
    rates = [part.p for part in model.modules() if isinstance(part, nn.Dropout)]
    return [*rates, getattr(model, "drop_rate", 0.0)]


HERE = __name__


def built(name: str, classes: int = 3, role: str = "student", **options: Any) -> Network:
    return build_network(ModelConfig(name=name, **options), classes, role=role)


# Resolution


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit", "levit_128s"])
def test_a_model_of_fixed_resolution_is_built_for_the_size(name: str) -> None:
    network = built(name, size=64)
    assert network.blueprint.resized_from == timm.get_pretrained_cfg(name).input_size[-1]
    assert (network.size, network.blueprint.architecture, network.blueprint.args) == (64, name, {})
    assert network.eval()(torch.zeros(1, 3, 64, 64)).logits_BC.shape == (1, 3)


@pytest.mark.parametrize("name", ["test_resnet", "mobilevit_xxs"])
def test_a_model_of_any_resolution_is_not(name: str) -> None:
    assert built(name, size=64).blueprint.resized_from is None
    assert built("test_vit").blueprint.resized_from is None


def test_pixels_outside_the_patches_are_not_ignored_silently() -> None:
    error = refusal(built, "vit_tiny_patch16_224", size=40)
    assert error.rule.endswith("needs a resolution that is a multiple of its patches of 16×16 pixels")
    assert error.fix == "use --student.size 32 or 48."
    assert refusal(built, "test_vit", size=8, role="teacher").fix == "use --teachers.1.size 16."


@pytest.mark.parametrize("img_size", [64, [64, 64]])
def test_the_argument_img_size_is_the_resolution(img_size: Any) -> None:
    network = built("vit_tiny_patch16_224", args={"img_size": img_size})
    assert (network.size, network.blueprint.resized_from) == (64, None)
    flexible = built("test_vit", size=96, args={"img_size": img_size})
    assert (flexible.size, flexible.model.pos_embed.shape[1]) == (96, 17)  # type: ignore[union-attr, index]
    error = refusal(built, "vit_tiny_patch16_224", size=96, args={"img_size": img_size})
    assert error.rule == "Model vit_tiny_patch16_224 does not accept images of 96×96 pixels"
    assert "--student.args '{img_size: 96}'" in str(error.fix)


def test_a_saved_model_is_built_for_another_resolution(tmp_path: Path) -> None:
    saved = built("test_vit", size=64)
    save_student(tmp_path, saved, ("a", "b", "c"), 1.0, {})
    again = built(f"local-dir:{tmp_path}")
    assert (again.size, again.blueprint.resized_from) == (64, None)
    assert torch.equal(again.model.pos_embed, saved.model.pos_embed)  # type: ignore[arg-type]
    larger = built(f"local-dir:{tmp_path}", size=96)
    assert (larger.size, larger.blueprint.resized_from) == (96, 64)
    assert torch.equal(larger.model.norm.weight, saved.model.norm.weight)  # type: ignore[arg-type, union-attr]


# Arguments


@pytest.mark.parametrize("name", sorted(RESERVED))
@pytest.mark.parametrize("model", ["test_vit", f"{HERE}:Wide"])
def test_arguments_that_are_not_the_users_are_refused(name: str, model: str) -> None:
    error = refusal(built, model, args={name: 1, "depth": 1})
    assert error.rule == f"--student.args must not contain {name}: {RESERVED[name]}"
    assert (error.got, error.fix) == (f"{name}: 1", f"remove {name}.")
    assert "--teachers.1.args" in refusal(built, model, role="teacher", args={name: 1}).rule


@pytest.mark.parametrize("pretrained", [False, True])
def test_an_unknown_argument_is_refused_by_name(pretrained: bool) -> None:
    error = refusal(built, "test_vit", pretrained=pretrained, args={"img_sise": 64})
    assert error.rule == "The student test_vit could not be built"
    assert "unexpected keyword argument 'img_sise'" in str(error.got)
    assert str(error.fix).startswith("correct or remove img_sise in --student.args. Did you mean 'img_size'")


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_byobnet", "cifar_resnet8"])
def test_no_family_ignores_an_unknown_argument(name: str) -> None:
    error = refusal(built, name, args={"nonsense": 1})
    assert "nonsense" in str(error.got)
    assert "nonsense" in str(error.fix)


@pytest.mark.parametrize(
    "args", [{"depth": "two"}, {"depth": [1]}, {"global_pool": "best"}, {"img_size": -5}]
)
def test_a_value_that_the_constructor_refuses(args: dict[str, Any]) -> None:
    error = refusal(built, "test_vit", args=args)
    assert error.rule == "The student test_vit could not be built"
    assert error.got
    assert "--student.args" in str(error.fix)


def test_weights_that_are_not_there_are_not_blamed_on_arguments() -> None:
    error = refusal(built, "vit_tiny_patch16_224", pretrained=True, args={"drop_rate": 0.1})
    assert error.rule == "The pretrained weights of vit_tiny_patch16_224 could not be loaded"


def test_a_callable_gets_its_arguments() -> None:
    network = built(f"{HERE}:Wide", size=8, args={"width": 9, "offset": None})
    assert (network.feature_width, network.model.offset) == (9, None)
    for name in ("Wide", "wider"):
        error = refusal(built, f"{HERE}:{name}", size=8, args={"widht": 9})
        assert "unexpected keyword argument 'widht'" in str(error.got)
        assert "Did you mean 'width'?" in str(error.fix)


def test_a_callable_that_takes_anything_must_name_num_classes() -> None:
    assert built(f"{HERE}:loose", size=8).feature_width == 6
    error = refusal(built, f"{HERE}:loose", size=8, args={"width": 9})
    assert error.rule.endswith("must name its argument num_classes to get other arguments, too")


def test_a_callables_own_configuration_is_read() -> None:
    network = built(f"{HERE}:Small")
    assert (network.size, network.mean) == (12, (0.1, 0.2, 0.3))


def test_a_configuration_without_values_has_the_defaults() -> None:
    network, plain = built(f"{HERE}:Unsaid"), built(f"{HERE}:Wide")
    assert (network.size, network.mean, network.std) == (plain.size, plain.mean, plain.std)


def test_a_normalization_of_other_channels_is_refused() -> None:
    error = refusal(built, f"{HERE}:Gray")
    assert error.rule.endswith(f"student {HERE}:Gray must have a mean of three color channels")
    assert error.got == "mean (0.5,)"
    assert "--student.mean" in str(error.fix)
    rgb = (0.5, 0.5, 0.5)
    assert "a std of three" in refusal(built, f"{HERE}:Gray", mean=rgb).rule
    assert built(f"{HERE}:Gray", mean=rgb, std=rgb).size == 12


# Weights of other classes


def test_a_teacher_is_no_published_network_of_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    # timm leaves out the classifier of weights that have another number of classes.
    state = timm.create_model("test_resnet").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(state))
    for role in ("teacher", "student"):
        error = refusal(built, "test_resnet", role=role, pretrained=True)
        assert error.got == "pretrained weights with 1000 outputs for 3 classes"
        assert "richkd teach --model test_resnet" in str(error.fix)
    start = build_network(
        ModelConfig(name="test_resnet", pretrained=True), 3, role="student", new_classifier=True
    )
    assert start.classes == 3
    assert built("test_resnet", 1000, "teacher", pretrained=True).classes == 1000


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_repository_on_the_hub_is_opened_with_its_weights(
    pretrained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = built("cifar_resnet8", size=12)
    save_student(tmp_path, saved, ("ant", "bee", "cow"), 1.0, {})
    monkeypatch.setattr(
        "timm.models._hub.hf_hub_download", lambda *_, filename="config.json", **__: str(tmp_path / filename)
    )
    network = built("hf-hub:jane/ants", role="teacher", pretrained=pretrained)
    assert (network.size, network.class_names) == (12, ("ant", "bee", "cow"))
    state = saved.model.state_dict()
    assert all(torch.equal(t, state[key]) for key, t in network.model.state_dict().items())
    error = refusal(built, "hf-hub:jane/ants", 5, "teacher", pretrained=pretrained)
    assert error.got == "pretrained weights with 3 outputs for 5 classes"


def test_a_start_from_the_hub_is_saved_with_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_student(tmp_path / "hub", built("test_vit", args={"depth": 2}, size=32), ("a", "b", "c"), 1.0, {})
    monkeypatch.setattr(
        "timm.models._hub.hf_hub_download",
        lambda *_, filename="config.json", **__: str(tmp_path / "hub" / filename),
    )
    start = built("hf-hub:jane/ants", args={"qkv_bias": True})
    assert start.blueprint.args == {"depth": 2, "qkv_bias": True}
    save_student(tmp_path / "again", start, ("a", "b", "c"), 1.0, {})
    again = load_student(tmp_path / "again").network.model.state_dict()
    assert all(torch.equal(t, again[key]) for key, t in start.model.state_dict().items())


# Saved models


@pytest.mark.parametrize(
    ("name", "size", "args"),
    [
        ("test_vit", 64, {"depth": 2, "drop_rate": 0.25, "qkv_bias": False}),
        ("test_vit", 64, {"img_size": 96, "global_pool": "avg"}),
        ("test_resnet", 32, {"drop_path_rate": 0.1, "act_layer": "silu"}),
        ("cifar_resnet8", 32, {"drop_rate": 0.5}),
    ],
)
def test_arguments_are_saved_with_the_student(
    name: str, size: int, args: dict[str, Any], tmp_path: Path
) -> None:
    network = built(name, size=size, args=args).eval()
    save_student(tmp_path / "one", network, ("a", "b", "c"), 1.0, {})
    teacher = built(f"local-dir:{tmp_path / 'one'}", role="teacher").eval()
    save_student(tmp_path / "two", teacher, ("a", "b", "c"), 1.0, {})
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for folder in (tmp_path / "one", tmp_path / "two"):
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        student = load_student(folder).network
        for other in (student.model, model, teacher.model):
            assert torch.equal(other(pixels), network.model(pixels))
            assert dropouts(other) == dropouts(network.model)
        assert student.size == size


@pytest.mark.parametrize(
    ("spec", "args"),
    [
        ("Wide", {"width": 9}),
        ("Wide", {}),
        ("Small", {}),
        ("Untouchable", {"width": 4}),
        ("changed", {"layers": 2}),
    ],
)
def test_a_callables_network_is_saved_with_its_arguments(
    spec: str, args: dict[str, Any], tmp_path: Path
) -> None:
    name, size = f"{HERE}:{spec}", 16
    network = built(name, size=size, std=(0.1, 0.2, 0.3), args=args).eval()
    save_student(tmp_path / "one", network, ("a", "b", "c"), 1.0, {})
    saved = json.loads((tmp_path / "one" / "config.json").read_text())
    assert (saved["architecture"], saved["model_args"]) == (name, args)
    # A trained network of a callable is a teacher, too.
    teacher = built(f"local-dir:{tmp_path / 'one'}", role="teacher").eval()
    assert (teacher.size, teacher.std, teacher.class_names) == (16, (0.1, 0.2, 0.3), ("a", "b", "c"))
    save_student(tmp_path / "two", teacher, ("a", "b", "c"), 1.0, {})
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = network(pixels).logits_BC
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert torch.equal(load_student(folder).network(pixels).logits_BC, expected)
    assert torch.equal(teacher(pixels).logits_BC, expected)


def test_a_folder_calls_nothing_but_a_model(tmp_path: Path) -> None:
    config = {
        "architecture": f"{HERE}:loose",
        "num_classes": 3,
        "label_names": ["a", "b", "c"],
        "model_args": {"width": 9},
        "pretrained_cfg": {"input_size": [3, 8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    assert "num_classes" in refusal(load_student, tmp_path).rule
    assert "num_classes" in refusal(built, f"local-dir:{tmp_path}").rule


@pytest.mark.parametrize(
    "changes", [{"mean": [0.45], "std": [0.2]}, {"mean": 0.45}, {"std": ["a", "b", "c"]}]
)
def test_a_folder_with_another_normalization(changes: dict[str, Any], tmp_path: Path) -> None:
    save_student(tmp_path, built("cifar_resnet8", size=12), ("ant", "bee", "cow"), 1.0, {})
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "SHA256SUMS").unlink()
    error = refusal(built, f"local-dir:{tmp_path}", role="teacher")
    assert str(tmp_path) in error.rule
    assert "of three color channels" in error.rule
    assert f"--teachers.1.{next(iter(changes))}" in str(error.fix)


@pytest.mark.parametrize("key", ["architecture", "pretrained_cfg", "model_args"])
def test_a_damaged_folder(key: str, tmp_path: Path) -> None:
    config = {"architecture": "test_vit", "num_classes": 3, "pretrained_cfg": {}, "model_args": {}}
    (tmp_path / "config.json").write_text(json.dumps({**config, key: 7}))
    error = refusal(built, f"local-dir:{tmp_path}")
    assert str(tmp_path) in error.rule


def test_creating_loads_no_file(tmp_path: Path) -> None:
    config = ModelConfig(name="cifar_resnet8", weights=tmp_path / "none.pth")
    assert isinstance(create_module(config, 3, "student").model, nn.Module)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet19", "Did you mean 'resnet18'"),
        ("qqqqqqqqqqqq", "timm.list_models() lists all."),
        ("runs/teacher", "runs/teacher is written as a path, but nothing is there"),
        ("localdir:runs/teacher", "Did you mean 'local-dir:runs/teacher'?"),
        ("cache:big", "cache: is a kind of teacher"),
    ],
)
def test_an_unknown_name_gets_one_hint(name: str, hint: str) -> None:
    fix = str(refusal(built, name).fix)
    assert hint in fix
    assert fix.count(" or '") <= 2


def test_a_saved_model_is_opened_by_its_path(tmp_path: Path) -> None:
    network = built("cifar_resnet8", size=16)
    save_student(tmp_path, network, ("a", "b", "c"), temperature=1.0, origin={})
    again = built(str(tmp_path), role="teacher")
    assert again.name == f"local-dir:{tmp_path}"
    assert torch.equal(again.model.fc.weight, network.model.fc.weight)
