"""Compiling where it repays: a choice that resuming does not change, and the same run to the eye."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from richkd.core.errors import ConfigError
from richkd.core.types import Output
from richkd.models.compiling import STEPS_TO_REPAY, compile_fixed, compile_repays
from richkd.training.run import distill
from tests.fixtures import World

CPU = torch.device("cpu")


def test_the_choice_depends_on_the_length_of_the_run() -> None:
    enough = STEPS_TO_REPAY["cpu"]
    assert compile_repays("auto", enough, CPU)
    assert not compile_repays("auto", enough - 1, CPU)
    assert not compile_repays("auto", 10**9, torch.device("meta"))
    assert compile_repays("always", 1, CPU)
    assert not compile_repays("never", 10**9, CPU)


def test_without_a_compiler_auto_goes_on_and_always_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("richkd.models.compiling.shutil.which", lambda name: None)
    assert not compile_repays("auto", 10**9, CPU)
    with pytest.raises(ConfigError, match="install g"):
        compile_repays("always", 10**9, CPU)


def test_state_keeps_its_names_and_the_compiled_student_is_what_runs(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def fake(call: object, device: torch.device, **options: object) -> object:
        def run(pixels: torch.Tensor, maps: bool) -> Output:
            called.append(len(pixels))
            return call(pixels, maps)  # type: ignore[operator,no-any-return]

        return run

    monkeypatch.setattr("richkd.training.task.compile_fixed", fake)
    plain = distill(world.config(tmp_path / "plain", train__compile="never"), quiet=True)
    assert not called
    run = distill(world.config(tmp_path / "compiled", train__compile="always"), quiet=True)
    assert called
    for part in ("student/model.safetensors", "metrics.jsonl"):
        assert (run.folder / part).read_bytes() == (plain.folder / part).read_bytes()


@pytest.mark.slow
def test_a_compiled_run_ends_near_the_plain_one(world: World, tmp_path: Path) -> None:
    settings = {"train__precision": "fp32", "train__epochs": 1}
    runs = [
        distill(world.config(tmp_path / choice, train__compile=choice, **settings), quiet=True)
        for choice in ("never", "always")
    ]
    losses = [run.summary["splits"]["val"]["nll"] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize(
    ("device", "repeated", "expected"),
    [("cuda", True, {"triton.cudagraphs": True}), ("cuda", False, None), ("cpu", True, None)],
)
def test_kernels_are_recorded_on_a_gpu_unless_gradients_add_up(
    monkeypatch: pytest.MonkeyPatch, device: str, repeated: bool, expected: dict[str, bool] | None
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda call, *, dynamic, options: asked.append(options))
    compile_fixed(abs, torch.device(device), repeated=repeated)
    assert asked == [expected]
