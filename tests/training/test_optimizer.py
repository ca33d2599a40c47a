"""The optimizer that the settings name: its groups of parameters, its state, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from timm.optim import list_optimizers
from torch import nn, optim

from richkd.config.schema import OptimConfig
from richkd.core.errors import ConfigError
from richkd.pipeline.assemble import assemble
from richkd.training.optimizer import build_optimizer, optimizer_numbers, optimizer_tensors, restore_optimizer
from richkd.training.run import distill
from richkd.training.run_folder import RunFolder
from richkd.training.task import Task
from richkd.training.trainer import Trainer
from tests.fixtures import World, refusal

CPU = torch.device("cpu")
# A second-order method; methods whose state holds lists; methods of packages that are not installed.
REFUSED = {"adahessian", "kron", "kronc", "kronw", *list_optimizers("fused*"), *list_optimizers("bnb*")}


def make_task(world: World, out: Path) -> Task:
    return Task(assemble(world.config(out), CPU))


def names_by_decay(task: nn.Module, optimizer: optim.Optimizer) -> dict[float, set[str]]:
    """Names of the parameters by the weight decay that they get."""
    name_of = {id(parameter): name for name, parameter in task.named_parameters()}
    groups: dict[float, set[str]] = {}
    for group in optimizer.param_groups:
        groups.setdefault(group["weight_decay"], set()).update(name_of[id(p)] for p in group["params"])
    return groups


def test_the_default_is_sgd_with_classical_momentum(world: World, tmp_path: Path) -> None:
    optimizer = build_optimizer(make_task(world, tmp_path), OptimConfig(lr=0.3))
    assert type(optimizer) is optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.9, 5e-4)
    assert not group["nesterov"]
    assert group["dampening"] == 0
    # As in timm, the plain name means Nesterov's momentum.
    (group,) = build_optimizer(make_task(world, tmp_path), OptimConfig(name="sgd")).param_groups
    assert group["nesterov"]


@pytest.mark.parametrize("name", ["momentum", "sgd", "adamw", "lion", "rmsprop"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_every_parameter_of_student_and_objective_is_optimized_once(
    world: World, tmp_path: Path, name: str, everywhere: bool
) -> None:
    task = make_task(world, tmp_path)
    config = OptimConfig(name=name, decay_norm_and_bias=everywhere)
    optimized = [p for group in build_optimizer(task, config).param_groups for p in group["params"]]
    assert len(optimized) == len({id(p) for p in optimized})
    assert {id(p) for p in optimized} == {id(p) for p in task.parameters()}
    names = [name for name, _ in task.named_parameters()]
    assert any(name.startswith("student.") for name in names)
    assert any(name.startswith("objective.terms.contrastive.memory.teacher_heads.") for name in names)


@pytest.mark.parametrize("name", ["momentum", "adamw", "lion"])
def test_norms_and_biases_are_in_a_group_without_decay_on_request(
    world: World, tmp_path: Path, name: str
) -> None:
    task = make_task(world, tmp_path)
    config = OptimConfig(name=name, weight_decay=0.01, decay_norm_and_bias=False)
    groups = names_by_decay(task, build_optimizer(task, config))
    assert groups.keys() == {0.0, 0.01}
    norms = [module for module in task.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    of_norms = {id(p) for norm in norms for p in norm.parameters()}
    expected = {name for name, p in task.named_parameters() if id(p) in of_norms or name.endswith(".bias")}
    assert groups[0.0] == expected
    assert groups[0.01] == {name for name, _ in task.named_parameters()} - expected
    # By default the paper's way: everything decays alike.
    everything = names_by_decay(
        task, build_optimizer(task, config.model_copy(update={"decay_norm_and_bias": True}))
    )
    assert everything == {0.01: {name for name, _ in task.named_parameters()}}


def test_without_decay_norms_move_by_their_gradient_alone(world: World, tmp_path: Path) -> None:
    task = make_task(world, tmp_path)
    config = OptimConfig(lr=0.5, momentum=0, weight_decay=0.1, decay_norm_and_bias=False)
    optimizer = build_optimizer(task, config)
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    for parameter in task.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    undecayed = names_by_decay(task, optimizer)[0.0]
    for name, parameter in task.named_parameters():
        factor = 1.0 if name in undecayed else 1 - 0.5 * 0.1
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_all_groups_follow_the_schedule(world: World, tmp_path: Path) -> None:
    settings = {"optim__decay_norm_and_bias": False, "optim__schedule": "cosine", "optim__lr": 0.04}
    config = world.config(tmp_path / "run", method__name="kd", **settings)
    trainer = Trainer(assemble(config, CPU), Accelerator(cpu=True), RunFolder(tmp_path / "run"))
    batch = next(iter(trainer.parts.training_batches(0, trainer.order.epoch(0))))
    trainer.step = trainer.total_steps // 2
    trainer.train_step(batch)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([0.02, 0.02])


@pytest.mark.parametrize(
    ("name", "hint"),
    [("adamww", "Did you mean 'adamw'"), ("momentun", "Did you mean 'momentum'"), ("lyon", "'lion'")],
)
def test_an_unknown_optimizer_names_the_nearest(world: World, tmp_path: Path, name: str, hint: str) -> None:
    error = refusal(distill, world.config(tmp_path / "run", optim__name=name), quiet=True)
    assert isinstance(error, ConfigError)
    assert error.rule == f"There is no optimizer '{name}'"
    assert hint in str(error.fix)


def test_an_optimizer_that_cannot_be_created_says_why(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise AssertionError("CUDA required for APEX optimizers")

    monkeypatch.setattr("richkd.training.optimizer.create_optimizer_v2", missing)
    error = refusal(build_optimizer, make_task(world, tmp_path), OptimConfig(name="fusedadam"))
    assert isinstance(error, ConfigError)
    assert "fusedadam" in error.rule
    assert error.got == "AssertionError: CUDA required for APEX optimizers"
    assert "another optimizer" in str(error.fix)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_goes_on_bit_for_bit_and_in_the_layout_of_its_weights(name: str) -> None:
    def build() -> tuple[nn.Module, optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Conv2d(3, 16, 3).to(memory_format=torch.channels_last)
        if name == "sgd":
            return module, optim.SGD(module.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
        return module, optim.AdamW(module.parameters(), 0.1)

    def step(module: nn.Module, optimizer: optim.Optimizer, number: int) -> None:
        pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        module(pixels.to(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()

    module, optimizer = build()
    for number in range(3):
        step(module, optimizer, number)
    other, resumed = build()
    other.load_state_dict(module.state_dict())
    tensors = {key: t.contiguous().clone() for key, t in optimizer_tensors(optimizer).items()}
    restore_optimizer(resumed, tensors)
    for number in range(3, 6):
        step(module, optimizer, number)
        step(other, resumed, number)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    for parameter, state in resumed.state.items():
        for moment in state.values():
            assert moment.shape != parameter.shape or moment.stride() == parameter.stride()


def test_an_optimizer_whose_state_a_checkpoint_cannot_hold_is_refused() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = optim.SGD([parameter], 0.1)
    optimizer.state[parameter] = {"step": 3, "basis": [torch.zeros(2)]}
    error = refusal(optimizer_numbers, optimizer)
    assert isinstance(error, ConfigError)
    assert error.got == "basis of type list"


@pytest.mark.parametrize("name", sorted({*list_optimizers()} - REFUSED))
def test_every_optimizer_of_timm_resumes_bit_identically(name: str) -> None:
    def build() -> tuple[nn.Module, optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        return module, build_optimizer(module, OptimConfig(name=name, lr=1e-3, weight_decay=1e-2))

    def step(module: nn.Module, optimizer: optim.Optimizer, number: int) -> None:
        torch.manual_seed(number)
        optimizer.zero_grad()
        module(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()

    module, optimizer = build()
    for number in range(3):
        step(module, optimizer, number)
    numbers = json.loads(json.dumps(optimizer_numbers(optimizer)))
    other, resumed = build()
    other.load_state_dict(module.state_dict())
    restore_optimizer(resumed, {k: t.clone() for k, t in optimizer_tensors(optimizer).items()}, numbers)
    for number in range(3, 6):
        step(module, optimizer, number)
        step(other, resumed, number)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_second_order_method_is_refused() -> None:
    error = refusal(build_optimizer, nn.Linear(2, 2), OptimConfig(name="adahessian"))
    assert isinstance(error, ConfigError)
    assert "second derivatives" in error.rule
