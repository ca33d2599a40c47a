"""Callables of the user: what is wrong with them is said before training, by their names."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from richkd.cli import main
from richkd.config.schema import ModelConfig
from richkd.core.errors import ModelError
from richkd.export.student import load_student, save_student
from richkd.models.build import Network, build_network
from tests.fixtures import PlainNet, World, refusal

HERE = __name__


def built(name: str, role: str = "student", **args: Any) -> Network:
    config = ModelConfig(name=f"{HERE}:{name}", size=8, args=args)
    return build_network(config, 3, role=role, new_classifier=role == "student")


def error_of(name: str, **args: Any) -> ModelError:
    """The error for a student; it must name the callable."""
    error = refusal(built, name, **args)
    assert isinstance(error, ModelError)
    assert f"{HERE}:{name}" in error.rule
    assert error.fix
    return error


# What works

short = lambda num_classes: PlainNet(num_classes)  # noqa: E731


def with_defaults(num_classes: int = 10, width: int = 6) -> nn.Module:
    return PlainNet(num_classes)


def anything(**settings: Any) -> nn.Module:
    return PlainNet(**settings)


class Loud(PlainNet):
    """Prints when it is built and when it runs."""

    def __init__(self, num_classes: int) -> None:
        print("built")
        super().__init__(num_classes)

    def forward_features(self, pixels_B3HW: Tensor) -> Tensor:
        print("ran")
        return super().forward_features(pixels_B3HW)


class Maker:
    """A callable object."""

    def __call__(self, num_classes: int) -> nn.Module:
        return PlainNet(num_classes)


maker = Maker()


@pytest.mark.parametrize("name", ["short", "with_defaults", "anything", "Loud", "maker"])
def test_a_callable_can_be_trained_saved_and_opened(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = built(name).eval()
    after = torch.rand(1)
    torch.manual_seed(0)
    expected = PlainNet(3)
    # Checking changes neither the weights nor the random numbers.
    assert torch.equal(network.model.fc.weight, expected.fc.weight)  # type: ignore[union-attr]
    assert torch.equal(after, torch.rand(1))
    save_student(tmp_path, network, ("a", "b", "c"), 1.0, {})
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.equal(load_student(tmp_path).network(pixels).logits_BC, network(pixels).logits_BC)


def test_what_a_callable_prints_is_not_among_the_results(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_student(tmp_path, built("Loud"), ("a", "b", "c"), 1.0, {})
    capsys.readouterr()
    image = next(world.images.rglob("*.png"))
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(tmp_path), str(image), "--json"])
    assert ended.value.code in (None, 0)
    out, err = capsys.readouterr()
    assert set(json.loads(out)["classes"]) == {"a", "b", "c"}
    assert "built" in err
    assert "ran" in err


# What is no callable that makes a network

number = 7


def raising(num_classes: int) -> nn.Module:
    raise ZeroDivisionError("in my code\nwith details")


def leaving(num_classes: int) -> nn.Module:
    sys.exit(3)


def without_classes() -> nn.Module:
    return PlainNet(3)


def other_name(classes: int) -> nn.Module:
    return PlainNet(classes)


def positional(num_classes: int, /) -> nn.Module:
    return PlainNet(num_classes)


def needs_more(num_classes: int, width: int) -> nn.Module:
    return PlainNet(num_classes)


def nothing(num_classes: int) -> None:
    return None


def returns_class(num_classes: int) -> type[nn.Module]:
    return PlainNet


def returns_dict(num_classes: int) -> dict[str, nn.Module]:
    return {"model": PlainNet(num_classes)}


def returns_tuple(num_classes: int) -> tuple[nn.Module, int]:
    return PlainNet(num_classes), 1


def only_forward(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("name", "rule", "got"),
    [
        ("number", "must be a callable that returns a network", "int"),
        ("missing", "must be an importable package.module:callable", "AttributeError"),
        ("raising", "could not be built", "ZeroDivisionError: in my code"),
        ("leaving", "could not be built", "SystemExit: 3"),
        ("without_classes", "must take the argument num_classes", "without_classes()"),
        ("other_name", "must take the argument num_classes", "other_name(classes"),
        ("positional", "must take the argument num_classes", "positional(num_classes"),
        ("needs_more", "could not be built", "missing 1 required positional argument: 'width'"),
        ("nothing", "must return a torch.nn.Module", "NoneType"),
        ("returns_class", "must return a torch.nn.Module", "the class PlainNet instead of an object of it"),
        ("returns_dict", "must return a torch.nn.Module", "dict"),
        ("returns_tuple", "must return a torch.nn.Module", "tuple"),
        ("only_forward", "must end in a linear layer that makes its logits", "Sequential with another end"),
    ],
)
def test_what_makes_no_network(name: str, rule: str, got: str) -> None:
    error = error_of(name)
    assert rule in error.rule
    assert got in str(error.got)
    assert "\n" not in str(error.got)


def generates(num_classes: int) -> Iterator[nn.Module]:
    yield PlainNet(num_classes)


def test_a_generator_is_no_network() -> None:
    assert error_of("generates").got == "generator"


def test_modules_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)")
    (tmp_path / "broken.py").write_text("def f(:")
    for name in ("leaves:net", "broken:net", "no.such.module:net"):
        error = refusal(build_network, ModelConfig(name=name, size=8), 3, role="student")
        assert f"'{name}' must be an importable" in error.rule


def test_a_script_is_another_one_when_the_student_is_opened() -> None:
    error = refusal(build_network, ModelConfig(name="__main__:Net", size=8), 3, role="student")
    assert "'__main__:Net' must be in a module" in error.rule


# Networks with other inputs and outputs


class Variant(PlainNet):
    """One way of being wrong."""

    def __init__(self, num_classes: int, kind: str = "") -> None:
        super().__init__(num_classes)
        self.kind = kind

    def forward_head(self, map_BFHW: Tensor, pre_logits: bool = False) -> Any:
        output = super().forward_head(map_BFHW, pre_logits)
        if self.kind == "features in half" and pre_logits:
            return output.half()
        if pre_logits:
            return output
        return {
            "": output,
            "tuple": (output, output),
            "dict": {"logits": output},
            "none": None,
            "map": output[:, :, None, None],
            "single": output[0],
            "integer": output.long(),
            "half": output.half(),
            "double": output.double(),
            "detached": output.detach(),
            "list": output.tolist(),
        }.get(self.kind, output)


@pytest.mark.parametrize(
    ("kind", "got"),
    [
        ("tuple", "tuple"),
        ("dict", "dict"),
        ("none", "NoneType"),
        ("list", "list"),
        ("map", "a tensor of shape (2, 3, 1, 1)"),
        ("single", "a tensor of shape (3,)"),
        ("integer", "a tensor of shape (2, 3) and type torch.int64"),
        ("half", "a tensor of shape (2, 3) and type torch.float16"),
        ("double", "a tensor of shape (2, 3) and type torch.float64"),
        ("features in half", "a tensor of shape (2, 6) and type torch.float16"),
    ],
)
def test_outputs_of_another_kind(kind: str, got: str) -> None:
    error = error_of("Variant", kind=kind)
    assert "must return a tensor of" in error.rule
    assert error.got == f"{got} for two images"


class Two(PlainNet):
    def forward_features(self, pixels_B3HW: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward_features(pixels_B3HW)


class NoHead(PlainNet):
    def forward_head(self, map_BFHW: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward_head(map_BFHW)


class Fussy(PlainNet):
    @property
    def num_features(self) -> int:  # type: ignore[override]
        raise ZeroDivisionError


def test_a_network_takes_images_alone() -> None:
    error = error_of("Two")
    assert "must take a batch of images alone" in error.rule
    assert "missing 1 required positional argument: 'mask'" in str(error.got)
    assert "unexpected keyword argument 'pre_logits'" in str(error_of("NoHead").got)


def frozen(num_classes: int) -> nn.Module:
    return PlainNet(num_classes).requires_grad_(False)


def double(num_classes: int) -> nn.Module:
    return PlainNet(num_classes).double()


def half(num_classes: int) -> nn.Module:
    return PlainNet(num_classes).to(torch.bfloat16)


class InPlace(PlainNet):
    """Changes what the backward pass needs."""

    def forward_features(self, pixels_B3HW: Tensor) -> Tensor:
        map_BFHW = super().forward_features(pixels_B3HW).exp()
        map_BFHW.mul_(2)
        return map_BFHW


def test_a_student_can_be_trained() -> None:
    assert error_of("frozen").got == "no parameter that requires a gradient"
    assert error_of("Variant", kind="detached").got == "logits without a gradient"
    assert "inplace operation" in str(error_of("InPlace").got)
    # A teacher is not trained.
    assert built("frozen", role="teacher").classes == 3


@pytest.mark.parametrize(("name", "dtype"), [("double", "float64"), ("half", "bfloat16")])
def test_weights_are_in_float32(name: str, dtype: str) -> None:
    error = error_of(name)
    assert error.rule.endswith("must have weights in float32")
    assert error.got == f"stem.weight in {dtype}"


# Students that could not be opened later


class Random(PlainNet):
    def __init__(self, num_classes: int) -> None:
        self.num_features = next(WIDTHS)
        super().__init__(num_classes)


WIDTHS = iter(range(4, 1000))


class Hidden(PlainNet):
    """Keeps weights in an attribute that no state has."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.hidden = [1 + torch.rand(6, 1, 1)]

    def forward_features(self, pixels_B3HW: Tensor) -> Tensor:
        return super().forward_features(pixels_B3HW) * self.hidden[0]


