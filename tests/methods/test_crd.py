"""CRD beside `contrastive`, loops in float64, and an independent implementation over several steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from richkd.core.types import Batch, Output, Target
from richkd.losses.negatives import draw, negative_rows
from richkd.methods.contrastive import Contrastive, ContrastiveConfig
from richkd.methods.crd import Crd, CrdConfig
from richkd.methods.term import Context, NetworkShapes, Setup
from richkd.pipeline.assemble import assemble
from tests.fixtures import World, make_teacher, refusal
from tests.reference import losses as slow

IMAGES, CLASSES = 32, 4
SMALL = {"embed_dim": 6, "num_negatives": 9}
# Images 5 and 6 have no label.
LABELS = (
    torch.arange(IMAGES).remainder(CLASSES).where(~torch.isin(torch.arange(IMAGES), torch.tensor([5, 6])), -1)
)


def build(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kind(config, Setup(NetworkShapes(7), (NetworkShapes(5),), LABELS, CLASSES, seed=3))


def batch_of(places: list[int], seed: int, weight_B: Tensor | None = None) -> tuple[Output, Target, Batch]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(len(places), width, generator=generator) for width in (7, 5))
    logits = torch.zeros(len(places), CLASSES)
    target = Target(logits, (Output(logits, teacher),), (1.0,), weight_B)
    index_B = torch.tensor(places)
    return (
        Output(logits, student),
        target,
        Batch("train", index_B, torch.zeros(len(places), 2, 2, 3), LABELS[index_B]),
    )


def step(term: Any, places: list[int], number: int) -> float:
    student, target, batch = batch_of(places, number)
    loss = term(student, target, batch, Context(step=number))
    term.remember(batch.index_B, loss.memory)
    return loss.value.item()


def test_the_defaults_are_published() -> None:
    config = CrdConfig()
    assert (config.num_negatives, config.embed_dim, config.temperature) == (16384, 128, 0.07)
    assert (config.weight, config.momentum, config.negatives) == (0.8, 0.5, "memory-bank")
    assert "negatives" not in CrdConfig.model_fields


def test_it_is_the_contrastive_term_with_its_defaults() -> None:
    crd, contrastive = build(Crd, CrdConfig(**SMALL)), build(Contrastive, ContrastiveConfig(**SMALL))
    for number in range(4):
        places = [(5 * number + i) % IMAGES for i in range(6)]
        assert step(crd, places, number) == step(contrastive, places, number)
    for name, tensor in crd.state_dict().items():
        assert torch.equal(tensor, contrastive.state_dict()[name])


def rows_of(term: Crd, batch: Batch, number: int) -> Tensor:
    """The rows that a step compares: that of each image, and those of its negatives."""
    banks = term.memory.negatives
    draws = draw(banks.seed, number, (len(batch), SMALL["num_negatives"]), "cpu")
    labels_B = banks.labels_N[batch.index_B]
    negatives = negative_rows(labels_B, banks.class_starts_C, banks.class_sizes_C, draws)
    return torch.cat([banks.row_of_image_N[batch.index_B][:, None], negatives], dim=1)


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 0.5, 0.25]])
def test_weighted_and_unlabeled_images_equal_the_loop(weights: list[float] | None) -> None:
    term = build(Crd, CrdConfig(**SMALL))
    step(term, [0, 5, 6, 11], 0)
    weight_B = None if weights is None else torch.tensor(weights)
    student, target, batch = batch_of([3, 5, 9, 30], 1, weight_B)
    value = term(student, target, batch, Context(step=1)).value.item()
    rows, banks = rows_of(term, batch, 1), term.memory.negatives
    student_BD, target_BD = term.memory.embed(student, target)
    normalizers = tuple(term.memory.log_normalizers.exp().tolist())
    each = [
        slow.contrast_loss(
            student_BD[i : i + 1],
            target_BD[i : i + 1],
            banks.student_ND,
            banks.target_ND,
            rows[i : i + 1],
            normalizers,
            0.07,
        )
        for i in range(4)
    ]
    expected = sum(w * loss for w, loss in zip(weights or [1.0] * 4, each, strict=True)) / 4
    assert value == pytest.approx(expected, rel=1e-5)


def test_in_float64_it_equals_an_independent_implementation() -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    term = build(Crd, CrdConfig(**SMALL))
    memory = term.memory.double()
    theirs = mid_level.CRDLoss("s", "supp", "t", 6, IMAGES, 9, IMAGES, 0.07, 0.5, eps=0.0).double()
    theirs.params[:] = torch.tensor([9, 0.07, -1, -1, 0.5], dtype=torch.float64)
    theirs.memory_v1.copy_(memory.negatives.student_ND)
    theirs.memory_v2.copy_(memory.negatives.target_ND)
    for number in range(4):
        _, _, batch = batch_of([(7 * number + i) % IMAGES for i in range(5)], number)
        generator = torch.Generator().manual_seed(number)
        unit = [torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2)]
        student_BD, target_BD = (x / x.norm(dim=1, keepdim=True) for x in unit)
        rows = rows_of(term, batch, number)
        supp = {"input": {"pos_idx": rows[:, 0], "contrast_idx": rows}}
        expected = theirs({"s": {"output": student_BD}, "supp": supp}, {"t": {"output": target_BD}})
        value = memory.loss(student_BD, target_BD, batch, number)
        memory.remember(batch.index_B, student_BD, target_BD)
        # Their params hold the normalizers.
        assert float(value) == pytest.approx(float(expected), rel=1e-9)
    assert torch.allclose(theirs.memory_v1, memory.negatives.student_ND, rtol=1e-9)
    assert torch.allclose(theirs.memory_v2, memory.negatives.target_ND, rtol=1e-9)


def test_a_fused_target_is_refused(world: World, tmp_path: Path) -> None:
    make_teacher(tmp_path / "second", seed=9)
    second = {"teachers__2__name": f"local-dir:{tmp_path / 'second'}"}
    config = world.config(tmp_path / "run", method__name="crd", **second)
    error = refusal(assemble, config, torch.device("cpu"))
    assert "objective.crd compares the student with one vision teacher" in error.rule


def test_the_negatives_are_no_setting(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", method__name="crd", objective__crd__negatives="queue")
    error = refusal(assemble, config, torch.device("cpu"))
    assert error.rule == "There is no setting 'negatives' (in objective.crd)"
