"""The CIFAR networks: published counts, timm's contract, published weights, torchvision's arithmetic."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as parquet
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import ResNet, ShuffleNetV2, mobilenetv2, resnet, vgg

from richkd.core.errors import ModelError
from richkd.models import cifar, cifar_mobile
from richkd.models.cifar_base import MEAN, STD, CifarNet, checkpoint_filter_fn

# Parameters at 100 classes as the literature gives them: exact where it is, else rounded to 0.01 M.
PUBLISHED: dict[str, float] = {
    "cifar_resnet8": 0.08e6,
    "cifar_resnet14": 0.18e6,
    "cifar_resnet20": 278_324,
    "cifar_resnet32": 472_756,
    "cifar_resnet44": 667_188,
    "cifar_resnet56": 861_620,
    "cifar_resnet110": 1_736_564,
    "cifar_resnet8x4": 1_233_540,
    "cifar_resnet32x4": 7_433_860,
    "cifar_resnet50": 23_705_252,
    "cifar_wrn_16_2": 703_284,
    "cifar_wrn_40_1": 569_780,
    "cifar_wrn_40_2": 2_255_156,
    "cifar_wrn_28_4": 5.87e6,
    "cifar_vgg8": 3_965_028,
    "cifar_vgg13": 9_462_180,
    "cifar_mobilenetv2_half": 812_836,
    "cifar_shufflenetv1": 949_258,
    "cifar_shufflenetv2": 1_355_528,
}
ROUNDED = {"cifar_resnet8", "cifar_resnet14", "cifar_wrn_28_4"}
FAMILIES = ["cifar_resnet8", "cifar_wrn_16_2", "cifar_vgg8", "cifar_mobilenetv2_half", "cifar_shufflenetv1"]


def images(count: int, channels: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, channels, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)


def create(name: str, **options: Any) -> CifarNet:
    torch.manual_seed(0)
    return cast(CifarNet, timm.create_model(name, **options))


@torch.no_grad()
def settled(model: nn.Module) -> Any:
    """The model in evaluation mode with the statistics of one batch, so that deep maps stay of order one."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = None
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    model.train()(images(4))
    return model.eval()


@cache
def network(name: str) -> CifarNet:
    """A settled network in double precision, whose rounding cannot hide or feign a difference."""
    return cast(CifarNet, settled(create(name, num_classes=100)).double())


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_network_is_registered() -> None:
    assert set(timm.list_models("cifar_*")) == set(PUBLISHED) == {*cifar.NETWORKS, *cifar_mobile.NETWORKS}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        count = parameters(create(name, num_classes=100))
    assert (round(count, -4) if name in ROUNDED else count) == PUBLISHED[name]


@pytest.mark.parametrize("depth", [8, 20, 110])
def test_plain_resnet_has_the_counted_parameters(depth: int) -> None:
    n, count = (depth - 2) // 6, (27 * 16 + 2 * 16) + (64 + 1) * 100
    for before, width in ((16, 16), (16, 32), (32, 64)):
        count += 9 * before * width + (2 * n - 1) * 9 * width**2 + 2 * n * 2 * width
        count += 0 if before == width else before * width + 2 * width
    assert parameters(network(f"cifar_resnet{depth}")) == count


@pytest.mark.parametrize(("depth", "k"), [(16, 2), (40, 1), (28, 4)])
def test_wide_resnet_has_the_counted_parameters(depth: int, k: int) -> None:
    n, count = (depth - 4) // 6, 27 * 16 + 2 * 64 * k + (64 * k + 1) * 100
    for before, width in ((16, 16 * k), (16 * k, 32 * k), (32 * k, 64 * k)):
        count += 9 * before * width + (2 * n - 1) * 9 * width**2 + 2 * before + (2 * n - 1) * 2 * width
        count += 0 if before == width else before * width
    assert parameters(network(f"cifar_wrn_{depth}_{k}")) == count


