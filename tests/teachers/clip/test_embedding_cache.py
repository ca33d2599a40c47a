from __future__ import annotations

import json
import logging
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch.nn import functional

from richkd.core.files import hash_tensors
from richkd.teachers.clip.embedding_cache import embeddings_path, read_embeddings, write_embeddings
from richkd.teachers.clip.load import load_clip
from tests.teachers.clip.tiny import make_folder

KEY = "0123456789abcdef" * 4
NAMES = ["owl", "cat"]
PROMPTS = [["a photo of an owl"], ["a photo of a cat", "the cat"]]


def embeddings(seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(2, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


def written(folder: Path) -> Path:
    path = embeddings_path(folder, KEY)
    write_embeddings(path, KEY, embeddings(), clip="tiny", class_names=NAMES)
    return path


def test_no_flipped_bit_changes_an_embedding(tmp_path: Path) -> None:
    path = written(tmp_path)
    whole, unnoticed = path.read_bytes(), 0
    values = len(whole) - embeddings().nbytes
    for place in range(len(whole)):
        for bit in range(8) if place >= values else (place % 8,):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            stored = read_embeddings(path, KEY, (2, 4))
            # Only the information about model and classes may change unnoticed.
            assert stored is None or (place < values and torch.equal(stored, embeddings()))
            unnoticed += stored is not None
    assert unnoticed < values / 2


def test_a_damaged_file_is_computed_again_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = load_clip(f"local-dir:{make_folder(tmp_path / 'clip')}")
    cache = tmp_path / "cache"
    first = clip.class_embeddings(NAMES, PROMPTS, cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    # The largest bit of an exponent: the embedding changes by orders of magnitude.
    flipped[-1] ^= 0x40
    small = bytearray(whole)
    small[-3] ^= 1
    nan = save({"class_embeddings": torch.full_like(first, torch.nan)})
    for damaged in (b"", whole[:100], whole[:-4], bytes(flipped), bytes(small), nan):
        file.write_bytes(damaged)
        caplog.clear()
        assert torch.equal(clip.class_embeddings(NAMES, PROMPTS, cache), first)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert str(file) in record.getMessage()
        assert "computed again" in record.getMessage()
        assert torch.equal(load_file(file)["class_embeddings"], first)
    caplog.clear()
    assert torch.equal(clip.class_embeddings(NAMES, PROMPTS, cache), first)
    assert not caplog.records


def test_two_clips_with_one_folder_have_their_own_embeddings(tmp_path: Path) -> None:
    clips = [load_clip(f"local-dir:{make_folder(tmp_path / str(seed), seed=seed)}") for seed in (0, 1)]
    cache = tmp_path / "cache"
    for _ in range(2):
        for clip in clips:
            stored = clip.class_embeddings(NAMES, PROMPTS, cache)
            assert torch.equal(stored, clip.embed_prompts(PROMPTS))
    assert len(list(cache.iterdir())) == 2


def test_files_that_were_written_otherwise_are_not_used(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert read_embeddings(path, KEY, (2, 4)) is not None
    assert read_embeddings(path, "f" * 64, (2, 4)) is None
    assert read_embeddings(path, KEY, (3, 4)) is None
    # Earlier versions stored no hash.
    save_file({"class_embeddings": embeddings()}, path, metadata={"key": KEY})
    assert read_embeddings(path, KEY, (2, 4)) is None
    save_file({"others": embeddings()}, path, metadata={"key": KEY})
    assert read_embeddings(path, KEY, (2, 4)) is None
    tensors = {"class_embeddings": embeddings() / 0}
    save_file(tensors, path, metadata={"key": KEY, "content": hash_tensors(tensors)})
    assert read_embeddings(path, KEY, (2, 4)) is None


def test_the_file_says_what_it_contains(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert torch.equal(load_file(path)["class_embeddings"], embeddings())
    size = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    assert metadata["clip"] == "tiny"
    assert json.loads(metadata["classnames"]) == NAMES


def write_often(path: Path, seed: int) -> None:
    for _ in range(60):
        write_embeddings(path, KEY, embeddings(seed), clip="tiny", class_names=NAMES)


def test_processes_that_write_one_file_leave_it_whole(tmp_path: Path) -> None:
    path = written(tmp_path)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(path, seed)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    valid = [embeddings(seed) for seed in range(3)]
    while any(writer.is_alive() for writer in writers):
        stored = read_embeddings(path, KEY, (2, 4))
        assert stored is not None
        assert any(torch.equal(stored, each) for each in valid)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_writers_with_the_same_process_number_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers that share a folder: the second writes the file while the first one's is open."""
    path = embeddings_path(tmp_path, KEY)
    sync = os.fsync
    nested: list[bool] = []

    def other_writer(descriptor: int) -> None:
        if not nested:
            nested.append(True)
            write_embeddings(path, KEY, embeddings(1), clip="tiny", class_names=NAMES)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", other_writer)
    write_embeddings(path, KEY, embeddings(2), clip="tiny", class_names=NAMES)
    stored = read_embeddings(path, KEY, (2, 4))
    assert stored is not None
    assert torch.equal(stored, embeddings(2))
