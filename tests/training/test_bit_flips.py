"""No flipped bit of a stored file changes a number silently: it is refused, recomputed, or without effect."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from richkd.config.loading import load_config
from richkd.config.schema import Config, ModelConfig
from richkd.core.errors import RichKDError
from richkd.data.contents import Contents
from richkd.export.student import load_student
from richkd.models.build import build_network
from richkd.reporting.report.collect import read_run
from richkd.teachers.cache.store import Manifest, OutputCache, read_manifest, readable_manifests
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from richkd.training.run_folder import RunFolder, read_lines
from tests.fixtures import SIZE, World, flip_bit

# Flipped bits of each file; headers and texts are short, so half of them are in the first 2,000 bytes.
FLIPS = 16
# Files that are not read again: what a page shows of a run is in the other files.
UNREAD = ("events", "README.md", ".lock")


@dataclass(frozen=True)
class Finished:
    """A finished run with streamed images and a teacher cache."""

    config: Config
    folder: Path
    cache: Path
    manifests: tuple[Manifest, ...]


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    teacher = shutil.copytree(world.teacher, folder / "teacher")
    changes = {"cache__dir": folder / "cache", "data__in_memory_gb": 0.0, "train__epochs": 2}
    changes |= {"teachers__1__name": f"local-dir:{teacher}", "data__size": SIZE}
    config = world.config(folder / "run", **changes)
    distill(config, quiet=True)
    return Finished(config, folder / "run", folder / "cache", tuple(readable_manifests(folder / "cache")))


def student(load: Callable[[Path], Any], folder: Path) -> list[Any]:
    loaded = load(folder)
    network = getattr(loaded, "network", loaded)
    with torch.no_grad():
        output = network.eval()(torch.linspace(-1, 1, 3 * SIZE * SIZE).view(1, 3, SIZE, SIZE))
    named = [
        loaded.class_names,
        getattr(loaded, "temperature", None),
        network.framing,
        network.mean,
        network.std,
    ]
    return [output.logits_BC, *named]


def as_teacher(folder: Path) -> Any:
    return build_network(ModelConfig(name=f"local-dir:{folder}"), 3, role="teacher")


def resumed(finished: Finished) -> list[Any]:
    folder = RunFolder(finished.folder)
    folder.accept(finished.config, resume=True, overwrite=False)
    return [folder.speeds(), folder.inputs(), read_lines(folder.metrics), read_lines(folder.timing)]


def checkpoint(path: Path) -> list[Any]:
    loaded, warning = load_checkpoint(path)
    if warning:
        raise RichKDError(warning)
    return [loaded.tensors, loaded.scalars]


def cache(finished: Finished) -> list[Any]:
    read: list[Any] = []
    for manifest in finished.manifests:
        opened = OutputCache(finished.cache, manifest, mend=False)
        if opened.damaged:
            raise RichKDError(opened.damaged[0])
        output = opened.read(opened.find(*opened.sample(1000)))
        read += [read_manifest(opened.folder), output.logits_BC, output.feats_BF]
    return read


def image_hashes(finished: Finished) -> list[Any]:
    lines: list[str] = []
    contents = Contents(finished.cache, lines.append)
    with contents.kept():
        if lines:
            raise RichKDError(lines[0])
        return [torch.from_numpy(contents._digests_N32), torch.from_numpy(contents._stamps_N4)]


def readers(finished: Finished) -> dict[str, Callable[[], list[Any]]]:
    run = finished.folder
    checkpoints = {
        f"checkpoint {path.name}": partial(checkpoint, path)
        for path in sorted((run / "checkpoints").glob("*.ckpt"))
        if "previous" not in path.name
    }
    return {
        "student": partial(student, load_student, run),
        "student as teacher": partial(student, as_teacher, run / "student"),
        "student of a checkpoint": partial(student, partial(load_student, checkpoint="last"), run),
        "report": lambda: [replace(read_run(run), name="")],
        "summary": lambda: [RunFolder(run).summary()],
        "settings": lambda: [load_config(run / "config.yaml")],
        "resumed": partial(resumed, finished),
        "cache": partial(cache, finished),
        "image hashes": partial(image_hashes, finished),
        **checkpoints,
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and a and isinstance(next(iter(a.values())), Tensor):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def is_read(path: Path) -> bool:
    return path.is_file() and not any(part.endswith(UNREAD) for part in path.parts)


def test_no_flipped_bit_is_silent(finished: Finished) -> None:
    reading = readers(finished)
    expected = {name: read() for name, read in reading.items()}
    files = [f for root in (finished.folder, finished.cache) for f in sorted(root.rglob("*")) if is_read(f)]
    assert {"SHA256SUMS", "config.yaml", "speed.json", "inputs.json", "metrics.jsonl"} <= {
        f.name for f in files
    }
    draw, silent, flips, refused = random.Random(7), [], 0, 0
    for path in files:
        original = path.read_bytes()
        for number in range(FLIPS):
            end = min(len(original), 2000) if number % 2 else len(original)
            bit = draw.randrange(8 * end)
            flip_bit(path, bit)
            flips += 1
            outcomes = set()
            for name in relevant(path, reading):
                try:
                    read = reading[name]()
                    right = all(same(a, b) for a, b in zip(expected[name], read, strict=True))
                    outcomes.add("same" if right else "silent")
                except RichKDError:
                    outcomes.add("refused")
            refused += "refused" in outcomes
            if "silent" in outcomes:
                silent.append((path, bit))
            path.write_bytes(original)
    assert not silent
    assert flips > 250
    # Only bits of a previous checkpoint, and of the first line of SHA256SUMS, have no effect.
    assert refused > 0.8 * flips


def relevant(path: Path, reading: dict[str, Any]) -> list[str]:
    """The readers of a file, by its folder: reading everything for every bit would take minutes."""
    if path.name == "image-hashes.safetensors":
        return ["image hashes"]
    if path.name == "student.json":
        return ["student of a checkpoint"]
    if path.suffix == ".ckpt":
        return [name for name in reading if name.startswith("checkpoint")]
    if path.parent.name == "student":
        return ["student", "student as teacher"]
    if path.parent.name == "run":
        return ["report", "summary", "settings", "resumed"]
    return ["cache"]
