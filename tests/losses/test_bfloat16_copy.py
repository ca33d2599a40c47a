"""The bfloat16 copy of a memory bank: bit-equal to a bank that is converted in every step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from richkd.core.types import Batch
from richkd.losses.bfloat16_copy import Bfloat16Copy
from richkd.losses.features import normalize
from richkd.losses.memory_bank import Banks, ContrastMemory, ContrastSettings
from richkd.losses.negatives import update_bank

IMAGES, CLASSES, WIDTH, BATCH = 40, 4, 8, 6
LABELS_N = torch.arange(IMAGES) % CLASSES
Kind = Literal["memory-bank", "shared"]
KINDS: tuple[Kind, ...] = ("memory-bank", "shared")


def make_memory(kind: Kind, seed: int = 0) -> ContrastMemory:
    contrast = ContrastSettings(embed_dim=WIDTH, negatives=kind, num_negatives=30, temperature=0.2)
    with torch.random.fork_rng(devices=[]):
        return ContrastMemory(5, (7,), LABELS_N, CLASSES, contrast, seed)


def steps(memory: ContrastMemory, numbers: range, *, bfloat16: bool = True) -> list[Tensor]:
    """Losses and gradients of some steps, each followed by `remember`."""
    results = []
    for step in numbers:
        random = torch.Generator().manual_seed(step)
        index_B = torch.randperm(IMAGES, generator=random)[:BATCH]
        pair = [normalize(torch.randn(BATCH, WIDTH, generator=random)).requires_grad_() for _ in range(2)]
        pixels = torch.zeros(BATCH, 2, 2, 3, dtype=torch.uint8)
        batch = Batch("train", index_B, pixels, LABELS_N[index_B])
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = memory.loss(pair[0], pair[1], batch, step)
        results += [loss.detach(), *torch.autograd.grad(loss, pair)]
        memory.remember(index_B, pair[0].detach(), pair[1].detach())
    return results


@pytest.fixture
def converting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Tensor]]:
    """`steps`, in which the products convert the whole bank every time."""

    def run(*args: object, **kwargs: object) -> list[Tensor]:
        with monkeypatch.context() as patch:
            patch.setattr(Bfloat16Copy, "of", lambda self, bank_ND: bank_ND)
            return steps(*args, **kwargs)  # type: ignore[arg-type]

    return run


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second) > 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def copies_of(memory: ContrastMemory) -> list[Tensor | None]:
    banks = memory.negatives
    assert isinstance(banks, Banks)
    return [banks._student_copy._copy_ND, banks._target_copy._copy_ND]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_converted_banks(
    kind: Kind, converting: Callable[..., list[Tensor]]
) -> None:
    plain, kept = make_memory(kind), make_memory(kind)
    assert_equal(converting(plain, range(6)), steps(kept, range(6)))
    assert_equal(list(plain.negatives.buffers()), list(kept.negatives.buffers()))
    assert copies_of(plain) == [None, None]
    for copy_ND, bank_ND in zip(
        copies_of(kept), (kept.negatives.student_ND, kept.negatives.target_ND), strict=True
    ):
        assert copy_ND is not None
        assert torch.equal(copy_ND, bank_ND.bfloat16())


@pytest.mark.parametrize("kind", KINDS)
def test_the_bank_is_converted_once(kind: Kind) -> None:
    memory = make_memory(kind)
    steps(memory, range(1))
    before = copies_of(memory)
    steps(memory, range(1, 4))
    assert all(a is b for a, b in zip(before, copies_of(memory), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("assign", [False, True])
def test_a_loaded_checkpoint_and_a_changed_dtype_give_new_copies(
    kind: Kind, assign: bool, converting: Callable[..., list[Tensor]]
) -> None:
    source, plain, kept = make_memory(kind, 1), make_memory(kind), make_memory(kind)
    steps(source, range(3))
    converting(plain, range(2))
    steps(kept, range(2))
    for memory in (plain, kept):
        memory.load_state_dict({name: t.clone() for name, t in source.state_dict().items()}, assign=assign)
    assert_equal(converting(plain, range(3, 6)), steps(kept, range(3, 6)))
    for memory in (plain, kept):
        memory.double()
    assert_equal(converting(plain, range(6, 8)), steps(kept, range(6, 8)))


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_and_duplicates_do_not_contain_the_copy(
    kind: Kind, converting: Callable[..., list[Tensor]]
) -> None:
    memory = make_memory(kind)
    names = memory.state_dict().keys()
    steps(memory, range(2))
    assert memory.state_dict().keys() == names
    duplicate = copy.deepcopy(memory)
    assert copies_of(duplicate) == [None, None]
    assert_equal(steps(memory, range(2, 4)), steps(duplicate, range(2, 4)))


@pytest.mark.parametrize("kind", KINDS)
def test_without_bfloat16_there_is_no_copy(kind: Kind, converting: Callable[..., list[Tensor]]) -> None:
    plain, kept = make_memory(kind), make_memory(kind)
    exact = steps(kept, range(4), bfloat16=False)
    assert_equal(converting(plain, range(4), bfloat16=False), exact)
    assert copies_of(kept) == [None, None]
    # The comparison can fail: rounded banks give other losses.
    rounded = steps(make_memory(kind), range(4))
    assert not torch.equal(exact[0], rounded[0])


def change(name: str, kept: Bfloat16Copy, bank_ND: Tensor, rows_B: Tensor) -> Tensor:
    """The bank after a change; some changes give another tensor."""
    match name:
        case "update":
            kept.update(bank_ND, rows_B, torch.ones(2, 3), 0.3)
        case "update without the copy":
            update_bank(bank_ND, rows_B, -torch.ones(2, 3), 0.3)
        case "in place":
            bank_ND.mul_(-1.25)
        case "other tensor":
            return bank_ND / 3
        case "other dtype":
            return bank_ND.float() if bank_ND.dtype == torch.float64 else bank_ND.double()
    return bank_ND


CHANGES = ("update", "update without the copy", "in place", "other tensor", "other dtype", "none")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.booleans()), max_size=8), st.integers(0, 99))
def test_a_copy_equals_its_bank_after_any_changes(changes: list[tuple[str, bool]], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    bank_ND, kept = torch.randn(5, 3, generator=random), Bfloat16Copy()
    for name, read in [*changes, ("none", True)]:
        rows_B = torch.randperm(5, generator=random)[:2]
        bank_ND = change(name, kept, bank_ND, rows_B)
        if read:
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(kept.of(bank_ND), bank_ND.bfloat16())
        assert kept.of(bank_ND) is bank_ND
