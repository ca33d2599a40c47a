"""The price of a training step, in ratios: plain, online, banked, and the method written out naively.

    python benchmarks/compare.py --data DATA/cifar100

ResNet-32x4 teaches ResNet-8x4 on CIFAR-100's images, batch 64, 16,384 negatives, and CLIP features of
width 768. Weights and CLIP features are random: a step's time does not depend on their values. Prints
minimum, median and processor time of each contender and the ratios that matter, and writes them as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tests.reference.step import ReferenceStep
from timing import ceilings, interleaved, machine
from torch import Tensor, nn
from torch.nn import functional

from richkd.assemble import Parts, assemble
from richkd.config import Config, load_config
from richkd.data.batches import Resident
from richkd.models.build import Network
from richkd.records import Batch
from richkd.run_folder import RunFolder
from richkd.trainer import Trainer

STUDENT, TEACHER = "cifar_resnet8x4", "cifar_resnet32x4"
CLIP_WIDTH, BATCHES = 768, 8
Call = Callable[[], object]


def configs(data: Path, folder: Path) -> dict[str, Config]:
    """Settings of the three ways of use, and of each in float32."""
    common: dict[str, Any] = {
        "data.path": str(data),
        "data.label_column": "fine_label",
        "data.val_fraction": 0,
        "student.name": STUDENT,
        "method.name": "ce",
        "train.trackers": [],
    }
    rich = common | {
        "method.name": "richkd",
        "teacher.name": TEACHER,
        "clip.name": f"outputs:{folder / 'clip.npz'}",
        "fusion.preset": "paper",
    }
    exact = {"train.precision": "fp32", "train.teacher_precision": "fp32"}
    settings = {
        "plain": common,
        "online": rich,
        "banked": rich | {"bank.folder": str(folder / "bank")},
        "banked, shared negatives": rich | {"bank.folder": str(folder / "bank"), "method.contrast": "shared"},
        "plain fp32": common | exact,
        "online fp32": rich | exact,
    }
    return {name: load_config(overrides=chosen) for name, chosen in settings.items()}


def write_clip(path: Path, config: Config) -> None:
    """Random CLIP outputs for every image of the data."""
    parts = assemble(config, torch.device("cpu"))
    keys = list(chain.from_iterable(split.keys() for split in parts.data.splits.values()))
    random = np.random.default_rng(0)
    np.savez(
        path,
        image_features=random.standard_normal((len(keys), CLIP_WIDTH), dtype=np.float32).astype(np.float16),
        text_features=random.standard_normal((len(parts.data.class_names), CLIP_WIDTH), dtype=np.float32),
        classnames=np.array(parts.data.class_names),
        files=np.array(keys),
    )


def our_step(config: Config, folder: Path) -> Call:
    """A step of the trainer, over the same few batches again and again, gathered anew each time."""
    parts = assemble(config, torch.device("cpu"))
    trainer = Trainer(parts, Accelerator(cpu=True), RunFolder(folder))
    trainer.task.train()
    batches = _batches(parts, trainer.order.epoch(0)[:BATCHES])

    def step() -> None:
        trainer.train_step(next(batches))
        trainer.step = (trainer.step + 1) % BATCHES

    return step


def _batches(parts: Parts, groups: list[Tensor]) -> Iterator[Batch]:
    for group in cycle(groups):
        yield from parts.stores["train"].batches([group])


def reference_step(config: Config) -> Call:
    """The method written out, on the same networks, images and CLIP outputs."""
    parts = assemble(config, torch.device("cpu"))
    store = parts.stores["train"]
    assert isinstance(store, Resident)
    teacher, clip = parts.teachers
    given = clip.look_up("train", torch.arange(len(store.split)))  # type: ignore[attr-defined]
    network: Network = teacher.network  # type: ignore[attr-defined]
    step = ReferenceStep(
        Pair(parts.student),
        Pair(network),
        (parts.student.feature_width, network.feature_width, CLIP_WIDTH),
        store.pixels_NHWC.numpy(),
        store.split.labels_N.numpy(),
        given.feats_BF,
        functional.normalize(clip.class_embeddings_CD, dim=1),  # type: ignore[attr-defined]
        mean=parts.student.mean,
        std=parts.student.std,
    )
    groups = cycle(np.random.default_rng(0).permutation(len(store.split))[: BATCHES * 64].reshape(-1, 64))
    return lambda: step(next(groups))


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
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        chosen = configs(arguments.data, folder)
        write_clip(folder / "clip.npz", chosen["plain"])
        contenders = {name: our_step(config, folder / name) for name, config in chosen.items()}
        contenders["reference"] = reference_step(chosen["online fp32"])
        timings = interleaved(contenders, rounds=arguments.rounds, warmup=BATCHES)
    table = {name: timing.summary() for name, timing in timings.items()}
    median = {name: row["median"] for name, row in table.items()}
    ratios = {
        "banked ÷ plain": median["banked"] / median["plain"],
        "banked, shared negatives ÷ plain": median["banked, shared negatives"] / median["plain"],
        "online ÷ plain": median["online"] / median["plain"],
        "reference ÷ banked": median["reference"] / median["banked"],
        "reference ÷ online": median["reference"] / median["online"],
        "reference ÷ online, both fp32": median["reference"] / median["online fp32"],
    }
    result = {"machine": machine(), "ceilings": ceilings(), "seconds": table, "ratios": ratios}
    for name, row in table.items():
        print(f"{name:34}" + "".join(f"  {key} {1000 * value:8.1f} ms" for key, value in row.items()))
    for name, ratio in ratios.items():
        print(f"{name:34}  {ratio:.2f}")
    print(json.dumps(result["machine"] | result["ceilings"]))  # type: ignore[operator]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
