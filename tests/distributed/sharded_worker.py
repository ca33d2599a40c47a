"""What each process of the test of divided networks does; argument: the folder of results ``RANK.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import timm
import torch

from richkd.core.errors import ModelError
from richkd.core.launch import join
from richkd.core.processes import agreed, rank
from richkd.core.types import Batch, Output
from richkd.data.augmentations import Clean
from richkd.models.build import Network
from richkd.models.sharded import in_step
from richkd.teachers.base import Teacher
from richkd.teachers.sharded import ShardedTeacher
from richkd.teachers.vision import VisionTeacher

CPU, SIZE, RGB = torch.device("cpu"), 32, (0.5, 0.5, 0.5)
NAMES = ("resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050")
# The batches of each process: networks in another order, and another number of times.
BATCHES = (((0, 3), (1, 2), (0, 1), (3, 5), (0, 4)), ((1, 1), (2, 4)))


def network(name: str) -> Network:
    torch.manual_seed(0)
    args = {"img_size": SIZE} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=5, **args)
    return Network(model, name, size=SIZE, mean=RGB, std=RGB)


def outputs(teacher: Teacher, count: int, split: str) -> Output:
    pixels = torch.rand(count, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(count))
    batch = Batch(split, torch.arange(count), pixels, torch.zeros(count, dtype=torch.int64))
    return teacher.outputs(batch, Clean(SIZE).draw(0, 0, batch.index_B))


def same(whole: list[VisionTeacher], divided: list[ShardedTeacher], split: str) -> list[bool]:
    expected = [outputs(whole[place], count, split) for place, count in BATCHES[rank()]]
    with in_step():
        got = [outputs(divided[place], count, split) for place, count in BATCHES[rank()]]
    return [
        torch.equal(one.logits_BC, other.logits_BC) and torch.equal(one.feats_BF, other.feats_BF)
        for one, other in zip(expected, got, strict=True)
    ]


def with_an_error(divided: list[ShardedTeacher]) -> None:
    """The first process has an error before its second batch; the other one goes on with its own."""
    with in_step():
        outputs(divided[0], 2, "val")
        if rank() == 0:
            raise ModelError("An error", got="one", fix="none.")
        outputs(divided[1], 2, "val")


def main(out: Path) -> None:
    join("cpu", 60)
    whole = [VisionTeacher(network(name), CPU, torch.bfloat16) for name in NAMES]
    divided = [ShardedTeacher(network(name), CPU, torch.bfloat16) for name in NAMES]
    result: dict[str, Any] = {split: same(whole, divided, split) for split in ("train", "val")}
    with torch.inference_mode():
        result["inference"] = same(whole, divided, "train")
    result["computed"] = [teacher.computed for teacher in divided]
    result["ingredients"] = [
        one.ingredients(trained=trained) == other.ingredients(trained=trained)
        for one, other in zip(whole, divided, strict=True)
        for trained in (True, False)
    ]
    result["held"] = [held(teacher) for teacher in divided]
    try:
        agreed(lambda: with_an_error(divided))
    except ModelError as error:
        result["error"] = str(error)
    (out / f"{rank()}.json").write_text(json.dumps(result))


def held(teacher: ShardedTeacher) -> float:
    """The fraction of the parameters that this process holds between two runs of the network."""
    parameters = list(teacher._network.parameters())
    return sum(p.to_local().numel() for p in parameters) / sum(p.numel() for p in parameters)  # type: ignore[operator]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
