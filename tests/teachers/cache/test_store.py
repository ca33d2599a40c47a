"""Banks on disk: found by image and view, whole after kills, full disks, other writers and flipped bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from richkd.core.errors import BankError, CheckpointError
from richkd.core.types import Output
from richkd.teachers.cache import store as bank_module
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.cache.store import (
    MANIFEST,
    Bank,
    Manifest,
    explain_miss,
    list_banks,
    read_manifest,
    remove_bank,
    shard_problem,
)

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


def fill(bank: Bank, index: Tensor, number: Tensor, batch: int = 7) -> None:
    for i, n in zip(index.split(batch), number.split(batch), strict=True):
        bank.add(i, n, output_of(i, n))


def assert_holds(bank: Bank, index: Tensor, number: Tensor) -> None:
    read, expected = bank.read(bank.find(index, number)), output_of(index, number)
    assert torch.equal(read.logits_BC, expected.logits_BC)
    assert torch.equal(read.feats_BF, expected.feats_BF)


def test_what_was_added_is_read_before_and_after_it_is_written(tmp_path: Path) -> None:
    index, number = everything()
    bank = Bank(tmp_path, MANIFEST_OF)
    assert (bank.find(index, number) == -1).all()
    fill(bank, index[:50], number[:50])
    assert_holds(bank, index[:50], number[:50])
    bank.flush()
    assert_holds(bank, index[:50], number[:50])
    fill(bank, index[50:], number[50:])
    bank.flush()
    assert_holds(bank, index, number)
    again = Bank(tmp_path, MANIFEST_OF)
    assert len(again) == len(bank) == IMAGES * VIEWS
    assert_holds(again, index.flip(0), number.flip(0))


def test_shards_are_written_when_they_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "SHARD_BYTES", 16 * 20)
    index, number = everything()
    bank = Bank(tmp_path, MANIFEST_OF)
    fill(bank, index, number)
    assert len(list(bank.folder.glob("*.safetensors"))) == 120 // 21
    assert_holds(bank, index, number)


def test_an_output_costs_two_bytes_a_number_and_eight_for_its_key(tmp_path: Path) -> None:
    manifest = replace(MANIFEST_OF, images=5000, views=1, rows=RowFormat(100, 64))
    bank = Bank(tmp_path, manifest)
    bank.add(torch.arange(5000), torch.zeros(5000), Output(torch.randn(5000, 100), torch.randn(5000, 64)))
    bank.flush()
    assert bank.bytes_on_disk / 5000 <= 2 * (100 + 64) + 8 + 0.1


def test_flushing_nothing_writes_nothing(tmp_path: Path) -> None:
    bank = Bank(tmp_path, MANIFEST_OF)
    bank.flush()
    assert [path.name for path in bank.folder.iterdir()] == [MANIFEST]


def test_two_writers_of_one_bank_leave_one_valid_bank(tmp_path: Path) -> None:
    index, number = everything()
    a, b = Bank(tmp_path, MANIFEST_OF), Bank(tmp_path, MANIFEST_OF)
    fill(a, index[:80], number[:80])
    fill(b, index[40:], number[40:])
    a.flush()
    b.flush()
    both = Bank(tmp_path, MANIFEST_OF)
    assert len(both) == IMAGES * VIEWS
    assert_holds(both, index, number)


def test_two_processes_with_the_same_rows_write_the_same_file(tmp_path: Path) -> None:
    index, number = everything()
    for _ in range(2):
        bank = Bank(tmp_path, MANIFEST_OF)
        bank._row_P.fill_(-1)
        fill(bank, index, number)
        bank.flush()
    assert len(list(bank.folder.glob("*.safetensors"))) == 1


WRITER = """
import sys, torch
from pathlib import Path
from tests.teachers.cache.test_store import *
bank_module.SHARD_BYTES = 64
bank = Bank(Path(sys.argv[1]), MANIFEST_OF)
print("ready", flush=True)
index, number = everything()
while True:
    fill(bank, index, number, batch=2)
