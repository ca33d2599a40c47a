"""How fast corruptions are made: batched, and one image at a time with numpy, scipy and Pillow.

    PYTHONPATH=. python benchmarks/corruptions.py --data DATA/cifar100

Times all 15 at 5 severities on the first test images of DATA, scales them to 10,000 images, and does the
same for the slow versions that the tests compare with. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from tests.reference import corruptions as slow

from richkd.config.schema import DataConfig
from richkd.data.batches import open_store
from richkd.data.framing import Framing
from richkd.data.sources import open_data
from richkd.evaluate.corruptions.corrupt import TEST, corrupt
from richkd.evaluate.corruptions.severity import SEVERITIES, constants

SCALED, BATCH = 10_000, 250


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def batched(pixels_NHWC: torch.Tensor, name: str) -> float:
    """Seconds for all severities of as many images as are scaled to."""
    corrupt(pixels_NHWC[:2], name, 1)
    total = 0.0
    for severity in SEVERITIES:
        # What a severity needs once, such as tables of noise, does not grow with the images.
        once = seconds(lambda severity=severity: corrupt(pixels_NHWC[:2], name, severity))
        parts = pixels_NHWC.split(BATCH)
        rest = seconds(lambda severity=severity, parts=parts: [corrupt(p, name, severity) for p in parts])
        total += once + rest * SCALED / len(pixels_NHWC)
    return total


def one_by_one(pixels_NHWC: torch.Tensor, name: str) -> float:
    """The same for a loop over images."""
    rng, change = np.random.default_rng(0), getattr(slow, name)

    def loop(severity: int) -> None:
        strength = constants(name, severity, pixels_NHWC.shape[1])
        for image in pixels_NHWC.numpy():
            (change(image / 255, rng, *strength).clip(0, 1) * 255).round().astype(np.uint8)

    return sum(seconds(lambda s=severity: loop(s)) for severity in SEVERITIES) * SCALED / len(pixels_NHWC)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--label-column", default="fine_label")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--slow-images", type=int, default=20)
    arguments = parser.parse_args()
    split = open_data(DataConfig(path=arguments.data, label_column=arguments.label_column)).splits["test"]
    split = split.select("test", np.arange(arguments.images))
    (batch,) = open_store(split, Framing(32)).batches([torch.arange(arguments.images)])
    fast, loops = 0.0, 0.0
    print(f"{'':20} {'batched, s':>12} {'one by one, s':>14} {'ratio':>7}   5 severities of {SCALED:,}")
    for name in TEST:
        ours, theirs = (
            batched(batch.pixels_BHWC, name),
            one_by_one(batch.pixels_BHWC[: arguments.slow_images], name),
        )
        fast, loops = fast + ours, loops + theirs
        print(f"{name:20} {ours:12.1f} {theirs:14.1f} {theirs / ours:7.1f}", flush=True)
    print(f"{'all':20} {fast:12.1f} {loops:14.1f} {loops / fast:7.1f}")


if __name__ == "__main__":
    main()
