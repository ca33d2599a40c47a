"""What each process of the test of shared memory does; argument: the folder of results ``RANK.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from richkd.core.launch import join
from richkd.core.node_memory import NodeMemory
from richkd.core.processes import meet, rank, share_of
from richkd.data.framing import Framing
from richkd.data.images import decode_all
from richkd.data.pictures import Pictures
from richkd.data.sources import open_data
from tests.fixtures import World


def main(out: Path, images: Path) -> None:
    join("cpu", 60)
    memory = NodeMemory.of(1001)
    part, sizes = share_of(1001)
    memory.bytes_N[part] = rank() + 1
    memory.exchange(sizes)
    result = {"shared": memory.shared, "sum": int(memory.bytes_N.sum())}
    meet()
    if rank() == 1:
        memory.bytes_N[0] = 200
    meet()
    result["first"] = int(memory.bytes_N[0])
    config = World(images, images, images).config(out / "run", method__name="ce")
    train = open_data(config.data, 0).splits["train"]
    pixels_NHWC = decode_all(train, Framing(8), workers=1)
    pictures = Pictures(train, short=8, sizes=(8,), workers=0, in_memory=True)
    alone = [picture.clone() for _, picture in sorted(pictures._decoded.items())]
    torch.save((pixels_NHWC, alone), out / f"{rank()}.pt")
    (out / f"{rank()}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
