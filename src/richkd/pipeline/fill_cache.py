"""``richkd cache``: fill the teacher cache before a run, verify stored outputs, and list caches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from richkd.config.schema import Config
from richkd.core.device import pick_device
from richkd.core.errors import CacheError
from richkd.core.interrupt import Interrupted, StopRequest, catch_stop_signals
from richkd.core.launch import join, together
from richkd.core.processes import rank, world
from richkd.core.progress import Progress
from richkd.core.types import Batch, Output
from richkd.core.visible import counted
from richkd.core.waiting import waiting
from richkd.data.batches import Store
from richkd.data.order import in_order
from richkd.data.views import Views
from richkd.methods.objective import method_label
from richkd.models.sharded import in_step
from richkd.pipeline.assemble import Parts, assemble
from richkd.teachers.base import Teacher
from richkd.teachers.cache.manifest import Manifest, list_caches, read_manifest
from richkd.teachers.cache.store import OutputCache, shard_problem
from richkd.teachers.predict import BATCH

Drawn = Callable[[Tensor], Views]

STORED = "all outputs are stored"


def fill_caches(config: Config, *, quiet: bool = False) -> None:
    """Compute and store all teacher outputs that a run with these settings needs, epoch by epoch.

    The batches are those of the run. So a later run with the same seed computes no teacher outputs, and its
    targets are bit-identical to those without a cache. Stored outputs are skipped, so an interrupted call
    can be repeated. If several processes are started together, each computes a part of the batches.

    Args:
        config: the settings of the run, with ``cache.dir``.
        quiet: print nothing.

    Raises:
        RichKDError: see `distill`; or there is no cache folder, or no teacher whose outputs can be cached.
        Interrupted: a signal stopped the call; computed outputs are stored.
    """
    device = join(config.train.device, config.train.process_timeout)
    progress = Progress(quiet=quiet or rank() > 0)
    with together():
        parts = _assemble_with_cache_dir(config, device, progress)
    if not any(teacher.caches for teacher in parts.teachers):
        raise CacheError(
            f"Method {method_label(config)} must have a teacher whose outputs can be stored",
            got=", ".join(teacher.name for teacher in parts.teachers) or "no teacher",
            fix="add --teacher NAME or --clip NAME; outputs that were computed elsewhere are already stored.",
        )
    share = slice(rank(), None, world())
    seed, epochs = config.train.seed, config.train.epochs
    order = parts.order()
    with catch_stop_signals() as stop, progress:
        try:
            for epoch in range(epochs):
                drawn = partial(parts.augmentation.draw, seed, epoch)
                groups = order.epoch(epoch)[share]
                missing = _missing(parts.teachers, "train", groups, drawn)
                progress.start_epoch(epoch, epochs, len(groups), len(groups) - len(missing))
                batches = parts.training_batches(epoch, missing)
                with in_step():
                    for images in _compute(parts.teachers, batches, drawn, parts.device, stop):
                        progress.advance(images, {})
                if missing:
                    progress.end_epoch({})
                else:
                    progress.log(f"epoch {epoch + 1}/{epochs}  {STORED}")
            for name in parts.stores.names:
                if name != "train":
                    images = _fill_clean(parts, name, share, stop)
                    here = " in this process" * (world() > 1)
                    progress.log(f"{name}: {counted(images, 'image') + here if images else STORED}")
        finally:
            parts.flush_caches()


@dataclass(frozen=True)
class Verified:
    """Comparison of a sample of stored outputs with the same outputs computed again.

    Attributes:
        cache: the cache.
        images: number of compared outputs.
        largest: largest absolute difference of a logit (of a feature, if the cache has no logits).
        agreement: fraction of outputs with the same arg-max.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.row_format import RowFormat
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache = OutputCache(root, Manifest("net-train", {}, 9, 1, RowFormat(2, 0)))
        ...     Verified(cache, images=9, largest=0.001, agreement=1.0).agreement
        1.0
    """

    cache: OutputCache
    images: int
    largest: float
    agreement: float


def verify_caches(config: Config, *, sample: int = 256, quiet: bool = False) -> list[Verified]:
    """Compute a sample of the outputs of each cache again, and compare them with the stored ones.

    Imported outputs cannot be computed again and are skipped, so the result can be empty.

    Args:
        config: the settings of the run, with ``cache.dir``.
        sample: largest number of outputs per cache.
        quiet: print nothing.

    Raises:
        RichKDError: see `distill`; or there is no cache folder.
    """
    parts = _assemble_with_cache_dir(config, pick_device(config.train.device), Progress(quiet=quiet))
    seed = config.train.seed
    verified = []
    for teacher in itertools.chain.from_iterable(teacher.members for teacher in parts.teachers):
        for (split, augmentation), cache in teacher.caches.items():
            index_N, number_N = cache.sample(sample)
            stored, computed = [], []
            for number in sorted(set(number_N.tolist())):
                at_N = number_N == number
                views = augmentation.view(seed, number, index_N[at_N])
                for batch in _store_of(parts, teacher, split).batches([index_N[at_N]], [views]):
                    output = teacher.uncached.outputs(batch.to(parts.device), views)
                    computed.append(cache.format.restored(output))
                stored.append(cache.read(cache.find(index_N[at_N], number_N[at_N])))
            if stored:
                verified.append(_compare(cache, _values(stored), _values(computed)))
    return verified


def damaged_shards(folder: str | Path) -> list[str]:
    """Check all shards of a cache; no file is changed.

    Returns:
        File name and problem of each damaged shard.

    Raises:
        CacheError: the manifest of the cache cannot be read.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.row_format import RowFormat
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache = OutputCache(root, Manifest("net-train", {}, 9, 1, RowFormat(2, 0)))
        ...     size = (cache.folder / "0.safetensors").write_bytes(b"")
        ...     damaged_shards(cache.folder)
        ['0.safetensors: has a name that is not the SHA-256 of its content']
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    problems = {path: shard_problem(path, manifest) for path in sorted(folder.glob("*.safetensors"))}
    return [f"{path.name}: {problem}" for path, problem in problems.items() if problem]


