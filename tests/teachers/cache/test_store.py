"""Caches on disk: reading by image and view; kills, full disks, several writers and flipped bits."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from richkd.core.errors import CacheError, CheckpointError
from richkd.core.lock import FileLock
from richkd.core.lock_owners import Locked
from richkd.core.types import Output
from richkd.teachers.cache import store as cache_module
from richkd.teachers.cache.manifest import (
    MANIFEST,
    Manifest,
    explain_miss,
    list_caches,
    read_manifest,
    readable_manifests,
)
from richkd.teachers.cache.removal import remove_cache
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.cache.store import OutputCache, lock_of, shard_problem
from tests.fixtures import flip_bit, refusal

IMAGES, VIEWS = 20, 6
MANIFEST_OF = Manifest("net-train", {"weights": "abc", "views": [1, 2]}, IMAGES, VIEWS, RowFormat(5, 3))


def output_of(index: Tensor, number: Tensor) -> Output:
    """An output that tells image and view apart, in numbers that float16 holds."""
    base = (index * VIEWS + number).float()[:, None]
    return Output(base + torch.arange(5), -base.expand(-1, 3))


def everything() -> tuple[Tensor, Tensor]:
    pairs = torch.cartesian_prod(torch.arange(IMAGES), torch.arange(VIEWS))
    pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))]
    return pairs[:, 0], pairs[:, 1]


def fill(cache: OutputCache, index: Tensor, number: Tensor, batch: int = 7) -> None:
    for i, n in zip(index.split(batch), number.split(batch), strict=True):
        cache.add(i, n, output_of(i, n))


def assert_holds(cache: OutputCache, index: Tensor, number: Tensor) -> None:
    read, expected = cache.read(cache.find(index, number)), output_of(index, number)
    assert torch.equal(read.logits_BC, expected.logits_BC)
    assert torch.equal(read.feats_BF, expected.feats_BF)


def test_what_was_added_is_read_before_and_after_it_is_written(tmp_path: Path) -> None:
    index, number = everything()
    cache = OutputCache(tmp_path, MANIFEST_OF)
    assert (cache.find(index, number) == -1).all()
    fill(cache, index[:50], number[:50])
    assert_holds(cache, index[:50], number[:50])
    cache.flush()
    assert_holds(cache, index[:50], number[:50])
    fill(cache, index[50:], number[50:])
    cache.flush()
    assert_holds(cache, index, number)
    again = OutputCache(tmp_path, MANIFEST_OF)
    assert len(again) == len(cache) == IMAGES * VIEWS
    assert_holds(again, index.flip(0), number.flip(0))


def test_shards_are_written_when_they_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SHARD_BYTES", 16 * 20)
    index, number = everything()
    cache = OutputCache(tmp_path, MANIFEST_OF)
    fill(cache, index, number)
    assert len(list(cache.folder.glob("*.safetensors"))) == 120 // 21
    assert_holds(cache, index, number)


def test_an_output_costs_two_bytes_a_number_and_eight_for_its_key(tmp_path: Path) -> None:
    manifest = replace(MANIFEST_OF, images=5000, views=1, row_format=RowFormat(100, 64))
    cache = OutputCache(tmp_path, manifest)
    cache.add(torch.arange(5000), torch.zeros(5000), Output(torch.randn(5000, 100), torch.randn(5000, 64)))
    cache.flush()
    assert cache.bytes_on_disk / 5000 <= 2 * (100 + 64) + 8 + 0.1


def test_flushing_nothing_writes_nothing(tmp_path: Path) -> None:
    cache = OutputCache(tmp_path, MANIFEST_OF)
    cache.flush()
    assert [path.name for path in cache.folder.iterdir()] == [MANIFEST]


def test_two_writers_of_one_cache_leave_one_valid_cache(tmp_path: Path) -> None:
    index, number = everything()
    a, b = OutputCache(tmp_path, MANIFEST_OF), OutputCache(tmp_path, MANIFEST_OF)
    fill(a, index[:80], number[:80])
    fill(b, index[40:], number[40:])
    a.flush()
    b.flush()
    both = OutputCache(tmp_path, MANIFEST_OF)
    assert len(both) == IMAGES * VIEWS
    assert_holds(both, index, number)


def test_two_processes_with_the_same_rows_write_the_same_file(tmp_path: Path) -> None:
    index, number = everything()
    for _ in range(2):
        cache = OutputCache(tmp_path, MANIFEST_OF)
        cache._row_P.fill_(-1)
        fill(cache, index, number)
        cache.flush()
    assert len(list(cache.folder.glob("*.safetensors"))) == 1


WRITER = """
import sys, torch
from pathlib import Path
from tests.teachers.cache.test_store import *
cache_module.SHARD_BYTES = 64
cache = OutputCache(Path(sys.argv[1]), MANIFEST_OF)
index, number = everything()
fill(cache, index[:4], number[:4])
print("ready", flush=True)
while True:
    fill(cache, index, number, batch=2)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_valid_cache(tmp_path: Path) -> None:
    for wait in (0.01, 0.05, 0.15):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        cache = OutputCache(tmp_path, MANIFEST_OF)
        assert not cache.damaged
        index, number = everything()
        there = cache.find(index, number) >= 0
        assert there.any()
        assert_holds(cache, index[there], number[there])


