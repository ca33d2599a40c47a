"""Parts with too few images for a term are refused before the first step; no part has a single image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from richkd.core.errors import ConfigError
from richkd.data.shares import part_sizes
from richkd.pipeline.assemble import Parts, assemble
from richkd.training.batch_parts import refuse_small_parts
from richkd.training.check import check_run
from richkd.training.run import distill
from tests.fixtures import World, make_images, refusal

# At 4 px, the last maps of the student have one pixel, so one image has one value per channel.
TINY: dict[str, Any] = {"student__size": 4, "method__name": "ce", "train__epochs": 1}
CPU = torch.device("cpu")


def parts_of(world: World, **changes: Any) -> Parts:
    return assemble(world.config(Path("unused"), **TINY | changes), CPU)


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(1, 60))
def test_no_part_has_a_single_image(images: int, parts: int) -> None:
    sizes = part_sizes(images, parts)
    assert sum(sizes) == images
    assert len(sizes) <= parts
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 3


@pytest.mark.parametrize(("images", "accumulated"), [(9, 5), (8, 100), (5, 2), (2, 2)])
def test_a_student_that_needs_two_images_is_trained_with_any_number_of_parts(
    world: World, tmp_path: Path, images: int, accumulated: int
) -> None:
    sizes = {"train__batch_size": images, "train__grad_accum_steps": accumulated}
    distill(world.config(tmp_path / "run", **TINY | sizes), quiet=True)


@pytest.mark.parametrize(
    ("method", "batch_size", "accumulated", "refused"),
    [
        ("rkd", 8, 4, "three images or more"),
        ("rkd", 9, 2, None),
        ("rkd", 2, 1, "three images or more"),
        ("sp", 8, 8, None),
        ("pkt", 9, 5, None),
        ("embed", 8, 8, None),
    ],
)
def test_a_term_that_compares_images_needs_enough(
    world: World, method: str, batch_size: int, accumulated: int, refused: str | None
) -> None:
    # The student itself can be trained with one image.
    sizes = {"student__size": 16, "train__batch_size": batch_size, "train__grad_accum_steps": accumulated}
    parts = parts_of(world, method__name=method, **sizes)
    if refused is None:
        refuse_small_parts(parts)
        return
    error = refusal(refuse_small_parts, parts)
    assert isinstance(error, ConfigError)
    because = f"{refused}, because term objective.{method} computes over several images"
    assert because in error.rule
    if accumulated > 1:
        assert f"a batch of 8 images, train.grad_accum_steps {accumulated}: parts of 2, 2, 2, 2" in str(
            error.got
        )
        assert "set train.grad_accum_steps to 2" in str(error.fix)
        assert "train.batch_size, such as 16" in str(error.fix)


def test_check_and_run_refuse_the_same_parts(world: World, tmp_path: Path) -> None:
    changes = {"method__name": "rkd", "train__batch_size": 8, "train__grad_accum_steps": 4}
    config = world.config(tmp_path / "run", **changes)
    for command in (
        lambda: distill(config, quiet=True),
        lambda: check_run(config, Console(quiet=True)),
    ):
        assert "three images or more" in refusal(command).rule
    assert not (tmp_path / "run").exists()


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
    parts = parts_of(world, **changes | {"method__name": "rkd"}, train__grad_accum_steps=size)
    assert f"a batch of {size} images" in str(refusal(refuse_small_parts, parts).got)
