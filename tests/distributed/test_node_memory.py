"""Images in memory exist once on a machine, and are the same in all processes on any number of machines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from richkd.data.framing import Framing
from richkd.data.images import decode_all
from richkd.data.pictures import Pictures
from richkd.data.sources import open_data
from tests.distributed.starts import finished, free_port, start
from tests.fixtures import World

pytestmark = pytest.mark.slow


def started(out: Path, images: Path, nodes: list[int]) -> list[dict[str, int]]:
    """What processes found that are started as by launchers on machines with so many processes each."""
    port, count = str(free_port()), sum(nodes)
    places = [(node, local) for node, size in enumerate(nodes) for local in range(size)]
    processes = [
        start(
            [sys.executable, "-m", "tests.distributed.memory_worker", str(out), str(images)],
            out,
            WORLD_SIZE=str(count),
            LOCAL_WORLD_SIZE=str(nodes[node]),
            RANK=str(number),
            LOCAL_RANK=str(local),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for number, (node, local) in enumerate(places)
    ]
    for process in processes:
        status, output = finished(process)
        assert status == 0, output
    return [json.loads((out / f"{number}.json").read_text()) for number in range(count)]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux")
@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        pytest.param([2], [200, 200], id="one machine"),
        pytest.param([2, 1], [200, 200, 1], id="three processes on two machines"),
    ],
)
def test_processes_of_a_machine_share_what_all_have_filled(
    world: World, tmp_path: Path, nodes: list[int], first: list[int]
) -> None:
    results = started(tmp_path, world.images, nodes)
    count = len(results)
    ends = [1001 * number // count for number in range(count + 1)]
    total = sum((number + 1) * (ends[number + 1] - ends[number]) for number in range(count))
    assert [one["sum"] for one in results] == [total] * count
    assert all(one["shared"] for one in results)
    # The second process has changed the first byte.
    assert [one["first"] for one in results] == first
    config = world.config(tmp_path / "run", method__name="ce")
    train = open_data(config.data, 0).splits["train"]
    pixels_NHWC = decode_all(train, Framing(8), workers=1)
    pictures = Pictures(train, short=8, sizes=(8,), workers=0, in_memory=True)
    for number in range(count):
        squares_NHWC, whole = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        assert torch.equal(squares_NHWC, pixels_NHWC)
        for index, picture in enumerate(whole):
            assert torch.equal(picture, pictures._decoded[index])
