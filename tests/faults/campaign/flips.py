"""Flipped bits in every kind of file that richkd writes and reads again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from richkd.config.loading import load_config
from richkd.config.schema import Config, ModelConfig
from richkd.core.errors import RichKDError
from richkd.data.contents import Contents
from richkd.export.student import load_student
from richkd.models.build import build_network
from richkd.reporting.report.run_facts import read_run
from richkd.teachers.cache.manifest import Manifest, read_manifest, readable_manifests
from richkd.teachers.cache.store import OutputCache
from richkd.teachers.clip.embedding_cache import embeddings_path, read_embeddings, write_embeddings
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from richkd.training.run_folder import RunFolder, read_lines
from tests.faults.campaign.outcome import REFUSED, SILENT, SURVIVED, Outcome
from tests.faults.campaign.setting import Setting
from tests.fixtures import SIZE, World, flip_bit

FLIPS = 10_000
# Files that are not read again: what a page shows of a run is in the other files.
UNREAD = ("events", "README.md", ".lock")
# Headers and texts are short, so half of the bits are in these first bytes.
START = 2000
KEY = "0" * 64


@dataclass(frozen=True)
class Finished:
    """A finished run with streamed images and a teacher cache."""

    config: Config
    folder: Path
    cache: Path
    manifests: tuple[Manifest, ...]
    embeddings: Path


def flip_bits(setting: Setting, share: float = 1.0) -> list[Outcome]:
    """Flip bits in all files of a finished run, its student, its teacher cache and the class embeddings."""
    finished = make_finished(setting.world, setting.root / "flips")
    files = files_of(finished)
    return [flip(finished, max(1, -(-round(share * FLIPS) // len(files))))]


def make_finished(world: World, folder: Path) -> Finished:
    """Make a run with streamed images and a teacher cache."""
    teacher = shutil.copytree(world.teacher, folder / "teacher")
    changes = {"cache__dir": folder / "cache", "data__in_memory_gb": 0.0, "train__epochs": 2}
    changes |= {"teachers__1__name": f"local-dir:{teacher}", "data__size": SIZE}
    config = world.config(folder / "run", **changes)
    distill(config, quiet=True)
    embeddings = embeddings_path(folder / "embeddings", KEY)
    write_embeddings(embeddings, KEY, torch.randn(3, 4), clip="a", class_names=["ant", "bee", "cat"])
    manifests = tuple(readable_manifests(folder / "cache"))
    return Finished(config, folder / "run", folder / "cache", manifests, embeddings)


def files_of(finished: Finished) -> list[Path]:
    """All files that are read again."""
    roots = (finished.folder, finished.cache, finished.embeddings.parent)
    return [file for root in roots for file in sorted(root.rglob("*")) if is_read(file)]


def flip(finished: Finished, per_file: int, seed: int = 7) -> Outcome:
    """Flip ``per_file`` bits of every file, one at a time, and read everything that uses the file."""
    outcome, draw, reading = Outcome("a flipped bit"), random.Random(seed), readers(finished)
    expected = {name: read() for name, read in reading.items()}
    for path in files_of(finished):
        original = path.read_bytes()
        for number in range(per_file):
            end = min(len(original), START) if number % 2 else len(original)
            bit = draw.randrange(8 * end)
            flip_bit(path, bit)
            outcome.add(*_effect(path, bit, reading, expected))
            path.write_bytes(original)
    outcome.note = f"{len(files_of(finished))} files"
    return outcome


def _effect(
    path: Path, bit: int, reading: dict[str, Callable[[], list[Any]]], expected: dict[str, list[Any]]
) -> tuple[str, str]:
    results = set()
    for name in relevant(path, reading):
        try:
            same_now = all(same(a, b) for a, b in zip(expected[name], reading[name](), strict=True))
            results.add(SURVIVED if same_now else SILENT)
        except RichKDError:
            results.add(REFUSED)
    result = next((kind for kind in (SILENT, REFUSED) if kind in results), SURVIVED)
    return result, f"{path}, bit {bit}"


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
        opened = OutputCache(finished.cache, manifest, repair=False)
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


def class_embeddings(finished: Finished) -> list[Any]:
    stored_CD = read_embeddings(finished.embeddings, KEY, (3, 4))
    if stored_CD is None:
        raise RichKDError("they are computed again")
    return [stored_CD]


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
        "report": lambda: [replace(read_run(run), name="", folder="")],
        "summary": lambda: [RunFolder(run).summary()],
        "settings": lambda: [load_config(run / "config.yaml")],
        "resumed": partial(resumed, finished),
        "cache": partial(cache, finished),
        "image hashes": partial(image_hashes, finished),
        "class embeddings": partial(class_embeddings, finished),
        **checkpoints,
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and a and isinstance(next(iter(a.values())), Tensor):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


def is_read(path: Path) -> bool:
    return path.is_file() and not any(part.endswith(UNREAD) for part in path.parts)


def relevant(path: Path, reading: dict[str, Any]) -> list[str]:
    """The readers of a file, by its folder: reading everything for every bit would take minutes."""
    if path.name == "image-hashes.safetensors":
        return ["image hashes"]
    if path.name == "student.json":
        return ["student of a checkpoint"]
    if path.parent.name == "embeddings":
        return ["class embeddings"]
    if path.suffix == ".ckpt":
        return [name for name in reading if name.startswith("checkpoint")]
    if path.parent.name == "student":
        return ["student", "student as teacher"]
    if path.parent.name == "run":
        return ["report", "summary", "settings", "resumed"]
    return ["cache"]
