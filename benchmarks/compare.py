"""The price of a training step, in ratios: ours in its several ways, a peer's, and the method written out.

    python benchmarks/compare.py --data DATA/cifar100
    python benchmarks/compare.py --data DATA/cifar100 --device cuda --out benchmarks/results/step-gpu.json

ResNet-32x4 teaches ResNet-8x4 on CIFAR-100's images, batch 64, 16,384 negatives, and CLIP features of
width 768. Weights and CLIP features are random: a step's time does not depend on their values. Prints
minimum, median and processor time of each contender and the ratios that matter, and writes them as JSON. On a
GPU, only our contenders are measured: the others are written for a processor.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import timm_step
from steps import BATCHES, CLIP_WIDTH, COMMON, CPU, TEACHER, Call, our_step, write_clip, write_teacher
from tests.reference.step import ReferenceStep
from timing import ceilings, interleaved, machine, save
from torch import Tensor, nn
from torch.nn import functional

from richkd.config.loading import load_config
from richkd.config.schema import Config
from richkd.core.precision import precisions_of
from richkd.data.batches import Resident
from richkd.models.build import Network
from richkd.models.compiling import compile_repays
from richkd.pipeline.assemble import assemble
from richkd.teachers.precomputed.clip import GivenClip

# Numerator and denominator of each ratio, by contender.
RATIOS = (
    ("cached", "plain"),
    ("cached, shared negatives", "plain"),
    ("cached, compiled", "plain, compiled"),
    ("cached, shared negatives, compiled", "plain, compiled"),
    ("plain, compiled", "plain"),
    ("online", "plain"),
    ("reference", "cached"),
    ("reference", "online"),
    ("reference", "online fp32"),
    ("peer KD", "our KD online"),
    ("peer KD", "our KD cached"),
    ("peer KD fp32", "our KD online fp32"),
    ("peer KD fp32", "our KD cached fp32"),
)

# Steps between two synchronizations with a GPU, which a run has at each line of its log only.
STEPS_ON_GPU = 50


def configs(data: Path, folder: Path, device: torch.device = CPU) -> dict[str, Config]:
    """Settings of our contenders, by name; the peer's step reads those of our KD online."""
    fast = "bf16" if "bf16" in precisions_of(device) else "fp32"
    plain: dict[str, Any] = COMMON | {
        "data.path": str(data),
        "data.label_column": "fine_label",
        "method.name": "ce",
        "train.precision": fast,
    }
    # CIFAR-100 has 100 classes.
    kd = (
        plain
        | {"method.name": "kd"}
        | write_teacher(folder / "teacher.safetensors", 100, TEACHER)
        | {"train.teacher_precision": fast}
    )
    rich = kd | {
        "method.name": "richkd",
        "clip.name": f"outputs:{folder / 'clip.npz'}",
        "fusion.preset": "paper",
    }
    cached: dict[str, Any] = {"cache.dir": str(folder / "cache")}
    shared, compiled = {"objective.contrastive.negatives": "shared"}, {"train.compile": "always"}
    fp32 = {"train.precision": "fp32"}
    exact = fp32 | {"train.teacher_precision": "fp32"}
    settings = {
        "plain": plain,
        "plain, compiled": plain | compiled,
        "plain fp32": plain | fp32,
        "online": rich,
        "online fp32": rich | exact,
        "cached": rich | cached,
        "cached, compiled": rich | cached | compiled,
        "cached, shared negatives": rich | cached | shared,
        "cached, shared negatives, compiled": rich | cached | shared | compiled,
        "our KD online": kd,
        "our KD online fp32": kd | exact,
        "our KD cached": kd | cached,
        "our KD cached fp32": kd | cached | exact,
    }
    return {name: load_config(overrides=selected) for name, selected in settings.items()}


def contenders_of(data: Path, folder: Path, device: torch.device = CPU) -> dict[str, Call]:
    """Every contender's step; compiled ones where there is a compiler, the peer's where timm has it."""
    selected, compiles = configs(data, folder, device), compile_repays("auto", sys.maxsize, device)
    write_clip(folder / "clip.npz", selected["plain"])
    stores = assemble(selected["plain"], device).stores
    contenders = {
        name: our_step(config, folder / name, stores, device)
        for name, config in selected.items()
        if compiles or config.train.compile != "always"
    }
    if device.type == "cuda":
        return {name: on_gpu(call) for name, call in contenders.items()}
    contenders["reference"] = reference_step(selected["online fp32"])
    for name, ours in (("peer KD", "our KD online"), ("peer KD fp32", "our KD online fp32")):
        peer = timm_step(selected[ours])
        if peer is not None:
            contenders[name] = peer
    return contenders


def reference_step(config: Config) -> Call:
    """The method written out, on the same networks, images and CLIP outputs."""
    parts = assemble(config, CPU)
    store = parts.stores.training
    assert isinstance(store, Resident)
    teacher, clip = parts.teachers
    assert isinstance(clip, GivenClip)
    given = clip.look_up("train", torch.arange(len(store.split)))
    network = teacher.network
    assert network is not None
    step = ReferenceStep(
        Pair(parts.student),
        Pair(network),
        (parts.student.feature_width, network.feature_width, CLIP_WIDTH),
        store.pixels_NHWC.numpy(),
        store.split.labels_N.numpy(),
        given.feats_BF,
        functional.normalize(clip.class_embeddings_CD, dim=1),
        mean=parts.student.mean,
        std=parts.student.std,
    )
    groups = cycle(np.random.default_rng(0).permutation(len(store.split))[: BATCHES * 64].reshape(-1, 64))
    return lambda: step(next(groups))


def on_gpu(call: Call) -> Call:
    """`STEPS_ON_GPU` steps, until the GPU has finished them."""

    def steps() -> None:
        for _ in range(STEPS_ON_GPU):
            call()
        torch.cuda.synchronize()

    return steps


class Pair(nn.Module):
    """A network's output as a plain pair, in torch's default memory layout."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.contiguous_format)

    def forward(self, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(pixels_B3HW)
        return output.logits_BC, output.feats_BF


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-100 as parquet")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step.json"))
    arguments = parser.parse_args()
    device, on_cpu = torch.device(arguments.device), arguments.device == "cpu"
    with tempfile.TemporaryDirectory() as temporary:
        contenders = contenders_of(arguments.data, Path(temporary), device)
        timings = interleaved(contenders, rounds=arguments.rounds, warmup=BATCHES if on_cpu else 1)
    steps = 1 if on_cpu else STEPS_ON_GPU
    table = {
        name: {key: seconds / steps for key, seconds in timing.summary().items()}
        for name, timing in timings.items()
    }
    ratios = {
        f"{above} ÷ {below}": table[above]["median"] / table[below]["median"]
        for above, below in RATIOS
        if {above, below} <= table.keys()
    }
    result = {"machine": machine(), "ceilings": ceilings(), "seconds": table, "ratios": ratios}
    for name, row in table.items():
        print(f"{name:36}" + "".join(f"  {key} {1000 * value:8.2f} ms" for key, value in row.items()))
    for name, ratio in ratios.items():
        print(f"{name:56}  {ratio:.2f}")
    print(json.dumps(machine() | result["ceilings"]))
    save(arguments.out, result)


if __name__ == "__main__":
    main()