def open_caches(root: str | Path) -> list[tuple[Manifest, OutputCache]]:
    """Open all caches in a folder; no file is changed.

    Raises:
        CacheError: there is no cache.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.row_format import RowFormat
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache = OutputCache(root, Manifest("net-train", {}, 9, 1, RowFormat(2, 0)))
        ...     [(manifest.name, len(opened)) for manifest, opened in open_caches(root)]
        [('net-train', 0)]
    """
    folders = list_caches(root)
    if not folders:
        raise CacheError(
            f"There are no caches in {root}", fix="fill one: `richkd cache fill … --teacher-cache DIR`."
        )
    return [
        (manifest, OutputCache(root, manifest, repair=False, used=False))
        for manifest in map(read_manifest, folders)
    ]


def _assemble_with_cache_dir(config: Config, device: torch.device, progress: Progress) -> Parts:
    if config.cache.dir is None:
        raise CacheError("cache.dir must be set", got="no folder", fix="add --teacher-cache DIR.")
    return assemble(config, device, progress.log, speeds={})


def _store_of(parts: Parts, teacher: Teacher, split: str) -> Store:
    """The images that the cached outputs of a teacher belong to."""
    if split == "train":
        assert parts.stores.training is not None
        return parts.stores.training
    return parts.stores.clean(split, teacher.framing)


def _fill_clean(parts: Parts, split: str, share: slice, stop: StopRequest) -> int:
    """Store the missing outputs of all teachers for a held-out split; returns the number of images."""
    groups = in_order(len(parts.stores.splits[split]), BATCH)[share]
    most = 0
    for teacher in parts.teachers:
        store = parts.stores.clean(split, teacher.framing)
        drawn = partial(store.clean.draw, parts.config.train.seed, 0)
        missing = _missing([teacher], split, groups, drawn)
        batches = store.batches(missing)
        counts = _compute([teacher], batches, drawn, parts.device, stop)
        what = f"outputs of {teacher.role} {teacher.name} for {split}"
        with in_step():
            most = max(most, sum(waiting(what, counts, sum(map(len, missing)), count=int)))
    return most


def _missing(teachers: Sequence[Teacher], split: str, groups: list[Tensor], drawn: Drawn) -> list[Tensor]:
    """The groups that contain an image whose output is not stored for every teacher."""
    return [
        index_B
        for index_B in groups
        if any(teacher.lacks(split, index_B, drawn(index_B)) for teacher in teachers)
    ]


def _compute(
    teachers: Sequence[Teacher],
    batches: Iterable[Batch],
    drawn: Drawn,
    device: torch.device,
    stop: StopRequest,
) -> Iterator[int]:
    """Compute the outputs of each batch, which stores new ones; yields the number of images of the batch."""
    for batch in batches:
        batch = batch.to(device)
        for teacher in teachers:
            teacher.outputs(batch, drawn(batch.index_B))
        yield len(batch.labels_B)
        if stop.requested:
            raise Interrupted


def _values(outputs: list[Output]) -> Tensor:
    """The logits, or the features if there are no logits."""
    logits_NC = torch.cat([output.logits_BC for output in outputs])
    return logits_NC if logits_NC.shape[1] else torch.cat([output.feats_BF for output in outputs])


def _compare(cache: OutputCache, stored_NX: Tensor, computed_NX: Tensor) -> Verified:
    agreement = (stored_NX.argmax(dim=1) == computed_NX.argmax(dim=1)).double().mean()
    return Verified(cache, len(stored_NX), float((stored_NX - computed_NX).abs().max()), float(agreement))