class Extra(PlainNet):
    def get_extra_state(self) -> Any:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


class Lazy(PlainNet):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.fc = nn.LazyLinear(num_classes)  # type: ignore[assignment]


def once(num_classes: int) -> nn.Module:
    if next(CALLS):
        raise ZeroDivisionError("only once")
    return PlainNet(num_classes)


CALLS = iter(range(1000))


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("Random", "of another architecture"),
        ("Hidden", "other outputs for the same images"),
        ("Extra", "other values under _extra_state"),
        ("Lazy", "Uninitialized"),
        ("once", "ZeroDivisionError: only once"),
    ],
)
def test_a_student_that_could_not_be_opened_is_not_trained(name: str, got: str) -> None:
    assert got.lower() in str(error_of(name).got).lower()


class Dropping(PlainNet):
    """Draws random numbers also in evaluation."""

    def forward_features(self, pixels_B3HW: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward_features(pixels_B3HW), 0.5, training=True)


def some_timm_model(num_classes: int) -> nn.Module:
    model: nn.Module = timm.create_model("test_resnet", num_classes=num_classes)
    return model


@pytest.mark.parametrize("name", ["Dropping", "some_timm_model"])
def test_unusual_networks_that_can_be_opened(name: str) -> None:
    config = ModelConfig(name=f"{HERE}:{name}", size=32)
    assert build_network(config, 3, role="student", new_classifier=True).classes == 3
