"""What sizes beyond one machine's data cost: caches, the order of images, sums of gradients, and starts.

    python benchmarks/scale.py cache IMAGES TOP_K [--folder FOLDER]
    python benchmarks/scale.py order IMAGES BATCH
    python benchmarks/scale.py sums PROCESSES PARAMETERS
    python benchmarks/scale.py start IMAGES PROCESSES [--folder FOLDER]
    python benchmarks/scale.py capacity

``capacity`` computes from formulas what large runs need. Each other command measures, and adds its figures
to ``benchmarks/results/scale.json``. The caches hold real rows of the real format, but random numbers instead
of outputs; the folder of images has generated JPEG files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from benchmarks.timing import machine, save
from PIL import Image
from torch import nn

from richkd.core.types import Output

RESULTS = Path("benchmarks/results/scale.json")
# Few classes, because rows with the k largest logits have 4 + 4k bytes for any number of them.
CLASSES = 20
BATCH = 1024
# Side of the generated images in pixels.
SIZE = 64


def cache(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fill a cache with one view of each image, open it in a new process, and read batches from it."""
    with TemporaryDirectory(dir=arguments.folder) as root:
        began = time.perf_counter()
        _in_process("_fill", root, arguments.images, arguments.top_k)
        filled = time.perf_counter() - began
        opened = _in_process("_open", root, arguments.images, arguments.top_k)
        size = sum(file.stat().st_size for file in Path(root).rglob("*.safetensors"))
    return {"fill_seconds": filled, "bytes": size, **opened}


def _fill(root: str, images: int, top_k: int) -> dict[str, float]:
    cache, generator = _cache(root, images, top_k), torch.Generator().manual_seed(0)
    logits_BC = torch.randn(BATCH, CLASSES, generator=generator)
    for index_B in torch.split(torch.randperm(images, generator=generator), BATCH):
        cache.add(
            index_B,
            torch.zeros_like(index_B),
            Output(logits_BC[: len(index_B)], torch.zeros(len(index_B), 0)),
        )
    cache.flush()
    return {}


def _open(root: str, images: int, top_k: int) -> dict[str, float]:
    from richkd.teachers.cache import store  # noqa: F401  # its memory is no part of the cache

    before, began = _memory(), time.perf_counter()
    cache = _cache(root, images, top_k)
    opened, generator = time.perf_counter() - began, torch.Generator().manual_seed(1)
    memory = _memory() - before
    times = []
    for _ in range(50):
        index_B = torch.randint(images, (BATCH,), generator=generator)
        began = time.perf_counter()
        cache.read(cache.find(index_B, torch.zeros_like(index_B)))
        times.append(time.perf_counter() - began)
    return {"open_seconds": opened, "memory_bytes": memory, "read_microseconds": median(times) / BATCH * 1e6}


def _cache(root: str, images: int, top_k: int) -> Any:
    from richkd.teachers.cache.manifest import Manifest
    from richkd.teachers.cache.row_format import RowFormat
    from richkd.teachers.cache.store import OutputCache

    return OutputCache(root, Manifest("teacher-train", {}, images, 1, RowFormat(CLASSES, 0, top_k)))


def order(arguments: argparse.Namespace) -> dict[str, Any]:
    """The order of the images of an epoch, which every process computes."""
    return _in_process("_order", arguments.images, arguments.batch)


def _order(images: int, batch: int) -> dict[str, float]:
    from richkd.data.order import TrainingOrder

    before, began = _memory(), time.perf_counter()
    groups = TrainingOrder(images, batch, seed=0).epoch(0)
    return {
        "steps": len(groups),
        "seconds": time.perf_counter() - began,
        "memory_bytes": _memory() - before,
    }


