"""Devices by name: what auto prefers, and what is refused, on machines that are made up here."""

from __future__ import annotations

import pytest
import torch

from richkd.core.device import constant, pick_device, seed_generators
from richkd.core.errors import ConfigError
from tests.fixtures import refusal


def machine(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Pretend to have this many CUDA devices, and Apple's MPS or not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(0, False, "cpu"), (0, True, "mps"), (2, False, "cuda"), (1, True, "cuda")],
)
def test_auto_prefers_cuda_then_mps_then_the_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str
) -> None:
    machine(monkeypatch, cuda=cuda, mps=mps)
    assert pick_device() == pick_device("auto") == torch.device(expected)


def test_devices_that_exist_are_given_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=2, mps=True)
    for name in ("cpu", "mps", "cuda", "cuda:0", "cuda:1"):
        assert pick_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda:2", "cuda:x", "cuda:-1", "cpu:1", "mps:0", "gpu", "", "Cuda", "xpu"])
def test_a_device_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(monkeypatch, cuda=2, mps=True)
    error = refusal(pick_device, name)
    assert isinstance(error, ConfigError)
    assert f"'{name}'" in error.rule
    assert error.got == "this machine has: cuda, mps, cpu"
    assert "auto" in str(error.fix)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_known_kind_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(monkeypatch)
    error = refusal(pick_device, name)
    assert isinstance(error, ConfigError)
    assert error.got == "this machine has: cpu"
    assert pick_device("cpu").type == "cpu"


def test_a_constant_of_an_evaluation_can_be_used_in_training() -> None:
    constant.cache_clear()
    with torch.inference_mode():
        factors_2 = constant((1.0, 2.0), torch.device("cpu"))
    weights_2 = torch.ones(2, requires_grad=True)
    (weights_2 * factors_2).sum().backward()
    assert weights_2.grad is not None
    assert weights_2.grad.tolist() == [1.0, 2.0]
    assert constant((1.0, 2.0), torch.device("cpu")) is factors_2
    assert constant((1.0, 2.0), torch.device("cpu"), torch.float64).dtype == torch.float64


def test_seeding_a_device_is_what_pytorch_does_for_all() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_generators(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