@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_contract(name: str) -> None:
    model, pixels = network(name), images(1, dtype=torch.float64)
    logits, map_BFHW = model(pixels), model.forward_features(pixels)
    assert logits.shape == (1, 100) == (1, model.num_classes)
    assert map_BFHW.shape[:2] == (1, model.num_features)
    feats_BF = model.forward_head(map_BFHW, pre_logits=True)
    torch.testing.assert_close(feats_BF, map_BFHW.mean((2, 3)))
    torch.testing.assert_close(model.get_classifier()(feats_BF), logits)
    final, maps = model.forward_intermediates(pixels)
    assert torch.equal(final, map_BFHW)
    assert len(maps) == len(model.feature_info)
    for info, stage in zip(model.feature_info, maps, strict=True):
        side = 32 // info["reduction"]
        assert stage.shape == (1, info["num_chs"], side, side)
    model.to(memory_format=torch.channels_last)
    turned = model(pixels.to(memory_format=torch.channels_last))
    torch.testing.assert_close(turned, logits, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_intermediates_take_indices_stop_early_and_norm() -> None:
    model, pixels = network("cifar_wrn_16_2"), images(2, dtype=torch.float64)
    final, (one, two, three) = model.forward_intermediates(pixels)
    ahead = model.forward_intermediates(pixels, indices=[0, -2], stop_early=True)
    assert torch.equal(ahead[0], two)
    assert all(torch.equal(a, b) for a, b in zip(ahead[1], (one, two), strict=True))
    last = model.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True)
    assert torch.equal(last[0], final)
    assert not torch.equal(three, final)
    torch.testing.assert_close(F.relu(model.bn1(three)), final)


@pytest.mark.parametrize("wrong", [0, 4, [3], [-4], []])
def test_missing_stages_are_refused(wrong: int | list[int]) -> None:
    with pytest.raises(ModelError, match="stages -3 to 2"):
        network("cifar_resnet8").forward_intermediates(images(1), indices=wrong)
    with pytest.raises(ModelError, match="NCHW"):
        network("cifar_resnet8").forward_intermediates(images(1), output_fmt="NLC")


@pytest.mark.parametrize("name", FAMILIES)
def test_options_and_another_classifier(name: str) -> None:
    model = create(name, num_classes=0, in_chans=1, drop_rate=0.5)
    feats_BF = model.eval()(images(2, channels=1))
    assert feats_BF.shape == (2, model.num_features)
    model.reset_classifier(7, "max")
    map_BFHW = model.forward_features(images(2, channels=1))
    torch.testing.assert_close(model.forward_head(map_BFHW, pre_logits=True), map_BFHW.amax((2, 3)))
    assert model.forward_head(map_BFHW).shape == (2, model.num_classes) == (2, 7)
    dropped = model.train().forward_head(torch.ones(2, model.num_features, 4, 4), pre_logits=True)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    convolution = model.get_submodule(timm.get_pretrained_cfg(name).first_conv)
    assert convolution.in_channels == 1
    assert convolution is next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def test_convolutions_start_with_the_variance_of_fan_out() -> None:
    weight = create("cifar_resnet8x4").layer3[0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)


@torch.no_grad()
def test_features_only_gives_the_stages() -> None:
    model = create("cifar_vgg8", features_only=True).eval()
    shapes = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]
    assert [stage.shape for stage in model(images(1))] == [(1, width, side, side) for width, side in shapes]


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_folder_loads_again(name: str, tmp_path: Path) -> None:
    model = settled(create(name, num_classes=7))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": name, "num_classes": 7, "pretrained_cfg": model.pretrained_cfg}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(images(2)), model(images(2)))
    for received in map(timm.data.resolve_model_data_config, (model, again)):
        assert tuple(received["input_size"]) == (3, 32, 32)
        assert tuple(received["mean"]) == (0.5070, 0.4865, 0.4409)
        assert tuple(received["std"]) == (0.2673, 0.2564, 0.2761)
        assert (received["crop_pct"], received["interpolation"]) == (1.0, "bicubic")


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
@torch.no_grad()
def test_literature_teachers_load_and_classify(depth: int, data_dir: Path) -> None:
    weights = data_dir / "cifar100-teachers" / f"cifar100_resnet{depth}.pth"
    table = data_dir / "cifar100" / "test-00000-of-00001.parquet"
    if not (weights.is_file() and table.is_file()):
        pytest.skip(f"{weights} or {table} is missing")
    model = create(f"cifar_resnet{depth}", num_classes=100).eval()
    model.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    pixels, labels = cifar_pixels(table)
    # 68.8 to 72.6 % on the whole test set; 100 images give a standard error of 4.6 points.
    assert 0.55 < (model(pixels).argmax(1) == labels).float().mean() < 0.88


