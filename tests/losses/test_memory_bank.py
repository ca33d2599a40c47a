"""The contrastive memory: whose rows move, what stays, and the loss against loops over the same rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from richkd.core.types import UNLABELED, Batch, Output, Target
from richkd.losses.memory_bank import ContrastMemory, ContrastSettings, Queues
from richkd.losses.negatives import below, draw, negative_rows
from tests.reference import losses as slow

IMAGES, CLASSES, WIDTHS = 30, 4, (5, 7)
SETTINGS = ContrastSettings(embed_dim=6, num_negatives=9, temperature=0.2, momentum=0.3)
LABELS_N = torch.randint(CLASSES, (IMAGES,), generator=torch.Generator().manual_seed(1))
INDEX_B = torch.tensor([28, 3, 17, 0])


def make_memory(seed: int = 0, settings: ContrastSettings = SETTINGS) -> ContrastMemory:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ContrastMemory(8, WIDTHS, LABELS_N, CLASSES, settings, seed)


def random_records(index_B: Tensor, seed: int = 0) -> tuple[Output, Target, Batch]:
    generator = torch.Generator().manual_seed(seed)

    def output(width: int) -> Output:
        return Output(*(torch.randn(len(index_B), w, generator=generator) for w in (CLASSES, width)))

    teachers = tuple(output(width) for width in WIDTHS)
    pixels = torch.zeros(len(index_B), 2, 2, 3, dtype=torch.uint8)
    batch = Batch("train", index_B, pixels, LABELS_N[index_B])
    return output(8), Target(teachers[0].logits_BC, teachers, (0.7, 0.3)), batch


def test_every_image_has_a_row_and_rows_of_a_class_lie_together() -> None:
    memory = make_memory()
    assert sorted(memory.negatives.row_of_image_N.tolist()) == list(range(IMAGES))
    label_of_row = {int(memory.negatives.row_of_image_N[i]): int(LABELS_N[i]) for i in range(IMAGES)}
    for c in range(CLASSES):
        first, count = int(memory.negatives.class_starts_C[c]), int(memory.negatives.class_sizes_C[c])
        assert count == torch.bincount(LABELS_N)[c]
        assert [label_of_row[row] for row in range(first, first + count)] == [c] * count


@pytest.mark.parametrize("negatives", ["memory-bank", "shared", "queue"])
def test_an_unlabeled_image_is_a_class_of_its_own(
    negatives: Literal["memory-bank", "shared", "queue"],
) -> None:
    labels_N = LABELS_N.clone()
    labels_N[[3, 5]] = UNLABELED
    settings = replace(SETTINGS, negatives=negatives)
    with torch.random.fork_rng(devices=[]):
        memory = ContrastMemory(8, WIDTHS, labels_N, CLASSES, settings, 0)
    student, target, batch = random_records(INDEX_B)
    embedded = memory.embed(student, target)
    loss = memory.loss(*embedded, replace(batch, labels_B=labels_N[INDEX_B]), 0)
    assert bool(loss.isfinite())
    stored_N = memory.negatives.labels_N
    assert len({int(stored_N[3]), int(stored_N[5]), *range(CLASSES)}) == CLASSES + 2
    assert torch.equal(stored_N[labels_N >= 0], labels_N[labels_N >= 0])
    memory.remember(INDEX_B, embedded[0].detach(), embedded[1].detach())


def test_embeddings_have_unit_norm_and_teachers_are_fused_after_their_heads() -> None:
    memory = make_memory()
    student, target, _ = random_records(INDEX_B)
    student_BD, target_BD = memory.embed(student, target)
    assert student_BD.shape == target_BD.shape == (4, 6)
    normalized = slow.normalize(memory.student_head(student.feats_BF))
    assert torch.allclose(student_BD, torch.tensor(normalized), atol=1e-6)
    heads = [
        head(teacher.feats_BF) for head, teacher in zip(memory.teacher_heads, target.teachers, strict=True)
    ]
    unit = [torch.tensor(slow.normalize(feats)) for feats in heads]
    expected = torch.tensor(slow.fuse_features(unit, [0.7, 0.3]))
    assert torch.allclose(target_BD, expected, atol=1e-6)


def expected_loss(
    memory: ContrastMemory, student_BD: Tensor, target_BD: Tensor, step: int
) -> tuple[float, Tensor]:
    """The loss of the rows that (seed, step) draws, with both normalizers of these rows, by loops."""
    rows_B1 = memory.negatives.row_of_image_N[INDEX_B][:, None]
    draws_BK = draw(memory.negatives.seed, step, (len(INDEX_B), SETTINGS.num_negatives), "cpu")
    rows_BK1 = torch.cat(
        [
            rows_B1,
            negative_rows(
                LABELS_N[INDEX_B], memory.negatives.class_starts_C, memory.negatives.class_sizes_C, draws_BK
            ),
        ],
        dim=1,
    )
    banks = (memory.negatives.student_ND, memory.negatives.target_ND)
    log_z = memory.log_normalizers
    if step == 0:
        pairs = ((student_BD, banks[1]), (target_BD, banks[0]))
        scores = [slow.bank_scores(v, bank, rows_BK1, SETTINGS.temperature) for v, bank in pairs]
        log_z = torch.tensor([math.log(slow.estimate_normalizer(score, IMAGES)) for score in scores])
    z = (math.exp(log_z[0]), math.exp(log_z[1]))
    value = slow.contrast_loss(student_BD, target_BD, *banks, rows_BK1, z, SETTINGS.temperature)
    return value, log_z


def test_loss_and_normalizers_equal_the_loops_and_normalizers_stay() -> None:
    memory = make_memory()
    assert memory.log_normalizers.isnan().all()
    kept = []
    for step in range(3):
        student, target, batch = random_records(INDEX_B, seed=step)
        student_BD, target_BD = memory.embed(student, target)
        expected, log_z = expected_loss(memory, student_BD, target_BD, step)
        loss = memory.loss(student_BD, target_BD, batch, step)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        assert torch.allclose(memory.log_normalizers, log_z, atol=1e-5)
        kept.append(memory.log_normalizers.clone())
        assert torch.equal(kept[step], kept[0])
        memory.remember(batch.index_B, student_BD.detach(), target_BD.detach())


def test_only_the_rows_of_the_batch_move() -> None:
    memory = make_memory()
    student, target, _ = random_records(INDEX_B)
    student_BD, target_BD = (embedded.detach() for embedded in memory.embed(student, target))
    before = {name: bank.clone() for name, bank in memory.named_buffers() if name.endswith("_ND")}
    memory.remember(INDEX_B, student_BD, target_BD)
    rows_B = memory.negatives.row_of_image_N[INDEX_B]
    others = torch.ones(IMAGES, dtype=torch.bool)
    others[rows_B] = False
    for name, embedded_BD in (("negatives.student_ND", student_BD), ("negatives.target_ND", target_BD)):
        after = memory.get_buffer(name)
        assert torch.equal(after[others], before[name][others])
        expected = slow.update_bank(before[name], rows_B, embedded_BD, SETTINGS.momentum)
        assert torch.allclose(after.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-6)
        assert not torch.allclose(after[rows_B], before[name][rows_B], atol=0.05)


def test_the_loss_is_a_function_of_seed_and_step() -> None:
    student, target, batch = random_records(INDEX_B)

    def value(seed: int, step: int) -> float:
        memory = make_memory(0)
        memory.negatives.seed = seed
        memory.log_normalizers.fill_(1.0)
        return memory.loss(*memory.embed(student, target), batch, step).item()

    assert value(0, 5) == value(0, 5)
    assert len({value(0, 5), value(0, 6), value(1, 5)}) == 3


def test_banks_are_a_function_of_the_seed_and_differ() -> None:
    one, same, other = make_memory(0), make_memory(0), make_memory(1)
    assert torch.equal(one.negatives.student_ND, same.negatives.student_ND)
    assert not torch.equal(one.negatives.student_ND, other.negatives.student_ND)
    assert not torch.equal(one.negatives.student_ND, one.negatives.target_ND)


def test_gradient_flows_to_heads_and_features_but_not_to_banks() -> None:
    memory = make_memory()
    student, target, batch = random_records(INDEX_B)
    student.feats_BF.requires_grad_()
    memory.loss(*memory.embed(student, target), batch, 0).backward()
    assert student.feats_BF.grad is not None
    assert student.feats_BF.grad.abs().sum() > 0
    names = {name for name, parameter in memory.named_parameters() if parameter.grad.abs().sum() > 0}
    assert {"student_head.weight", "teacher_heads.0.weight", "teacher_heads.1.weight"} <= names
    assert not any(buffer.requires_grad for buffer in memory.buffers())


def test_a_checkpoint_carries_banks_and_normalizers_but_nothing_that_labels_give() -> None:
    memory = make_memory(0)
    memory.log_normalizers.fill_(2.0)
    state = memory.state_dict()
    buffers = {name for name in state if not name.endswith(("weight", "bias"))}
    assert buffers == {"negatives.student_ND", "negatives.target_ND", "log_normalizers"}
    other = make_memory(1)
    other.load_state_dict(state)
    assert torch.equal(other.negatives.student_ND, memory.negatives.student_ND)
    assert torch.equal(other.log_normalizers, memory.log_normalizers)
    assert torch.equal(other.negatives.class_starts_C, memory.negatives.class_starts_C)


def test_shared_negatives_are_the_batchs_and_leave_out_the_own_class() -> None:
    memory = make_memory(settings=replace(SETTINGS, negatives="shared"))
    student, target, batch = random_records(INDEX_B)
    student_BD, target_BD = (part.detach() for part in memory.embed(student, target))
    scores, shares_B = memory.negatives(student_BD, target_BD, batch, 3)
    rows_K = below(draw(0, 3, (9,), "cpu"), IMAGES)
    label_of_row = LABELS_N[memory.negatives.row_of_image_N.argsort()]
    for side_BK1, v_BD, bank_ND in zip(
        scores,
        (student_BD, target_BD),
        (memory.negatives.target_ND, memory.negatives.student_ND),
        strict=True,
    ):
        for b, image in enumerate(INDEX_B.tolist()):
            for k, row in enumerate(rows_K.tolist()):
                same_class = label_of_row[row] == LABELS_N[image]
                expected = -math.inf if same_class else float(v_BD[b] @ bank_ND[row]) / 0.2
                assert side_BK1[b, k + 1].item() == pytest.approx(expected, abs=1e-5)
            positive = float(v_BD[b] @ bank_ND[memory.negatives.row_of_image_N[image]]) / 0.2
            assert side_BK1[b, 0].item() == pytest.approx(positive, abs=1e-5)
    counted = (label_of_row[rows_K] != LABELS_N[INDEX_B][:, None]).double().mean(1)
    assert shares_B.tolist() == pytest.approx(counted.clamp(min=1 / 9).tolist())


def test_shared_negatives_leave_out_exactly_the_rows_of_the_own_class() -> None:
    memory = make_memory(settings=replace(SETTINGS, negatives="shared", num_negatives=500))
    _, _, batch = random_records(torch.arange(IMAGES))
    v_BD = torch.eye(6)[torch.arange(IMAGES) % 6]
    scores, shares_B = memory.negatives(v_BD, v_BD, batch, 0)
    label_of_row = LABELS_N[memory.negatives.row_of_image_N.argsort()]
    rows_K = below(draw(0, 0, (500,), "cpu"), IMAGES)
    assert len(rows_K.unique()) == IMAGES
    same_BK = label_of_row[rows_K] == LABELS_N[:, None]
    for side_BK1 in scores:
        assert torch.equal(side_BK1[:, 1:] == -math.inf, same_BK)
    assert shares_B.tolist() == pytest.approx((~same_BK).double().mean(1).tolist())


@pytest.mark.parametrize("negatives", ["shared", "queue"])
def test_an_image_without_any_negative_has_the_loss_of_its_positive(
    negatives: Literal["shared", "queue"],
) -> None:
    memory = make_memory(settings=replace(SETTINGS, negatives=negatives, num_negatives=1))
    memory.log_normalizers.fill_(1.0)
    # An image of the class of the only candidate.
    image = LABELS_N.argsort(stable=True)[below(draw(0, 1, (1,), "cpu"), IMAGES)]
    student, target, batch = random_records(image)
    student_BD, target_BD = (part.detach().requires_grad_() for part in memory.embed(student, target))
    if negatives == "queue":
        memory.remember(image, student_BD.detach(), target_BD.detach())
    scores, _ = memory.negatives(student_BD, target_BD, batch, 1)
    assert all(side_BK1[0, 1] == -math.inf for side_BK1 in scores)
    loss = memory.loss(student_BD, target_BD, batch, 1)
    positives = [math.exp(side_BK1[0, 0].item() - 1) for side_BK1 in scores]
    assert loss.item() == pytest.approx(sum(math.log(1 + 1 / IMAGES / p) for p in positives), rel=1e-5)
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, (student_BD, target_BD)))


def test_parts_of_a_step_have_the_negatives_of_the_whole_step() -> None:
    memory = make_memory()
    memory.log_normalizers.fill_(2.0)
    student, target, batch = random_records(INDEX_B)
    student_BD, target_BD = (part.detach() for part in memory.embed(student, target))
    whole, _ = memory.negatives(student_BD, target_BD, batch, 7)
    for places in (slice(0, 1), slice(1, 4)):
        index = torch.arange(4)[places]
        part, _ = memory.negatives(student_BD[places], target_BD[places], batch.at(index), 7, places.start, 4)
        for side_BK1, of_part in zip(whole, part, strict=True):
            torch.testing.assert_close(of_part, side_BK1[places])
    losses = [
        memory.loss(
            student_BD[places],
            target_BD[places],
            batch.at(torch.arange(4)[places]),
            7,
            first=places.start,
            of_step=4,
        )
        for places in (slice(0, 1), slice(1, 4))
    ]
    expected = memory.loss(student_BD, target_BD, batch, 7)
    assert float(0.25 * losses[0] + 0.75 * losses[1]) == pytest.approx(float(expected), rel=1e-6)
    # A stand-in lies behind the last image of the step, and has the negatives of the last one.
    stand_in, _ = memory.negatives(student_BD[3:], target_BD[3:], batch.at(torch.tensor([3])), 7, 4, 4)
    torch.testing.assert_close(stand_in[0], whole[0][3:])


def test_later_parts_of_the_first_step_keep_the_normalizers_of_its_first_part() -> None:
    memory = make_memory()
    student, target, batch = random_records(INDEX_B)
    student_BD, target_BD = (part.detach() for part in memory.embed(student, target))
    memory.loss(student_BD[:2], target_BD[:2], batch.at(torch.tensor([0, 1])), 0, first=0, of_step=4)
    first = memory.log_normalizers.clone()
    assert first.isfinite().all()
    memory.loss(student_BD[2:], target_BD[2:], batch.at(torch.tensor([2, 3])), 0, first=2, of_step=4)
    assert torch.equal(memory.log_normalizers, first)


def test_shared_negatives_have_the_expectation_of_own_ones() -> None:
    student, target, batch = random_records(INDEX_B)
    values: dict[Literal["memory-bank", "shared"], list[float]] = {"memory-bank": [], "shared": []}
    for kind, losses in values.items():
        memory = make_memory(settings=replace(SETTINGS, negatives=kind, num_negatives=40))
        memory.log_normalizers.fill_(3.0)
        embedded = [part.detach() for part in memory.embed(student, target)]
        losses += [memory.loss(*embedded, batch, step).item() for step in range(1, 400)]
    means = {kind: torch.tensor(losses).mean().item() for kind, losses in values.items()}
    spread = torch.tensor(values["shared"]).std().item() / math.sqrt(400)
    assert abs(means["memory-bank"] - means["shared"]) < 4 * spread


def test_a_queue_holds_the_latest_embeddings_and_their_labels() -> None:
    memory = make_memory(settings=replace(SETTINGS, negatives="queue", num_negatives=6))
    queue = memory.negatives
    assert isinstance(queue, Queues)
    student, target, batch = random_records(INDEX_B)
    student_BD, target_BD = (part.detach() for part in memory.embed(student, target))
    scores, shares_B = queue(student_BD, target_BD, batch, 0)
    assert torch.equal(shares_B, torch.ones(4))
    positives = (student_BD * target_BD).sum(1) / 0.2
    assert torch.allclose(scores[0][:, 0], positives)
    assert torch.allclose(scores[1][:, 0], positives)
    for _ in range(2):
        memory.remember(INDEX_B, student_BD, target_BD)
    order = [2, 3, 2, 3, 0, 1]
    assert torch.equal(queue.student_KD[[0, 1, 4, 5]], student_BD[[2, 3, 0, 1]])
    assert torch.equal(queue.target_KD[2:4], target_BD[2:4])
    assert queue.labels_K.tolist() == LABELS_N[INDEX_B][order].tolist()
    scores, _ = queue(student_BD, target_BD, batch, 1)
    same = queue.labels_K == LABELS_N[INDEX_B][:, None]
    assert torch.equal(scores[0][:, 1:] == -math.inf, same)
    assert memory.loss(student_BD, target_BD, batch, 0).isfinite()


def test_the_student_is_compared_with_the_targets_queue_and_the_target_with_the_students() -> None:
    memory = make_memory(settings=replace(SETTINGS, negatives="queue"))
    queue = memory.negatives
    assert isinstance(queue, Queues)
    assert not torch.allclose(queue.student_KD, queue.target_KD, atol=0.1)
    student, target, batch = random_records(INDEX_B)
    student_BD, target_BD = (part.detach() for part in memory.embed(student, target))
    scores, _ = queue(student_BD, target_BD, batch, 0)
    everything = torch.arange(SETTINGS.num_negatives).expand(4, -1)
    for side_BK1, v_BD, queue_KD in (
        (scores[0], student_BD, queue.target_KD),
        (scores[1], target_BD, queue.student_KD),
    ):
        expected = slow.bank_scores(v_BD, queue_KD, everything, SETTINGS.temperature)
        torch.testing.assert_close(
            side_BK1[:, 1:].exp().double(), torch.tensor(expected).double(), rtol=1e-4, atol=0
        )


def test_a_queue_goes_on_where_its_checkpoint_was_saved() -> None:
    settings = replace(SETTINGS, negatives="queue", num_negatives=7)
    whole, stopped = make_memory(settings=settings), make_memory(settings=settings)
    for step in range(5):
        if step == 3:
            resumed = make_memory(seed=1, settings=settings)
            resumed.load_state_dict(stopped.state_dict())
            stopped = resumed
        v_BD = torch.nn.functional.one_hot(torch.arange(4) + step % 3, 6).float()
        for memory in (whole, stopped):
            memory.remember(INDEX_B, v_BD, -v_BD)
    for name, expected in whole.negatives.named_buffers():
        assert torch.equal(stopped.negatives.get_buffer(name), expected), name


def test_a_queue_shorter_than_a_batch_keeps_its_end() -> None:
    memory = make_memory(settings=replace(SETTINGS, negatives="queue", num_negatives=3))
    v_BD = torch.eye(6)[:4]
    memory.remember(INDEX_B, v_BD, v_BD)
    assert memory.negatives.student_KD.argmax(1).tolist() == [1, 2, 3]
    assert memory.negatives.labels_K.tolist() == LABELS_N[INDEX_B][1:].tolist()
