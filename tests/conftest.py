"""What every test shares: where the real data lie, and one thread for each process."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.fixtures import World

# Several test processes share the machine; more threads than cores make all of them slower. The variable is
# for the commands, kernels and launchers that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_finish() -> None:
    """Leave all loaded modules out of garbage collections: each run does one, in half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets, or a skip that says what is missing."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RICHKD_DATA", default))
    if not folder.is_dir():
        pytest.skip("real data not found: set RICHKD_DATA to the folder that holds cifar100/, caltech101/, …")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Tiny images, a tiny teacher and a CLIP's stored outputs; tests must not change them."""
    # The hub's library reads its settings when it is imported, so they have to be made first.
    from tests.fixtures import make_world

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def full_run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run of a teacher with settings of its own; tests must not change it."""
    from richkd.training.run import distill

    out = tmp_path_factory.mktemp("full") / "teacher"
    recipe = {"method__name": "ce", "train__epochs": 2, "train__seed": 3, "optim__lr": 0.07}
    return distill(world.config(out, **recipe, augment__pad=1), quiet=True).folder


@pytest.fixture(scope="session")
def repeated(full_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three teachers of folds that repeat `full_run`; tests must not change them."""
    from richkd.config.teacher_run import recipe_of
    from richkd.training.run import teach_folds

    out = tmp_path_factory.mktemp("repeated") / "folds"
    teach_folds(recipe_of(full_run, {"out": str(out)}), 3, full=full_run, quiet=True)
    return out
