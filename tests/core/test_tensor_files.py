"""Tensors that were saved with a hash are those that are read, or refused."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from richkd.core.errors import ModelError
from richkd.core.tensor_files import encode_tensors, read_tensors
from tests.fixtures import flip_bit, refusal

TENSORS = {
    "a.weight": torch.arange(6.0).view(2, 3),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 4),
    "bool": torch.tensor([True, False]),
}


def test_other_programs_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_tensors(TENSORS, {"names": '["Bär"]'}))
    tensors, metadata = read_tensors(path)
    for read in (load_file(path), tensors):
        assert read.keys() == TENSORS.keys()
        assert all(torch.equal(read[name], t) and read[name].dtype == t.dtype for name, t in TENSORS.items())
    assert (metadata["format"], metadata["names"]) == ("pt", '["Bär"]')
    # The data begin at a multiple of 8 bytes, as readers that map the file into memory expect.
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_equal_tensors_give_equal_bytes() -> None:
    assert len({encode_tensors(TENSORS, {"a": "1", "b": "2"}) for _ in range(20)}) == 1


def test_no_flipped_bit_changes_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_tensors(TENSORS))
    original = path.read_bytes()
    refused = 0
    for bit in random.Random(1).sample(range(8 * len(original)), 400):
        flip_bit(path, bit)
        try:
            tensors, _ = read_tensors(path)
            assert tensors.keys() == TENSORS.keys()
            assert all(torch.equal(tensors[name], t) for name, t in TENSORS.items())
        except (ModelError, SafetensorError):
            refused += 1
        path.write_bytes(original)
    assert refused > 200


def test_the_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    content = bytearray(encode_tensors(TENSORS))
    content[-1] ^= 1
    path.write_bytes(content)
    error = refusal(read_tensors, path)
    assert isinstance(error, ModelError)
    assert str(path) in error.rule


def test_files_without_a_hash_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"sha256": "of something else"}):
        save_file(TENSORS, path, metadata=metadata)
        tensors, _ = read_tensors(path)
        assert torch.equal(tensors["a.weight"], TENSORS["a.weight"])
    path.write_bytes(b"no tensors")
    with pytest.raises(SafetensorError):
        read_tensors(path)


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(OSError, match="pipe"):
        read_tensors(tmp_path / "a.safetensors")
