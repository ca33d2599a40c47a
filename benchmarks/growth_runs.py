"""What surrounds the steps: stored views, the evaluation, and the time until a run has begun."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from growth_steps import cached_config
from steps import BATCHES, COMMON, CPU, our_step, write_teacher
from timing import medians

from richkd.core.types import Output
from richkd.data.batches import Resident
from richkd.demo import run as demo
from richkd.demo.digits import write_digits
from richkd.pipeline.assemble import assemble
from richkd.teachers.cache.manifest import Manifest
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.cache.store import OutputCache
from richkd.teachers.predict import logits_of

ROWS = RowFormat(classes=100, features=256)
BATCH, ADDED = 64, 256
READS = 50
EVALUATED, TEST_IMAGES, EPOCH_IMAGES = 2000, 10_000, 50_000
Curve = dict[int, float]


def views(rounds: int, counts: Sequence[int] = (1, 8, 162), images: int = 2000) -> dict[str, Curve]:
    """A full cache of 100 logits and 256 features by views of an image: its bytes, and its times.

    Filling is what a cache adds to the teacher's own work; reading is a batch of 64 images, any view of each.
    Files were just written, so opening finds them in the system's memory.
    """
    curves: dict[str, Curve] = {name: {} for name in ("bytes of an image", "rows filled in a second")}
    curves |= {"opening": {}, "reading a batch of 64": {}}
    random = np.random.default_rng(0)
    output = Output(torch.randn(ADDED, ROWS.classes), torch.randn(ADDED, ROWS.features))
    for count in counts:
        with tempfile.TemporaryDirectory() as temporary:
            manifest = Manifest("views", {}, images, count, ROWS)
            cache = OutputCache(Path(temporary), manifest)
            began = time.perf_counter()
            _fill(cache, output)
            curves["rows filled in a second"][count] = images * count / (time.perf_counter() - began)
            curves["bytes of an image"][count] = cache.bytes_on_disk / images
            opened = medians({"opening": partial(OutputCache, Path(temporary), manifest)}, rounds, warmup=1)
            curves["opening"][count] = opened["opening"]
            cache = OutputCache(Path(temporary), manifest)
            seconds = []
            for _ in range(READS):
                index_B = torch.from_numpy(random.choice(images, BATCH, replace=False))
                number_B = torch.from_numpy(random.integers(count, size=BATCH))
                began = time.perf_counter()
                cache.read(cache.find(index_B, number_B))
                seconds.append(time.perf_counter() - began)
            curves["reading a batch of 64"][count] = median(seconds)
    return curves


def _fill(cache: OutputCache, output: Output) -> None:
    """Every view of every image, an epoch for each view as training adds them."""
    for number in range(cache.manifest.views):
        for index_B in torch.arange(cache.manifest.images).split(ADDED):
            part = Output(output.logits_BC[: len(index_B)], output.feats_BF[: len(index_B)])
            cache.add(index_B, torch.full_like(index_B, number), part)
    cache.flush()


def evaluation(rounds: int, image_count: int = EPOCH_IMAGES, evaluated: int = EVALUATED) -> dict[str, float]:
    """Seconds of evaluating 10,000 images and of a cached epoch of 50,000, both from a few of them.

    The evaluation is that of 2,000 images times five, the epoch a median step times its 781 steps.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = cached_config(folder, ROWS.classes, image_count)
        parts = assemble(config, CPU)
        train = parts.stores.training
        assert isinstance(train, Resident)
        split = train.split.select("val", np.arange(evaluated))
        store = replace(train, split=split, pixels_NHWC=train.pixels_NHWC[:evaluated])
        # As the trainer has it when it evaluates.
        student = parts.student.to(memory_format=torch.channels_last)
        calls = {
            "step": our_step(config, folder / "run"),
            "evaluation": lambda: logits_of(student, store, CPU),
        }
        seconds = medians(calls, rounds, warmup=BATCHES)
    return {
        "evaluating 10,000 images": seconds["evaluation"] * TEST_IMAGES / evaluated,
        "cached epoch of 50,000 images": seconds["step"] * (EPOCH_IMAGES // config.train.batch_size),
    }


def start(rounds: int, image_count: int = EPOCH_IMAGES) -> dict[str, dict[str, float]]:
    """Median seconds from the command to its first step, of the demo's digits and of 50,000 images of noise.

    Each is a first run: CLIP's class embeddings are not there yet, and nothing is cached. The digits' run
    goes to its end, after one epoch and the evaluation of 1,597 images.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        digits = write_digits(folder / "digits", size=demo.SIZE, train_per_class=demo.LABELS)
        small = (
            demo.SETTINGS
            | write_teacher(folder / "digits.safetensors", 10, demo.TEACHER)
            | {
                "data.path": str(digits),
                "student.name": demo.STUDENT,
                "clip.name": f"local-dir:{demo.TINY_CLIP}",
                "train.epochs": 1,
            }
        )
        config = cached_config(folder / "noise", ROWS.classes, image_count)
        large = COMMON | {
            "data.path": config.data.path,
            "teachers.1.name": config.teachers[0].name,
            "teachers.1.weights": str(config.teachers[0].weights),
            "clip.name": config.clip.name if config.clip else "",
            "fusion.preset": "paper",
            "train.epochs": 1,
        }
        runs = {"digits": (small, "whole"), f"{image_count:,} images": (large, "once")}
        figures: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
        for number in range(rounds):
            for name, (settings, extent) in runs.items():
                out = folder / f"run-{name}-{number}"
                paths = {"out": str(out), "clip.cache": str(out / "cache")}
                for mark, seconds in _marks(settings | paths, folder / "marks.json", extent).items():
                    figures[name].setdefault(mark, []).append(seconds)
    return {
        name: {mark: median(seconds) for mark, seconds in marks.items()} for name, marks in figures.items()
    }


def _marks(settings: dict[str, object], file: Path, extent: str) -> dict[str, float]:
    options = [f"--{name}={_plain(value)}" for name, value in settings.items()]
    script = Path(__file__).with_name("first_step.py")
    began = time.time()
    subprocess.run(
        [sys.executable, str(script), str(began), str(file), extent, *options],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    marks: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return marks | ({"run is over": time.time() - began} if extent == "whole" else {})


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | list) else str(value)
