"""``richkd cache``: fill caches ahead of a run, verify what is stored, and list what there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor

from richkd.config.schema import Config
from richkd.core.errors import CacheError
from richkd.core.interrupt import Interrupted, StopRequest, stop_request
from richkd.core.progress import Progress
from richkd.core.types import Output
from richkd.data.augmentations import Clean
from richkd.data.batches import in_order
from richkd.data.views import Views
from richkd.methods.objective import method_label
from richkd.pipeline.assemble import Parts, assemble
from richkd.teachers.cache.cached import CachedTeacher
from richkd.teachers.cache.store import Manifest, OutputCache, list_caches, read_manifest, shard_problem
from richkd.teachers.precomputed.vision import ImportedTeacher
from richkd.teachers.predict import BATCH

Drawn = Callable[[Tensor], Views]


def fill_caches(config: Config, *, quiet: bool = False) -> None:
    """Compute and store what a run with these settings will ask its teachers, epoch by epoch.

    Walks through the run's own batches, so that a run of the same seed afterwards computes nothing and
    has, to the bit, the targets of a run without a cache. Stored outputs are passed over, so a filling
    that was stopped goes on where it was. Processes started together share the batches among them.

    Raises:
        RichKDError: as training would; no cache folder, or no teacher that can be stored.
        Interrupted: a signal stopped the filling; what was computed is stored.
    """
    process = PartialState()
    progress = Progress(quiet=quiet or not process.is_main_process)
    parts = _assemble_with_caches(config, process.device, progress)
    share = slice(process.process_index, None, process.num_processes)
    seed, epochs = config.train.seed, config.train.epochs
    order = parts.order()
    with stop_request() as stop, progress:
        try:
            for epoch in range(epochs):
                drawn = partial(parts.augmentation.draw, seed, epoch)
                groups = order.epoch(epoch)[share]
                wanted = _lacking(parts, "train", groups, drawn)
                progress.start_epoch(epoch, epochs, len(groups), len(groups) - len(wanted))
                for images in _computed(parts, "train", wanted, drawn, stop):
                    progress.advance(images, {})
                progress.end_epoch({})
            for name in parts.stores.keys() - {"train"}:
                store = parts.stores[name]
                drawn = partial(Clean(store.size).draw, seed, 0)
                wanted = _lacking(parts, name, in_order(len(store.split), BATCH)[share], drawn)
                progress.log(f"{name}: {sum(_computed(parts, name, wanted, drawn, stop)):,} images")
        finally:
            parts.flush_caches()


@dataclass(frozen=True)
class Verified:
    """A sample of stored outputs beside the same outputs computed now."""

    cache: OutputCache
    images: int
    largest: float
    agreement: float


def verify_caches(config: Config, *, sample: int = 256, quiet: bool = False) -> list[Verified]:
    """Compute a sample of each cache's outputs again, and compare.

    ``largest`` is the largest absolute difference of a stored number, ``agreement`` the share of
    outputs with the same largest logit (of the same largest feature, where only features are stored).
    Imported outputs cannot be computed, and are passed over.

    Raises:
        RichKDError: as training would; no cache folder, or no teacher that can be stored.
    """
    parts = _assemble_with_caches(
        config, PartialState().device, Progress(quiet=quiet), (CachedTeacher, ImportedTeacher)
    )
    verified = []
    for teacher in parts.teachers:
        if isinstance(teacher, CachedTeacher):
            for (split, augmentation), cache in teacher.caches.items():
                index_N, number_N = cache.sample(sample)
                stored, now = [], []
                for number in sorted(set(number_N.tolist())):
                    at_N = number_N == number
                    for batch in parts.stores[split].batches([index_N[at_N]]):
                        batch = batch.to(parts.device)
                        views = augmentation.view(config.train.seed, number, batch.index_B)
                        now.append(
                            cache.format.unpack(cache.format.pack(teacher.teacher.outputs(batch, views)))
                        )
                    stored.append(cache.read(cache.find(index_N[at_N], number_N[at_N])))
                if stored:
                    verified.append(_compared(cache, _numbers(stored), _numbers(now)))
    return verified


def damaged_shards(folder: Path) -> list[str]:
    """What is wrong with the shards of a cache, by file; nothing is changed.

    Raises:
        CacheError: the cache's manifest cannot be read.
    """
    manifest = read_manifest(folder)
    problems = {path: shard_problem(path, manifest) for path in sorted(folder.glob("*.safetensors"))}
    return [f"{path.name}: {problem}" for path, problem in problems.items() if problem]


def contents(root: Path) -> list[tuple[Manifest, OutputCache]]:
    """Every cache under a folder.

    Raises:
        CacheError: there is none.
    """
    folders = list_caches(root)
    if not folders:
        raise CacheError(
            f"There are no caches in {root}", fix="fill one with `richkd cache fill … --teacher-cache DIR`."
        )
    return [(manifest, OutputCache(root, manifest, mend=False)) for manifest in map(read_manifest, folders)]


def _assemble_with_caches(
    config: Config,
    device: torch.device,
    progress: Progress,
    kinds: tuple[type, ...] = (CachedTeacher,),
) -> Parts:
    """The parts of a run, refused where no teacher is one of ``kinds``."""
    if config.cache.dir is None:
        raise CacheError("The cache's folder must be named", got="none", fix="add --teacher-cache DIR.")
    parts = assemble(config, device, progress.log)
    if not any(isinstance(teacher, kinds) for teacher in parts.teachers):
        raise CacheError(
            f"Method {method_label(config)} must have a teacher that can be stored",
            got=", ".join(teacher.name for teacher in parts.teachers) or "no teacher",
            fix="outputs that were computed elsewhere are stored already; ce has no teacher.",
        )
    return parts


def _lacking(parts: Parts, split: str, groups: list[Tensor], drawn: Drawn) -> list[Tensor]:
    """The groups of images of which any teacher lacks a view."""
    cached = [teacher for teacher in parts.teachers if isinstance(teacher, CachedTeacher)]
    return [
        index_B
        for index_B in groups
        if any(teacher.lacks(split, index_B, drawn(index_B)) for teacher in cached)
    ]


def _computed(
    parts: Parts, split: str, groups: list[Tensor], drawn: Drawn, stop: StopRequest
) -> Iterator[int]:
    """Put each group through the teachers, which store what is new; yields its number of images."""
    for batch in parts.stores[split].batches(groups):
        batch = batch.to(parts.device)
        for teacher in parts.teachers:
            teacher.outputs(batch, drawn(batch.index_B))
        yield len(batch.labels_B)
        if stop.requested:
            raise Interrupted


def _numbers(outputs: list[Output]) -> Tensor:
    """Logits, or features where there are no logits."""
    logits_NC = torch.cat([output.logits_BC for output in outputs])
    return logits_NC if logits_NC.shape[1] else torch.cat([output.feats_BF for output in outputs])


def _compared(cache: OutputCache, stored_NX: Tensor, now_NX: Tensor) -> Verified:
    same = (stored_NX.argmax(dim=1) == now_NX.argmax(dim=1)).double().mean()
    return Verified(cache, len(stored_NX), float((stored_NX - now_NX).abs().max()), float(same))
