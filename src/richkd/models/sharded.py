"""Networks whose weights are divided among the processes of a run, for networks larger than a device.

FSDP2 gathers the weights of one block at a time while a network runs, so all processes must run the network
at the same time. But they have different numbers of batches, for example when some outputs are read from a
cache. So before each run, processes agree on the network that runs next, and those that have no images for it
run it on a blank one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from richkd.core.errors import ModelError
from richkd.core.processes import world
from richkd.core.visible import one_line

T = TypeVar("T")
CONTAINERS = (nn.Sequential, nn.ModuleList)
# Fraction of the parameters from which the member of a container is gathered on its own.
UNIT = 0.01
# What a process without a network to run says; all numbers of networks are smaller.
IDLE = 1 << 40


@dataclass
class _State:
    """The divided networks of this process, in order, and whether the others wait for its turns."""

    made: list[weakref.ref[Sharded]] = field(default_factory=list)
    open: bool = False


_state = _State()


class Sharded:
    """A frozen network whose weights are divided among the processes.

    All processes make the same networks in the same order.

    Args:
        module: the network on the CPU. Its weights are moved to the device, a part of them in each process.
        device: device of this process.
        idle: runs the network on a blank image.
        name: name of the network, for messages.

    Raises:
        ModelError: its weights cannot be divided.
    """

    def __init__(
        self, module: nn.Module, device: torch.device, idle: Callable[[], object], *, name: str
    ) -> None:
        try:
            _divide(module, device)
        # FSDP2 has no class of its own for networks that it cannot divide.
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"The weights of {name} must be such that FSDP2 can divide them",
                got=one_line(error),
                fix="remove train.shard_teachers; the network must then fit on one device.",
            ) from error
        self._idle, self._number = idle, len(_state.made)
        _state.made.append(weakref.ref(self))

    def run(self, call: Callable[[], T]) -> T:
        """The result of a call that runs the network once; it is only possible within `in_step`."""
        assert _state.open, "other processes do not know that they must run the network, too"
        while (turn := _agreed_turn(self._number)) != self._number:
            _run_idle(turn)
        with torch.inference_mode(False), torch.no_grad():
            return call()


@contextmanager
def in_step() -> Iterator[None]:
    """Context in which processes run divided networks, each as often as it needs; all processes enter it.

    At its end a process runs the networks of the others until none has images left. Without divided networks
    nothing is exchanged.

    Example:
        >>> with in_step():
        ...     pass
    """
    if not _state.made:
        yield
        return
    _state.open = True
    try:
        yield
    finally:
        _state.open = False
        while (turn := _agreed_turn(IDLE)) != IDLE:
            _run_idle(turn)


def units_of(module: nn.Module) -> list[nn.Module]:
    """The parts of a network whose weights are gathered together: its blocks, inner ones first.

    These are the members of `nn.Sequential` and `nn.ModuleList` with at least 1% of the parameters. The
    network itself, which has all other weights, is not among them.

    Example:
        >>> import timm
        >>> units = units_of(timm.create_model("vit_tiny_patch16_224", num_classes=10))
        >>> len(units), type(units[0]).__name__
        (12, 'Block')
    """
    least = UNIT * _count(module)
    units: list[nn.Module] = []

    def visit(parent: nn.Module) -> None:
        for child in parent.children():
            visit(child)
            member = isinstance(parent, CONTAINERS) and not isinstance(child, CONTAINERS)
            if member and child not in units and _count(child) >= least:
                units.append(child)

    visit(module)
    return units


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _divide(module: nn.Module, device: torch.device) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # FSDP2 divides contiguous tensors only.
    module.requires_grad_(False).to(memory_format=torch.contiguous_format)
    mesh = init_device_mesh(device.type, (world(),))
    for unit in (*units_of(module), module):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def _agreed_turn(number: int) -> int:
    """The network that all processes run next: the first of those that they want to run."""
    turn = torch.tensor(number)
    dist.all_reduce(turn, dist.ReduceOp.MIN)
    return int(turn)


def _run_idle(turn: int) -> None:
    network = _state.made[turn]()
    assert network is not None, "a network that another process still uses"
    with torch.inference_mode(False), torch.no_grad():
        network._idle()
