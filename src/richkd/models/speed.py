"""Choose precision and compiling by measuring them: what is fastest depends on network, device and input.

A choice changes the last bits of a run. So it is printed, stored in the run folder, and used again when the
run is resumed. The precision of a teacher is also stored in the teacher cache, whose outputs depend on it.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from richkd.core.logs import Log
from richkd.core.precision import autocast_dtype, emulation_warning, precisions_of
from richkd.core.processes import on_first, world
from richkd.core.structured import read_json
from richkd.core.waiting import still
from richkd.models.build import Network
from richkd.models.compiling import compile_fixed, compile_repays

# Shorter runs take the first candidate, because measuring would cost more than it saves.
MEASURED_FROM = 100
# Each candidate is measured so often at least and at most, within these seconds for all of them: slow steps
# are measured less often, and fast ones, whose times vary more, until the least time hardly changes.
ROUNDS, SECONDS = (5, 50), (1.0, 10.0)
# Another candidate than the first is chosen if it takes at most this share of the first one's time. The
# margin is larger than the noise of the measurement, so that equal runs rarely choose differently.
MARGIN = 0.93
# File in a run folder and in a teacher cache with the choices.
SPEED = "speed.json"
HASH = "sha256"
NAMES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Speed:
    """How a network is computed.

    Attributes:
        precision: ``"fp32"`` or ``"bf16"`` (autocast).
        compiled: whether its forward pass is compiled.
        milliseconds: measured time of a step by candidate; empty if nothing was measured.

    Example:
        >>> Speed("bf16", milliseconds={"bfloat16": 21.3, "float32": 30.0}).describe()
        'bfloat16 (21 ms a step; float32 30 ms)'
    """

    precision: str
    compiled: bool = False
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def autocast(self) -> torch.dtype | None:
        """The autocast dtype; None for float32."""
        return autocast_dtype(self.precision)

    @property
    def label(self) -> str:
        """Name of the choice for messages."""
        return NAMES[self.precision] + (", compiled" if self.compiled else "")

    def describe(self) -> str:
        """The choice and the measured times in one line."""
        if not self.milliseconds:
            return self.label
        others = [f"{name} {ms:.0f} ms" for name, ms in self.milliseconds.items() if name != self.label]
        times = "; ".join([f"{self.milliseconds[self.label]:.0f} ms a step", *others])
        return f"{self.label} ({times})"


@dataclass
class SpeedChooser:
    """Chooses how the networks of a run are computed, and remembers the choices.

    Attributes:
        steps: number of steps of the whole run.
        batch_size: images of a step.
        device: device of the networks.
        measure: whether ``"auto"`` is measured; else the first candidate is taken.
        speeds: choices by network, as JSON. Those of a run to resume are given here and used again.

    Example:
        >>> chooser = SpeedChooser(steps=10, batch_size=8, device=torch.device("cpu"))
        >>> chooser.first("auto", "never").label
        'float32'
    """

    steps: int
    batch_size: int
    device: torch.device
    measure: bool = True
    speeds: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: Log = lambda message: None

    def first(self, precision: str, compiling: str) -> Speed:
        """The candidate that is used without measuring."""
        return self._candidates(precision, compiling)[0]

    def choose(self, name: str, network: Network, precision: str, compiling: str, *, trained: bool) -> Speed:
        """Choose how a network is computed.

        Args:
            name: name of the network in messages, such as ``"student"``.
            network: the network, which is not changed.
            precision: ``"auto"``, ``"bf16"`` or ``"fp32"``.
            compiling: ``"auto"``, ``"always"`` or ``"never"``.
            trained: whether a step also has a backward pass.
        """
        if name not in self.speeds:
            candidates = self._candidates(precision, compiling)
            speed = candidates[0]
            if self.measure and len(candidates) > 1 and self.steps >= MEASURED_FROM:
                with still(f"measuring precisions and compiling of {name}"):
                    speed = on_first(lambda: self._fastest(candidates, network, trained=trained))
                self.log(f"precision: {name} {speed.describe()}")
            elif self.measure and (warning := emulation_warning(precision, self.device)):
                self.log(f"warning: {name}: {warning}")
            self.speeds[name] = asdict(speed)
        return Speed(**self.speeds[name])

    def _candidates(self, precision: str, compiling: str) -> list[Speed]:
        precisions = precisions_of(self.device) if precision == "auto" else (precision,)
        compiled = [False, True] if compiling == "auto" else [compiling == "always"]
        # What several processes compute together is not compiled (`richkd.models.joint_batch`).
        if world() > 1 or not compile_repays(compiling, self.steps, self.device):
            compiled = [False]
        return [Speed(*pair) for pair in itertools.product(precisions, compiled)]

    def _fastest(self, candidates: list[Speed], network: Network, *, trained: bool) -> Speed:
        """The candidate with the least time for all steps, including the time for compiling."""
        calls = {
            speed.label: _step(speed, network, self.batch_size, self.device, trained) for speed in candidates
        }
        once, each = measure(calls, self.device)
        totals = {name: once[name] + self.steps * each[name] for name in each}
        if candidates[0].label not in totals:  # it failed; training reports why
            return candidates[0]
        best = min(totals, key=totals.__getitem__)
        if totals[best] > MARGIN * totals[candidates[0].label]:
            best = candidates[0].label
        (speed,) = (speed for speed in candidates if speed.label == best)
        milliseconds = {name: round(1000 * seconds, 1) for name, seconds in each.items()}
        return Speed(speed.precision, speed.compiled, milliseconds)


def measure(
    calls: Mapping[str, Callable[[], None]], device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of the first call beyond those of a later one, and seconds of a later call (the least).

    Calls take turns, so that a change of the machine's load concerns all of them. Calls that fail, such as a
    precision that an operation lacks, are left out.

    Example:
        >>> once, each = measure({"pause": lambda: time.sleep(0.01)}, torch.device("cpu"))
        >>> 0.01 <= each["pause"] < 0.1
        True
    """
    first: dict[str, float] = {}
    for name, call in calls.items():
        try:
            first[name] = _seconds(call, device)
        except (RuntimeError, NotImplementedError):
            continue
    each = dict.fromkeys(first, float("inf"))
    began = time.perf_counter()
    for round_number in range(ROUNDS[1]):
        if round_number and time.perf_counter() - began > SECONDS[round_number < ROUNDS[0]]:
            break
        for name in each:
            each[name] = min(each[name], _seconds(calls[name], device))
    return {name: max(0.0, first[name] - each[name]) for name in each}, each


