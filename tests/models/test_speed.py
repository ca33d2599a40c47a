"""Precision and compiling: the candidates, the choice from measured times, no effect of measuring."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.config.schema import ModelConfig
from richkd.core.errors import ConfigError
from richkd.core.precision import precisions_of
from richkd.models import speed as module
from richkd.models.build import Network, build_network
from richkd.models.compiling import STEPS_TO_REPAY
from richkd.models.speed import MEASURED_FROM, Speed, SpeedChooser, measure, read_speeds, sealed
from richkd.pipeline.assemble import assemble
from richkd.training.run import distill
from tests.fixtures import World, flip_bit

CPU = torch.device("cpu")
LONG = STEPS_TO_REPAY["cpu"]


@pytest.fixture
def network() -> Network:
    return build_network(ModelConfig(name="cifar_resnet8", size=8), 3, role="student")


def pretend(monkeypatch: pytest.MonkeyPatch, *, each: dict[str, float], once: float = 0.0) -> list[str]:
    """Replace measured times (seconds); returns the list of measured candidates."""
    measured: list[str] = []

    def times(calls: dict[str, Callable[[], None]], device: torch.device) -> Any:
        measured.extend(calls)
        seconds = {name: each[name] for name in calls if name in each}
        return {name: once if "compiled" in name else 0.0 for name in seconds}, seconds

    monkeypatch.setattr(module, "measure", times)
    monkeypatch.setattr(module, "precisions_of", lambda device: ("fp32", "bf16"))
    monkeypatch.setattr(module, "compile_repays", lambda how, steps, device: how != "never" and steps >= LONG)
    return measured


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ({"float32": 0.10, "bfloat16": 0.05}, "bfloat16"),
        ({"float32": 0.048, "bfloat16": 0.105}, "float32"),
        ({"float32": 0.100, "bfloat16": 0.099}, "float32"),  # within the noise of a measurement
        ({"float32": 0.100}, "float32"),  # the other one failed
        ({"bfloat16": 0.100}, "float32"),  # training reports why the first one fails
    ],
)
def test_the_fastest_is_chosen(
    monkeypatch: pytest.MonkeyPatch, network: Network, each: dict[str, float], expected: str
) -> None:
    measured = pretend(monkeypatch, each=each)
    lines: list[str] = []
    chooser = SpeedChooser(MEASURED_FROM, 8, CPU, log=lines.append)
    speed = chooser.choose("student", network, "auto", "auto", trained=True)
    assert speed.label == expected
    assert measured == ["float32", "bfloat16"]
    assert lines[0].startswith(f"precision: student {expected}")
    # The same network is not measured again, and the choice is JSON.
    assert chooser.choose("student", network, "auto", "auto", trained=True) == speed
    assert len(measured) == 2
    again = SpeedChooser(MEASURED_FROM, 8, CPU, speeds=json.loads(json.dumps(chooser.speeds)))
    assert again.choose("student", network, "auto", "auto", trained=True) == speed


@pytest.mark.parametrize(("once", "expected"), [(20.0, "bfloat16, compiled"), (400.0, "bfloat16")])
def test_compiling_is_chosen_if_it_saves_more_than_it_takes(
    monkeypatch: pytest.MonkeyPatch, network: Network, once: float, expected: str
) -> None:
    each = {"float32": 0.2, "float32, compiled": 0.18, "bfloat16": 0.15, "bfloat16, compiled": 0.1}
    measured = pretend(monkeypatch, each=each, once=once)
    chooser = SpeedChooser(LONG, 8, CPU)
    assert chooser.choose("student", network, "auto", "auto", trained=True).label == expected
    assert measured == list(each)


def test_settings_and_short_runs_need_no_measurement(
    monkeypatch: pytest.MonkeyPatch, network: Network
) -> None:
    measured = pretend(monkeypatch, each={"float32": 1.0, "bfloat16": 0.1})

    def label_of(steps: int, precision: str, compiling: str, *, measures: bool = True) -> str:
        chooser = SpeedChooser(steps, 8, CPU, measures)
        return chooser.choose("student", network, precision, compiling, trained=True).label

    assert label_of(LONG, "fp32", "never") == "float32"
    assert label_of(10, "bf16", "auto") == "bfloat16"
    assert label_of(LONG, "bf16", "always") == "bfloat16, compiled"
    assert label_of(MEASURED_FROM - 1, "auto", "auto") == "float32"
    assert label_of(LONG, "auto", "auto", measures=False) == "float32"
    assert measured == []


def test_always_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        SpeedChooser(10, 8, CPU).choose("student", network, "fp32", "always", trained=True)


def test_measuring_changes_neither_the_network_nor_random_numbers(network: Network) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    chooser = SpeedChooser(MEASURED_FROM, 4, CPU)
    for name, trained in (("student", True), ("teacher", False)):
        speed = chooser.choose(name, network, "auto", "never", trained=trained)
        assert set(speed.milliseconds) in ({"float32", "bfloat16"}, set())
        assert bool(speed.milliseconds) == (len(precisions_of(CPU)) > 1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.training


def test_calls_take_turns_and_those_that_fail_are_left_out() -> None:
    order: list[str] = []
    paused: list[bool] = []

    def slow_at_first() -> None:
        order.append("slow at first")
        time.sleep(0.005 if paused else 0.1)
        paused.append(True)

    def broken() -> None:
        raise RuntimeError("no such kernel")

    calls = {"slow at first": slow_at_first, "fast": lambda: order.append("fast"), "broken": broken}
    once, each = measure(calls, CPU)
    assert list(each) == ["slow at first", "fast"]
    assert order[:4] == ["slow at first", "fast"] * 2
    assert 0.05 < once["slow at first"] < 1
    assert 0.005 <= each["slow at first"] < 0.1


def test_a_damaged_record_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    path.write_text(json.dumps({"student": {"precision": "bf16", "compiled": False, "milliseconds": {}}}))
    assert Speed(**read_speeds(path)["student"]).autocast == torch.bfloat16
    for content in ("", "[]", '{"student": 1}', '{"student": {"speed": 3}}'):
        path.write_text(content)
        assert read_speeds(path) == {}


def test_a_record_with_a_hash_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    choice = {"precision": "bf16", "compiled": False, "milliseconds": {"bfloat16": 1.5}}
    path.write_text(json.dumps(sealed({"student": choice}), indent=2))
    assert read_speeds(path) == {"student": choice}
    original = path.read_bytes()
    for bit in range(8 * len(original)):
        flip_bit(path, bit)
        assert read_speeds(path) in ({}, {"student": choice})
        path.write_bytes(original)


def test_a_resumed_run_keeps_its_choice(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice is read from the run folder: the other precision would have other bits."""
    monkeypatch.setattr(module, "MEASURED_FROM", 1)
    pretend(monkeypatch, each={"float32": 1.0, "bfloat16": 0.1})
    changes = {"train__precision": "auto", "method__name": "ce"}
    whole = distill(world.config(tmp_path / "whole", **changes), quiet=True)
    recorded = json.loads((whole.folder / "speed.json").read_text())
    assert recorded["student"]["precision"] == "bf16"
    pretend(monkeypatch, each={"float32": 0.1, "bfloat16": 1.0})
    resumed = distill(world.config(tmp_path / "whole", **changes), resume=True, quiet=True)
    assert json.loads((resumed.folder / "speed.json").read_text()) == recorded
    other = distill(world.config(tmp_path / "other", **changes), quiet=True)
    assert json.loads((other.folder / "speed.json").read_text())["student"]["precision"] == "fp32"


