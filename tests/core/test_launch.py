"""Which environments of launchers are joined, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest

from richkd.core import launch
from richkd.core.errors import ConfigError, ProcessError
from richkd.core.interrupt import Interrupted
from richkd.core.launch import asked_for, together
from tests.fixtures import refusal

LAUNCHER = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "1"}, 1),
        ({"WORLD_SIZE": "1", **LAUNCHER, "RANK": "0", "LOCAL_RANK": "0"}, 1),
        ({"WORLD_SIZE": "4", **LAUNCHER}, 4),
        # A single process of `accelerate launch`.
        ({"ACCELERATE_USE_CPU": "True"}, 1),
        # MPI with one process.
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 1),
    ],
)
def test_what_launchers_tell_is_understood(environment: dict[str, str], count: int) -> None:
    assert asked_for(environment) == count


@pytest.mark.parametrize(
    ("environment", "got", "command"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, and no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT", "2"),
        ({"WORLD_SIZE": "3", **LAUNCHER, "MASTER_PORT": ""}, "WORLD_SIZE=3, and no MASTER_PORT", "3"),
        ({"WORLD_SIZE": "2", **LAUNCHER, "RANK": "2"}, "WORLD_SIZE=2 with RANK=2 and LOCAL_RANK=1", "2"),
        ({"WORLD_SIZE": "2", **LAUNCHER, "LOCAL_RANK": "-1"}, "with RANK=1 and LOCAL_RANK=-1", "2"),
        ({"WORLD_SIZE": "two", **LAUNCHER}, "WORLD_SIZE=two", "2"),
        ({"WORLD_SIZE": "0", **LAUNCHER}, "WORLD_SIZE=0", "2"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE=4, and no WORLD_SIZE", "4"),
        ({"PMI_SIZE": "8"}, "PMI_SIZE=8, and no WORLD_SIZE", "8"),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, "on the CPU, and started one", "2"),
    ],
)
def test_a_start_that_failed_is_refused_with_the_command_that_works(
    environment: dict[str, str], got: str, command: str
) -> None:
    error = refusal(asked_for, environment)
    assert isinstance(error, ConfigError)
    assert got in str(error.got)
    assert f"torchrun --nproc_per_node {command} -m richkd" in str(error.fix)


class Store:
    """What processes leave for each other."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


def fails(error: Exception) -> None:
    with together():
        raise error


@pytest.mark.parametrize(
    "message",
    [
        "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:27110",
        "[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation",
        "NCCL communicator was aborted on rank 0.",
    ],
)
def test_a_lost_process_is_named_with_the_reason_that_it_left(
    message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    monkeypatch.setattr(launch.group, "store", store)
    monkeypatch.setattr(launch, "world", lambda: 2)
    monkeypatch.setattr(launch, "rank", lambda: 1)
    error = refusal(fails, RuntimeError(message))
    assert isinstance(error, ProcessError)
    assert message in str(error.got)
    assert "--train.process_timeout" in str(error.fix)
    assert refusal(fails, ConfigError("Setting 'x' must be 1", got="2")).rule == "Setting 'x' must be 1"
    # In the other process, it is the same work.
    launch.group.works -= 1
    assert refusal(fails, RuntimeError(message)).got == "process 1: ConfigError: Setting 'x' must be 1"


def test_other_errors_and_stops_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = Store()
    monkeypatch.setattr(launch.group, "store", store)
    monkeypatch.setattr(launch, "world", lambda: 2)
    with pytest.raises(Interrupted):
        fails(Interrupted())
    assert store.values == {}
    with pytest.raises(RuntimeError, match="shapes do not match"):
        fails(RuntimeError("shapes do not match"))
    monkeypatch.setattr(launch, "world", lambda: 1)
    with pytest.raises(RuntimeError, match="Connection closed"):
        fails(RuntimeError("Connection closed by peer"))