def sums(arguments: argparse.Namespace) -> dict[str, Any]:
    """The exchange of a step between processes of this machine, by Gloo."""
    port, count = _free_port(), arguments.processes
    words = [sys.executable, __file__, "sum-worker", str(arguments.parameters)]
    workers = [
        subprocess.Popen(words, env=_environment(rank, count, port), stdout=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    seconds = [float(worker.communicate()[0]) for worker in workers]
    bytes_sent = 2 * (count - 1) / count * 4 * arguments.parameters
    return {"seconds": max(seconds), "bytes_sent_by_each": bytes_sent}


def sum_worker(arguments: argparse.Namespace) -> None:
    from richkd.core.launch import join
    from richkd.training.reduction import Flags, add_up

    join("cpu", 600)
    weight = nn.Parameter(torch.zeros(arguments.parameters))
    weight.grad = torch.ones(arguments.parameters)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        add_up([weight], torch.zeros(4), Flags())
        times.append(time.perf_counter() - began)
    print(median(times[2:]))


def start(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of a run until its first step, in 1 or more processes."""
    folder = Path(arguments.folder or ".") / f"jpeg-{arguments.images}"
    _make_jpegs(folder, arguments.images)
    options = ["--data", str(folder), "--student", "cifar_resnet8", "--student.size", str(SIZE)]
    options += ["--method", "ce", "--epochs", "1", "--train.precision", "fp32", "--train.compile", "never"]
    with TemporaryDirectory() as out:
        words = [__file__, "start-worker", out, "--", *options, "--out", f"{out}/run"]
        port, began = _free_port(), time.time()
        workers = [
            subprocess.Popen(
                [sys.executable, *words],
                env=_environment(rank, arguments.processes, port) | {"BEGAN": str(began)},
            )
            for rank in range(arguments.processes)
        ]
        assert [worker.wait() for worker in workers] == [0] * arguments.processes
        records = [json.loads(file.read_text()) for file in sorted(Path(out).glob("*.json"))]
    return {name: [one[name] for one in records] for name in records[0]}


def start_worker(arguments: argparse.Namespace) -> None:
    """Run ``richkd distill`` up to its first step."""
    from richkd.cli import main
    from richkd.core.processes import meet, rank
    from richkd.training.trainer import Trainer

    def stop(self: Trainer, batch: object) -> None:
        figures = {"seconds": time.time() - float(os.environ["BEGAN"]), **_shares()}
        Path(arguments.out, f"{rank()}.json").write_text(json.dumps(figures), encoding="utf-8")
        meet()
        os._exit(0)

    Trainer.train_step = stop  # type: ignore[method-assign, assignment]
    sys.argv = ["richkd", "distill", *arguments.options]
    main()


def _make_jpegs(folder: Path, images: int) -> None:
    """Small JPEG files of 100 classes, each with other bytes."""
    if folder.exists():
        return
    random, classes = np.random.default_rng(0), 100
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for number in range(images):
        place = partial / f"class {number % classes:02}" / f"{number:07}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((SIZE, SIZE), Image.Resampling.BILINEAR).save(place, quality=75)
    partial.rename(folder)


@dataclass(frozen=True)
class Plan:
    """A large run: what is given, and what follows by the formulas of docs/scale.md.

    Attributes:
        images, views, epochs: what is shown.
        processes, batch: processes with a GPU each, and images of a step in all of them.
        rows: bytes of a stored output of each teacher, without the key.
        weights: parameters of the student.
        rate: images that a GPU computes with all teachers in a second, an estimate.
    """

    images: int
    views: int
    epochs: int
    processes: int
    batch: int
    rows: tuple[int, ...]
    weights: int
    rate: float

    def figures(self) -> dict[str, float]:
        """What the run needs, by name and unit."""
        outputs, others = self.images * self.views, (self.processes - 1) / self.processes
        return {
            "steps": self.epochs * (self.images // self.batch),
            "teacher caches (GB)": outputs * sum(row + 8 for row in self.rows) / 1e9,
            "filling them (h, estimate)": outputs / (self.processes * self.rate) / 3600,
            "index of the caches in each process (GB)": 4 * outputs * len(self.rows) / 1e9,
            "order and labels in each process (GB)": 16 * self.images / 1e9,
            "gradients that each process sends in a step (MB)": 2 * others * 4 * self.weights / 1e6,
        }


# Logits of a teacher: the 20 largest and 512 features; CLIP: 512 features. Student: ResNet-18.
PLANS = {
    "ImageNet-1k, 1 GPU": Plan(1_281_167, 10, 100, 1, 256, (1108, 1024), 11_689_512, 1500),
    "ImageNet-1k, 8 GPUs": Plan(1_281_167, 10, 100, 8, 2048, (1108, 1024), 11_689_512, 1500),
    "100 million images, 64 GPUs": Plan(10**8, 1, 10, 64, 16384, (84, 1024), 11_689_512, 1500),
}


def capacity() -> None:
    """Print what large runs need as a table in Markdown."""
    columns = {name: plan.figures() for name, plan in PLANS.items()}
    print("| |", " | ".join(columns), "|")
    print("|---|" + "---|" * len(columns))
    for row in next(iter(columns.values())):
        print(f"| {row} |", " | ".join(_text(figures[row]) for figures in columns.values()), "|")


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    """The environment that a launcher gives to a process; nothing for a single one."""
    paths = os.pathsep.join(["src", ".", os.environ.get("PYTHONPATH", "")])
    variables = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    if count == 1:
        return variables
    who = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    return (
        variables
        | who
        | {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    )


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _in_process(function: str, *arguments: object) -> dict[str, Any]:
    """The result of a function of this file in a new process, whose memory is its own."""
    code = f"import json; from benchmarks import scale; print(json.dumps(scale.{function}(*{arguments!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=_environment(0, 1, 0), check=True, stdout=subprocess.PIPE, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _shares() -> dict[str, int]:
    """Memory of this process: what it has in use, and its proportional part of what is shared."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    sizes = {name: 1024 * int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    return {"resident_bytes": sizes["Rss"], "proportional_bytes": sizes["Pss"]}


def _memory() -> int:
    return _shares()["resident_bytes"]


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, *numbers: str) -> None:
        one = commands.add_parser(name)
        for number in numbers:
            one.add_argument(number, type=lambda text: int(text.replace(",", "")))
        one.add_argument("--folder", default=None, help="where temporary files are made")

    command("cache", "images", "top_k")
    command("order", "images", "batch")
    command("sums", "processes", "parameters")
    command("start", "images", "processes")
    command("sum-worker", "parameters")
    command("capacity")
    worker = commands.add_parser("start-worker")
    worker.add_argument("out")
    worker.add_argument("options", nargs="*")
    return parser.parse_args()


def main() -> None:
    arguments = _parsed()
    if arguments.command in ("sum-worker", "start-worker"):
        {"sum-worker": sum_worker, "start-worker": start_worker}[arguments.command](arguments)
        return
    if arguments.command == "capacity":
        capacity()
        return
    measures: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "cache": cache,
        "order": order,
        "sums": sums,
        "start": start,
    }
    figures = measures[arguments.command](arguments)
    words = " ".join(sys.argv[1:]).partition(" --folder")[0]
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    save(RESULTS, known | {words: {**figures, "machine": machine()}})
    print(words, json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