def test_a_teacher_cache_keeps_the_precision_of_a_teacher(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEASURED_FROM", 1)
    changes = {"method__name": "kd", "cache__dir": str(tmp_path / "cache")}
    changes |= {"train__teacher_precision": "auto"}
    computed = []
    for run, times in enumerate(({"float32": 1.0, "bfloat16": 0.1}, {"float32": 0.1, "bfloat16": 1.0})):
        pretend(monkeypatch, each=times)
        result = distill(world.config(tmp_path / f"run-{run}", **changes), quiet=True)
        computed.append(sum(result.summary["images_through_teachers"].values()))
        recorded = json.loads((result.folder / "speed.json").read_text())
        assert recorded["teacher-1"]["precision"] == "bf16"
    assert computed[0] > 0
    assert computed[1] == 0
    # One letter of the record: the precision is measured again, and the log says so.
    path = tmp_path / "cache" / "speed.json"
    path.write_text(path.read_text().replace("bf16", "bf32"))
    lines: list[str] = []
    assemble(world.config(tmp_path / "run-2", **changes), torch.device("cpu"), lines.append, {})
    assert any(line.startswith("warning") and str(path) in line for line in lines)
    assert "fp32" in path.read_text()


def test_a_precision_that_is_emulated_is_a_warning(monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    monkeypatch.setattr("richkd.core.precision._cpu_has_bf16", lambda: False)
    lines: list[str] = []
    SpeedChooser(LONG, 4, CPU, log=lines.append).choose("student", network, "bf16", "never", trained=True)
    assert len(lines) == 1
    assert "warning: student: this processor has no instructions for bfloat16" in lines[0]
    SpeedChooser(LONG, 4, CPU, log=lines.append).choose("student", network, "fp32", "never", trained=True)
    assert len(lines) == 1
    monkeypatch.setattr("richkd.core.precision._cpu_has_bf16", lambda: True)
    SpeedChooser(LONG, 4, CPU, log=lines.append).choose("student", network, "bf16", "never", trained=True)
    assert len(lines) == 1
