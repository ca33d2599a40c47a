"""The hub's folder follows the hub's own rules, and asking whether it answers never fails or hangs."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from richkd.doctor.hub import connection_problem, hub, hub_cache, without_password
from richkd.doctor.surroundings import variables
from tests.fixtures import one_thread

NAMES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME")
SETTINGS: list[dict[str, str]] = [
    {},
    {"HF_HOME": "/data/hf"},
    {"HF_HOME": "~/hf", "XDG_CACHE_HOME": "/xdg"},
    {"XDG_CACHE_HOME": "/xdg"},
    {"HF_HUB_CACHE": "/models", "HF_HOME": "/data/hf"},
    {"HUGGINGFACE_HUB_CACHE": "/old"},
]


def test_the_folder_is_that_of_the_hubs_library(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    for changes in SETTINGS:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in changes.items():
            monkeypatch.setenv(name, value)
        environment = one_thread()
        words = [sys.executable, "-c", script]
        result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
        assert str(hub_cache()) == result.stdout.strip(), changes


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """A server that gives one answer to everybody, or none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            held = []
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                if answer is None:
                    held.append(connection)
                    continue
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "407"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "503"),
        (b"no HTTP at all\r\n\r\n", "BadStatusLine"),
        (b"", "RemoteDisconnected"),
    ],
)
def test_answers_of_servers(answer: bytes, problem: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with server(answer) as address:
        result = connection_problem(address)
    assert (result is None) == (problem is None)
    assert (problem or "") in (result or "")


def test_a_server_that_never_answers_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    began = time.monotonic()
    with server(None) as address:
        assert connection_problem(address, seconds=0.5) is not None
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("address", ["", "no address", "http://", "ftp://x", "http://[", "http://a\x00b/"])
def test_addresses_that_are_none(address: str) -> None:
    assert connection_problem(address, seconds=1.0)


def test_nothing_is_asked_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*words: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("richkd.doctor.hub.connection_problem", ask)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    result = hub(offline=True)
    assert (result["reachable"], result["offline_mode"]) == (None, False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub(offline=False)["offline_mode"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(AssertionError, match="network was used"):
        hub(offline=False)


def test_an_own_address_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://me:hunter2@mirror.example/hub/?token=abc")
    assert hub(offline=True)["address"] == "https://mirror.example/hub/"
    assert without_password("http://[") == "not an address"


def test_a_relative_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", "here")
    assert hub_cache() == Path.cwd() / "here" / "hub"


@pytest.mark.parametrize(
    "password", ["pass", "pa/ss", "pa#ss", "pa?ss", "p@ss", "12/ss", "//ss", "s:s", "[ss"]
)
def test_a_password_with_any_character_is_left_out(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol in ("http://", "wsx5h://", "//"):
        shown = without_password(f"{protocol}bob:{password}@proxy:3128")
        assert "ss" not in shown
        assert "bob" not in shown
    assert "ss" not in without_password(f"bob:{password}@proxy:3128")
    assert without_password(f"http://bob:{password}@proxy:3128/a") == "http://proxy:3128/a"
    monkeypatch.setenv("HTTPS_PROXY", f"http://bob:{password}@proxy:3128")
    assert variables()["HTTPS_PROXY"] == "http://proxy:3128"


def test_the_reason_of_a_failure_has_no_password() -> None:
    problem = connection_problem("//bob:secret@mirror.example", seconds=1.0)
    assert "mirror.example" in str(problem)
    assert "secret" not in str(problem)