@cache
def cifar_pixels(table: Path) -> tuple[Tensor, Tensor]:
    rows = next(parquet.ParquetFile(table).iter_batches(100)).to_pylist()
    stacked = np.stack([np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))) for row in rows])
    pixels_BHWC = (torch.from_numpy(stacked) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return pixels_BHWC.permute(0, 3, 1, 2), torch.tensor([row["fine_label"] for row in rows])


@pytest.mark.parametrize(
    ("published", "name", "ours"),
    [
        ("block2.layer.0.convShortcut.weight", "cifar_wrn_16_2", "layer2.0.downsample.weight"),
        ("block0.1.running_var", "cifar_vgg13", "layer1.1.running_var"),
        ("block4.3.bias", "cifar_vgg13", "layer5.3.bias"),
        ("classifier.weight", "cifar_vgg13", "fc.weight"),
        ("classifier.0.bias", "cifar_mobilenetv2_half", "fc.bias"),
        ("blocks.4.2.conv.7.weight", "cifar_mobilenetv2_half", "layer3.1.2.conv.7.weight"),
        ("conv2.1.weight", "cifar_mobilenetv2_half", "conv2.1.weight"),
        ("layer1.0.shortcut.1.bias", "cifar_resnet50", "layer1.0.downsample.1.bias"),
        ("linear.weight", "cifar_shufflenetv2", "fc.weight"),
        ("layer2.7.bn3.weight", "cifar_shufflenetv2", "layer2.7.bn3.weight"),
    ],
)
def test_published_layer_names_become_ours(published: str, name: str, ours: str) -> None:
    assert list(checkpoint_filter_fn({published: torch.zeros(1)})) == [ours]
    state = network(name).state_dict()
    assert ours in state
    assert list(checkpoint_filter_fn(state)) == list(state)


@torch.no_grad()
def assert_same(ours: nn.Module, theirs: nn.Module, pixels: Tensor) -> None:
    """Give both the same tensors, in order of definition, and compare their outputs."""
    values = list(ours.state_dict().values())
    theirs.double().eval().load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    torch.testing.assert_close(ours(pixels), theirs(pixels), rtol=1e-9, atol=1e-9)


def test_resnet50_computes_what_torchvision_does() -> None:
    theirs = ResNet(resnet.Bottleneck, [3, 4, 6, 3], num_classes=100)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    assert_same(network("cifar_resnet50"), theirs, images(1, dtype=torch.float64))


def test_vgg13_computes_what_torchvision_does() -> None:
    plan: list[str | int] = [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, 512, 512]
    pooling = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    theirs = nn.Sequential(vgg.make_layers(plan, batch_norm=True), *pooling, nn.Linear(512, 100))
    assert_same(network("cifar_vgg13"), theirs, images(1, dtype=torch.float64))


def test_shufflenetv2_computes_what_torchvision_does() -> None:
    theirs = ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024], num_classes=100)
    theirs.conv1[0], theirs.maxpool = nn.Conv2d(3, 24, 1, bias=False), nn.Identity()
    assert_same(network("cifar_shufflenetv2"), theirs, images(1, dtype=torch.float64))


@pytest.mark.parametrize(("outputs", "stride"), [(8, 1), (8, 2), (12, 1)])
def test_inverted_residual_computes_what_torchvision_does(outputs: int, stride: int) -> None:
    ours = cifar_mobile.InvertedResidual(8, outputs, stride, 6).double().eval()
    # Inputs this small keep every activation under 6, where torchvision's ReLU6 is ReLU.
    pixels = 0.1 * images(2, channels=8, dtype=torch.float64)[..., :6, :6]
    assert_same(ours, mobilenetv2.InvertedResidual(8, outputs, stride, 6), pixels)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_shuffle_computes_what_torch_does(groups: int) -> None:
    x = torch.arange(2 * 12 * 4.0).view(2, 12, 2, 2)
    assert torch.equal(cifar_mobile.shuffle(x, groups), F.channel_shuffle(x, groups))


@torch.no_grad()
def test_wide_resnet_equals_the_formula() -> None:
    model, pixels = network("cifar_wrn_16_2"), images(2, dtype=torch.float64)
    state = model.state_dict()

    def active(x: Tensor, norm: str) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, shift = (state[f"{norm}.{part}"].view(-1, 1, 1) for part in parts)
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp_min(0)

    x = F.conv2d(pixels, state["conv1.weight"], padding=1)
    for place in ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1"):
        stride = 2 if place in ("layer2.0", "layer3.0") else 1
        start = active(x, f"{place}.bn1")
        inner = F.conv2d(start, state[f"{place}.conv1.weight"], stride=stride, padding=1)
        inner = F.conv2d(active(inner, f"{place}.bn2"), state[f"{place}.conv2.weight"], padding=1)
        projection = state.get(f"{place}.downsample.weight")
        x = inner + (x if projection is None else F.conv2d(start, projection, stride=stride))
    expected = F.linear(active(x, "bn1").mean((2, 3)), state["fc.weight"], state["fc.bias"])
    torch.testing.assert_close(model(pixels), expected, rtol=1e-9, atol=1e-9)