def other_writer(root: Path, script: str = WRITER) -> subprocess.Popen[bytes]:
    """A process that fills the cache in ``root`` until it is killed; its first rows are added."""
    words = [sys.executable, "-c", script, str(root)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.slow
def test_two_processes_that_write_at_the_same_time_leave_one_valid_cache(tmp_path: Path) -> None:
    index, number = everything()
    writers = [other_writer(tmp_path) for _ in range(2)]
    try:
        # Opening mends a cache, which must not take anything from those who write.
        for _ in range(20):
            cache = OutputCache(tmp_path, MANIFEST_OF)
            assert not cache.damaged
            there = cache.find(index, number) >= 0
            assert_holds(cache, index[there], number[there])
            fill(cache, index[:8], number[:8])
            cache.flush()
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    cache = OutputCache(tmp_path, MANIFEST_OF)
    assert not cache.damaged
    assert (cache.find(index[:8], number[:8]) >= 0).all()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_a_cache_in_use_is_not_removed(tmp_path: Path) -> None:
    writer = other_writer(tmp_path)
    try:
        (folder,) = list_caches(tmp_path)
        error = refusal(remove_cache, tmp_path, folder.name)
        assert isinstance(error, CacheError)
        assert f"process {writer.pid} on" in str(error.got)
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()
    remove_cache(tmp_path, folder.name)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_no_longer_used_can_be_removed_by_others(tmp_path: Path) -> None:
    cache = OutputCache(tmp_path, MANIFEST_OF)
    lock = FileLock(lock_of(cache.folder))
    with pytest.raises(Locked):
        lock.acquire()
    # Listing is no use.
    again = OutputCache(tmp_path, MANIFEST_OF, repair=False, used=False)
    del cache
    gc.collect()
    with lock:
        # While it is being removed, nobody may open it.
        error = refusal(OutputCache, tmp_path, MANIFEST_OF)
        assert isinstance(error, CacheError)
        assert "in removal" in error.rule
    assert len(again) == 0


KILLED = """
import shutil
import time
from pathlib import Path
from tests.teachers.cache.test_store import *
cache = OutputCache(Path(sys.argv[1]), MANIFEST_OF)
index, number = everything()
fill(cache, index[:4], number[:4])
def wait(*args):
    print("ready", flush=True)
    time.sleep(60)
if sys.argv[2] == "flush":
    Path.replace = wait
    cache.flush()
else:
    shutil.rmtree = wait
    remove_cache(sys.argv[1], cache.folder.name)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["flush", "remove"])
def test_what_a_killed_process_leaves_is_removed_when_the_cache_is_opened(tmp_path: Path, stage: str) -> None:
    words = [sys.executable, "-c", KILLED, str(tmp_path), stage]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(list(tmp_path.rglob("*.tmp"))) == 1
        process.kill()
    cache = OutputCache(tmp_path, MANIFEST_OF)
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(cache) == 0
    assert [path.name for path in cache.folder.iterdir()] == [MANIFEST]


def test_a_cache_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, number = everything()
    cache = OutputCache(tmp_path, MANIFEST_OF)
    fill(cache, index, number)
    cache.flush()
    lock_of(cache.folder).unlink()

    def refuse(path: Path, flags: int, mode: int = 0) -> int:
        raise PermissionError(13, "Permission denied")

    def refuse_writing(path: Path, flags: int, mode: int = 0) -> int:
        return refuse(path, flags) if flags & os.O_CREAT else opened(path, flags, mode)

    opened = os.open
    monkeypatch.setattr("richkd.core.lock.os.open", refuse_writing)
    assert_holds(OutputCache(tmp_path, MANIFEST_OF), index, number)


def test_a_flipped_bit_is_found_removed_and_told(tmp_path: Path) -> None:
    index, number = everything()
    cache = OutputCache(tmp_path, MANIFEST_OF)
    for half in (slice(0, 60), slice(60, 120)):
        fill(cache, index[half], number[half])
        cache.flush()
    damaged = sorted(cache.folder.glob("*.safetensors"))[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    again = OutputCache(tmp_path, MANIFEST_OF)
    assert len(again) == 60
    assert len(again.damaged) == 1
    assert damaged.name[:12] in again.damaged[0]
    assert not damaged.exists()
    missing = again.find(index, number) < 0
    fill(again, index[missing], number[missing])
    assert_holds(again, index, number)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"nonsense"])
def test_what_is_no_shard_is_not_used(tmp_path: Path, content: bytes) -> None:
    cache = OutputCache(tmp_path, MANIFEST_OF)
    (cache.folder / ("0" * 64 + ".safetensors")).write_bytes(content)
    assert OutputCache(tmp_path, MANIFEST_OF).damaged


def test_a_whole_shard_of_another_cache_does_not_fit(tmp_path: Path) -> None:
    wide = OutputCache(tmp_path, replace(MANIFEST_OF, row_format=RowFormat(6, 3)))
    wide.add(torch.tensor([1]), torch.tensor([1]), Output(torch.zeros(1, 6), torch.zeros(1, 3)))
    wide.flush()
    (shard,) = wide.folder.glob("*.safetensors")
    assert shard_problem(shard, wide.manifest) is None
    assert shard_problem(shard, MANIFEST_OF) == "does not fit the manifest"


def test_keys_on_disk_are_those_of_earlier_caches(tmp_path: Path) -> None:
    # Another numbering would read stored outputs as those of other images, under the same name.
    cache = OutputCache(tmp_path, MANIFEST_OF)
    fill(cache, torch.tensor([3, 0, 19]), torch.tensor([1, 4, 5]))
    cache.flush()
    (shard,) = cache.folder.glob("*.safetensors")
    assert load_file(shard)["keys"].tolist() == [3 * VIEWS + 1, 4, IMAGES * VIEWS - 1]


@pytest.mark.parametrize("key", [-1, IMAGES * VIEWS])
def test_a_shard_of_an_image_that_there_is_not_does_not_fit(tmp_path: Path, key: int) -> None:
    rows_BR = MANIFEST_OF.row_format.pack(output_of(torch.tensor([1]), torch.tensor([1])))
    content = save({"keys": torch.tensor([key]), "rows": rows_BR})
    shard = tmp_path / f"{hashlib.sha256(content).hexdigest()}.safetensors"
    shard.write_bytes(content)
    assert shard_problem(shard, MANIFEST_OF) == "does not fit the manifest"


def test_a_full_disk_is_an_error_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, number = everything()
    cache = OutputCache(tmp_path, MANIFEST_OF)
    fill(cache, index[:30], number[:30])
    cache.flush()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("richkd.training.checkpoint.os.fsync", full)
    fill(cache, index[30:], number[30:])
    with pytest.raises(CheckpointError, match="No space left"):
        cache.flush()
    monkeypatch.undo()
    assert len(OutputCache(tmp_path, MANIFEST_OF)) == 30


@pytest.mark.parametrize(
    "changes",
    [
        {"ingredients": {"weights": "abd", "views": [1, 2]}},
        {"images": IMAGES + 1},
        {"views": VIEWS + 1},
        {"row_format": RowFormat(5, 3, top_k=2)},
    ],
)
def test_a_changed_ingredient_is_another_cache(tmp_path: Path, changes: dict[str, object]) -> None:
    cache = OutputCache(tmp_path, MANIFEST_OF)
    fill(cache, torch.tensor([1]), torch.tensor([1]))
    cache.flush()
    other = replace(MANIFEST_OF, **changes)  # type: ignore[arg-type]
    assert len(OutputCache(tmp_path, other)) == 0
    assert len(list_caches(tmp_path)) == 2


def test_a_miss_is_explained_by_the_most_similar_cache(tmp_path: Path) -> None:
    assert explain_miss(tmp_path, MANIFEST_OF) is None
    OutputCache(tmp_path, MANIFEST_OF)
    assert explain_miss(tmp_path, MANIFEST_OF) is None
    near = replace(MANIFEST_OF, ingredients={"weights": "other", "views": [1, 2]})
    far = replace(MANIFEST_OF, ingredients={"weights": "x", "views": [3], "seed": 1})
    assert str(explain_miss(tmp_path, near)).endswith("differs in weights")
    OutputCache(tmp_path, near)
    assert "differs in weights, views, seed" in str(explain_miss(tmp_path, far))
    sparse = replace(MANIFEST_OF, row_format=RowFormat(5, 3, top_k=1))
    assert str(explain_miss(tmp_path, sparse)).endswith("differs in row format")
    assert explain_miss(tmp_path, replace(far, name="another-train")) is None


def test_a_manifest_that_was_edited_is_refused(tmp_path: Path) -> None:
    cache = OutputCache(tmp_path, MANIFEST_OF)
    assert read_manifest(cache.folder) == MANIFEST_OF
    path = cache.folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images": 7}))
    with pytest.raises(CacheError, match="must match the name of the folder"):
        OutputCache(tmp_path, MANIFEST_OF)
    path.write_text("{")
    with pytest.raises(CacheError, match=r"manifest\.json"):
        OutputCache(tmp_path, MANIFEST_OF)


def test_no_flipped_bit_of_a_manifest_is_read(tmp_path: Path) -> None:
    cache = OutputCache(tmp_path, MANIFEST_OF)
    path = cache.folder / MANIFEST
    original = path.read_bytes()
    for bit in range(0, 8 * len(original), 3):
        flip_bit(path, bit)
        assert readable_manifests(tmp_path) in ([], [MANIFEST_OF])
        path.write_bytes(original)


def test_folders_may_be_given_as_text(tmp_path: Path) -> None:
    root = str(tmp_path)
    cache = OutputCache(root, MANIFEST_OF)
    fill(cache, torch.tensor([1]), torch.tensor([1]))
    cache.flush()
    (shard,) = cache.folder.glob("*.safetensors")
    assert shard_problem(str(shard), MANIFEST_OF) is None
    assert read_manifest(str(cache.folder)) == MANIFEST_OF
    assert explain_miss(root, MANIFEST_OF) is None
    assert list_caches(root) == list_caches(tmp_path) == [cache.folder]
    assert remove_cache(root, cache.folder.name) == cache.folder
    assert list_caches(root) == []


def test_removing_names_the_nearest(tmp_path: Path) -> None:
    cache = OutputCache(tmp_path, MANIFEST_OF)
    with pytest.raises(CacheError, match=cache.folder.name):
        remove_cache(tmp_path, "net-trian")
    remove_cache(tmp_path, cache.folder.name)
    assert list_caches(tmp_path) == []


def test_a_cache_with_too_many_outputs_is_refused_before_memory_is_reserved(
    tmp_path: Path,
) -> None:
    error = refusal(OutputCache, tmp_path, Manifest("net-train", {}, 100_000_000, 22, RowFormat(5, 3)))
    assert isinstance(error, CacheError)
    assert "100,000,000 images × 22 views for net-train" in str(error)
    assert "--augment.num_views" in error.fix
    assert not list(tmp_path.iterdir())