def seconds_of_step(network: Network, batch_size: int, device: torch.device, precision: str) -> float | None:
    """Seconds of a training step on random images, without the optimizer; None if the step fails.

    Args:
        network: the network, which is not changed.
        batch_size: images of the step.
        device: where the step is computed.
        precision: ``"auto"`` (the first one that the device has), ``"bf16"`` or ``"fp32"``.

    Example:
        >>> from richkd.models.cifar import cifar_resnet8
        >>> model = cifar_resnet8(num_classes=3)
        >>> network = Network(model, "cifar_resnet8", size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> 0 < seconds_of_step(network, 4, torch.device("cpu"), "fp32") < 10
        True
    """
    speed = Speed(precisions_of(device)[0] if precision == "auto" else precision)
    _, each = measure({"step": _step(speed, network, batch_size, device, trained=True)}, device)
    return each.get("step")


def read_speeds(path: Path) -> dict[str, dict[str, Any]]:
    """The recorded choices of precision; none if the file does not exist or is damaged.

    Example:
        >>> read_speeds(Path("nowhere.json"))
        {}
    """
    try:
        recorded = read_json(path)
        digest = recorded.pop(HASH, None)
        if digest not in (None, sealed(recorded)[HASH]):
            return {}
        return {name: asdict(Speed(**choice)) for name, choice in recorded.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def sealed(speeds: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Recorded choices with their SHA-256, which `read_speeds` checks.

    The record of a teacher cache has it, because several processes can replace that file. A run folder has
    ``SHA256SUMS``.

    Example:
        >>> {name: digest[:8] for name, digest in sealed({}).items()}
        {'sha256': '44136fa3'}
    """
    text = json.dumps(speeds, sort_keys=True)
    return {**speeds, HASH: hashlib.sha256(text.encode()).hexdigest()}


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _step(
    speed: Speed, network: Network, batch_size: int, device: torch.device, trained: bool
) -> Callable[[], None]:
    """A step of a copy of the network on random images."""
    copied = copy.deepcopy(network).to(device).to(memory_format=torch.channels_last).train(trained)
    forward = compile_fixed(copied.forward, device) if speed.compiled else copied
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 3, network.size, network.size)
    pixels_B3HW = torch.randn(shape, generator=generator).to(device, memory_format=torch.channels_last)

    def step() -> None:
        # Dropout must not take numbers from the run's generator.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            with (
                torch.set_grad_enabled(trained),
                torch.autocast(device.type, speed.autocast, enabled=speed.autocast is not None),
            ):
                output = forward(pixels_B3HW)
            if trained:
                torch.autograd.backward(output.logits_BC.float().logsumexp(dim=1).mean())
                copied.zero_grad(set_to_none=True)

    return step
