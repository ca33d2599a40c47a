"""How much zeros around small maps save in a forward and backward pass on a CPU.

GLIBC_TUNABLES=glibc.malloc.hugetlb=1 OMP_NUM_THREADS=1 python benchmarks/small_maps.py
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from richkd.models.small_maps import pad_small_maps

# Name, input in pixels, images of a batch.
NETWORKS = (
    ("mobilenetv3_small_050", 64, 64),
    ("tf_efficientnet_lite0", 64, 32),
    ("efficientnet_b0", 128, 32),
    ("convnext_atto", 64, 32),
    ("mobilenetv3_small_100", 128, 64),
    ("tf_efficientnet_lite0", 112, 32),
    ("mobilenetv4_conv_small", 96, 32),
)
CLASSES, WARM_UP = 100, 2


def milliseconds(model: nn.Module, pixels_B3HW: Tensor, label_B: Tensor) -> float:
    """Time of one forward and backward pass."""
    began = time.perf_counter()
    F.cross_entropy(model(pixels_B3HW), label_B).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    """Print the medians of each network, plain and padded in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured steps of each network")
    rounds = parser.parse_args().rounds
    for name, size, batch in NETWORKS:
        torch.manual_seed(0)
        plain = timm.create_model(name, num_classes=CLASSES).train().to(memory_format=torch.channels_last)
        padded = copy.deepcopy(plain)
        pad_small_maps(padded)
        pixels = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(CLASSES, (batch,))
        times = [[milliseconds(m, pixels, labels) for m in (plain, padded)] for _ in range(WARM_UP + rounds)]
        before, after = (statistics.median(column) for column in zip(*times[WARM_UP:], strict=True))
        print(f"{name}, {size} px, {batch}: {before:.0f}, {after:.0f} ms, {after / before:.2f}", flush=True)


if __name__ == "__main__":
    main()
