"""Parts of one image are refused before the first step, where the student cannot be trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from richkd.core.errors import ConfigError, DeviceMemoryError
from richkd.core.types import Batch
from richkd.pipeline.assemble import Parts, assemble
from richkd.training.batch_parts import part_sizes, refuse_small_parts
from richkd.training.check import check_run
from richkd.training.failures import raise_with_batch_size_advice
from richkd.training.run import distill
from tests.fixtures import World, make_images, refusal

# At 4 px, the last maps of the student have one pixel, so one image has one value per channel.
TINY: dict[str, Any] = {"student__size": 4, "method__name": "ce", "train__epochs": 1}
CPU = torch.device("cpu")


def parts_of(world: World, **changes: Any) -> Parts:
    return assemble(world.config(Path("unused"), **TINY | changes), CPU)


@given(st.integers(1, 40), st.integers(1, 12))
def test_sizes_are_those_of_the_parts_of_a_batch(images: int, parts: int) -> None:
    batch = Batch("train", torch.arange(images), torch.zeros(images, 1, 1, 3), torch.zeros(images))
    assert part_sizes(images, parts) == [len(part) for part in batch.chunks(parts)]


def test_a_part_of_one_image_is_refused_with_all_numbers(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", **TINY | {"train__batch_size": 9, "train__grad_accum_steps": 5})
    for command in (
        lambda: distill(config, quiet=True),
        lambda: check_run(config, Console(quiet=True)),
    ):
        error = refusal(command)
        assert isinstance(error, ConfigError)
        assert "cifar_resnet8 has batch normalization" in error.rule
        assert "a batch of 9 images, train.grad_accum_steps 5: parts of 2, 2, … and 1 images" in str(
            error.got
        )
        assert "set train.grad_accum_steps to 4" in str(error.fix)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "world_size", "refused"),
    [
        ({}, 1, False),
        ({"train__batch_size": 8, "train__grad_accum_steps": 4}, 1, False),
        ({"train__batch_size": 8, "train__grad_accum_steps": 8}, 1, True),
        ({"train__batch_size": 8, "train__grad_accum_steps": 100}, 1, True),
        ({"train__batch_size": 7, "train__grad_accum_steps": 3}, 1, True),
        # No accumulation, but one image for a process.
        ({"train__batch_size": 8}, 4, False),
        ({"train__batch_size": 8}, 8, True),
        ({"train__batch_size": 5}, 3, True),
        ({"train__batch_size": 8, "train__grad_accum_steps": 2}, 3, True),
        # A batch is the whole split if that is smaller: 36 images make parts of 5, and one of 1.
        ({"train__batch_size": 64, "train__grad_accum_steps": 8}, 1, True),
        # Where maps keep several pixels, one image is enough.
        ({"student__size": 16, "train__batch_size": 8, "train__grad_accum_steps": 8}, 1, False),
        (
            {
                "student__name": "tests.fixtures:PlainNet",
                "train__batch_size": 8,
                "train__grad_accum_steps": 8,
            },
            1,
            False,
        ),
    ],
)
def test_only_students_that_need_two_images_are_refused(
    world: World, changes: dict[str, Any], world_size: int, refused: bool
) -> None:
    parts = parts_of(world, **changes)
    modes = [module.training for module in parts.student.modules()]
    if refused:
        assert isinstance(refusal(refuse_small_parts, parts, world_size), ConfigError)
    else:
        refuse_small_parts(parts, world_size)
    assert [module.training for module in parts.student.modules()] == modes


@pytest.mark.parametrize(
    ("method", "batch_size", "accumulated", "world_size", "refused"),
    [
        ("rkd", 8, 4, 1, "three images or more"),
        ("rkd", 9, 3, 1, None),
        ("sp", 8, 1, 8, "two images or more"),
        ("sp", 8, 4, 1, None),
        ("pkt", 9, 5, 1, "two images or more"),
        ("embed", 8, 8, 1, None),
    ],
)
def test_a_term_that_compares_images_needs_enough(
    world: World, method: str, batch_size: int, accumulated: int, world_size: int, refused: str | None
) -> None:
    # The student itself can be trained with one image.
    sizes = {"student__size": 16, "train__batch_size": batch_size, "train__grad_accum_steps": accumulated}
    parts = parts_of(world, method__name=method, **sizes)
    if refused is None:
        refuse_small_parts(parts, world_size)
        return
    error = refusal(refuse_small_parts, parts, world_size)
    assert isinstance(error, ConfigError)
    because = f"{refused}, because term objective.{method} computes over several images"
    assert because in error.rule
    if method == "rkd":
        assert "set train.grad_accum_steps to 2" in str(error.fix)
        assert "train.batch_size, such as 12" in str(error.fix)


def test_a_process_must_have_images_and_as_many_parts_as_the_others(world: World) -> None:
    error = refusal(refuse_small_parts, parts_of(world, train__batch_size=2), 3)
    assert error.rule == "Every process must have an image of each batch"
    assert error.got == "2 images in a batch for 3 processes"
    # 5 images make 3 parts (2, 2, 1), and 4 images make 4: the processes would wait for each other.
    parts = parts_of(world, student__size=16, train__batch_size=9, train__grad_accum_steps=4)
    error = refusal(refuse_small_parts, parts, 2)
    assert "5 images make 3 parts, and 4 images make 4" in str(error.got)
    assert "multiple of 2" in str(error.fix)


def test_groups_with_unlabeled_images_are_counted_as_they_are(world: World, tmp_path: Path) -> None:
    make_images(tmp_path, seed=9)
    # 6 labeled and 16 unlabeled images: a batch has 6 and 11 of them.
    changes = {"data__unlabeled": str(tmp_path / "train" / "ant"), "data__unlabeled_fraction": 0.5}
    changes |= {"method__name": "kd", "data__val_fraction": 0.9, "train__batch_size": 64}
    parts = parts_of(world, **changes)
    sizes = {len(group) for group in parts.order().epoch(0)}
    assert sizes == {parts.order().images_of_step}
    assert parts.order().images_of_step < parts.order().full_batch == 22
    size = parts.order().images_of_step
    parts = parts_of(world, **changes, train__grad_accum_steps=size)
    assert f"a batch of {size} images" in str(refusal(refuse_small_parts, parts).got)


def test_advice_for_full_memory_never_leaves_a_part_of_one_image() -> None:
    batch = Batch("train", torch.arange(10), torch.zeros(10, 2, 2, 3), torch.zeros(10))

    def attempt(part: Batch) -> None:
        if len(part) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.")

    error = RuntimeError("CUDA out of memory. Tried to allocate 4 GiB.")
    # Four parts of 10 images are 3, 3, 3 and 1.
    advice = refusal(raise_with_batch_size_advice, error, batch, 1, attempt)
    assert isinstance(advice, DeviceMemoryError)
    assert "grad_accum_steps 4" not in str(advice.fix)