"""


def test_a_kill_at_any_moment_leaves_a_valid_bank(tmp_path: Path) -> None:
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
        bank = Bank(tmp_path, MANIFEST_OF)
        assert not bank.damaged
        index, number = everything()
        there = bank.find(index, number) >= 0
        assert there.any()
        assert_holds(bank, index[there], number[there])


def test_a_flipped_bit_is_found_removed_and_told(tmp_path: Path) -> None:
    index, number = everything()
    bank = Bank(tmp_path, MANIFEST_OF)
    for half in (slice(0, 60), slice(60, 120)):
        fill(bank, index[half], number[half])
        bank.flush()
    damaged = sorted(bank.folder.glob("*.safetensors"))[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    again = Bank(tmp_path, MANIFEST_OF)
    assert len(again) == 60
    assert len(again.damaged) == 1
    assert damaged.name[:12] in again.damaged[0]
    assert not damaged.exists()
    missing = again.find(index, number) < 0
    fill(again, index[missing], number[missing])
    assert_holds(again, index, number)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"nonsense"])
def test_what_is_no_shard_is_not_used(tmp_path: Path, content: bytes) -> None:
    bank = Bank(tmp_path, MANIFEST_OF)
    (bank.folder / ("0" * 64 + ".safetensors")).write_bytes(content)
    assert Bank(tmp_path, MANIFEST_OF).damaged


def test_a_whole_shard_of_another_bank_does_not_fit(tmp_path: Path) -> None:
    wide = Bank(tmp_path, replace(MANIFEST_OF, rows=RowFormat(6, 3)))
    wide.add(torch.tensor([1]), torch.tensor([1]), Output(torch.zeros(1, 6), torch.zeros(1, 3)))
    wide.flush()
    (shard,) = wide.folder.glob("*.safetensors")
    assert shard_problem(shard, wide.manifest) is None
    assert shard_problem(shard, MANIFEST_OF) == "does not fit the manifest"


def test_a_full_disk_is_an_error_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, number = everything()
    bank = Bank(tmp_path, MANIFEST_OF)
    fill(bank, index[:30], number[:30])
    bank.flush()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("richkd.training.checkpoint.os.fsync", full)
    fill(bank, index[30:], number[30:])
    with pytest.raises(CheckpointError, match="No space left"):
        bank.flush()
    monkeypatch.undo()
    assert len(Bank(tmp_path, MANIFEST_OF)) == 30


@pytest.mark.parametrize(
    "changes",
    [
        {"ingredients": {"weights": "abd", "views": [1, 2]}},
        {"images": IMAGES + 1},
        {"views": VIEWS + 1},
        {"rows": RowFormat(5, 3, top=2)},
    ],
)
def test_a_changed_ingredient_is_another_bank(tmp_path: Path, changes: dict[str, object]) -> None:
    bank = Bank(tmp_path, MANIFEST_OF)
    fill(bank, torch.tensor([1]), torch.tensor([1]))
    bank.flush()
    other = replace(MANIFEST_OF, **changes)  # type: ignore[arg-type]
    assert len(Bank(tmp_path, other)) == 0
    assert len(list_banks(tmp_path)) == 2


def test_a_miss_is_explained_by_the_most_similar_bank(tmp_path: Path) -> None:
    assert explain_miss(tmp_path, MANIFEST_OF) is None
    Bank(tmp_path, MANIFEST_OF)
    assert explain_miss(tmp_path, MANIFEST_OF) is None
    near = replace(MANIFEST_OF, ingredients={"weights": "other", "views": [1, 2]})
    far = replace(MANIFEST_OF, ingredients={"weights": "x", "views": [3], "seed": 1})
    assert str(explain_miss(tmp_path, near)).endswith("differs in weights")
    Bank(tmp_path, near)
    assert "differs in weights, views, seed" in str(explain_miss(tmp_path, far))
    sparse = replace(MANIFEST_OF, rows=RowFormat(5, 3, top=1))
    assert str(explain_miss(tmp_path, sparse)).endswith("differs in what a row keeps")
    assert explain_miss(tmp_path, replace(far, name="another-train")) is None


def test_a_manifest_that_was_edited_is_refused(tmp_path: Path) -> None:
    bank = Bank(tmp_path, MANIFEST_OF)
    assert read_manifest(bank.folder) == MANIFEST_OF
    path = bank.folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"images": 7}))
    with pytest.raises(BankError, match="what its name says"):
        Bank(tmp_path, MANIFEST_OF)
    path.write_text("{")
    with pytest.raises(BankError, match=r"manifest\.json"):
        Bank(tmp_path, MANIFEST_OF)


def test_removing_names_the_nearest(tmp_path: Path) -> None:
    bank = Bank(tmp_path, MANIFEST_OF)
    with pytest.raises(BankError, match=bank.folder.name):
        remove_bank(tmp_path, "net-trian")
    remove_bank(tmp_path, bank.folder.name)
    assert list_banks(tmp_path) == []
