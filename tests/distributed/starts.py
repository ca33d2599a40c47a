"""Start processes of tests, with a launcher or as a launcher would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fixtures import World, one_thread

ROOT = Path(__file__).resolve().parents[2]
# Other tests use the same cores.
SECONDS = 240
# Name of the result, settings, arguments, folder.
Run = tuple[str, dict[str, Any], dict[str, Any], str]


def environment(**changes: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**one_thread(), "PYTHONPATH": paths, **changes}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def torchrun(count: int, *words: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1"]
    return [*launcher, "--nproc_per_node", str(count), "--master_port", str(free_port()), *words]


def start(words: list[str], cwd: Path, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        cwd=cwd,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def both(words: list[str], cwd: Path) -> list[subprocess.Popen[str]]:
    """Two processes that are started without a launcher, so that each can be disturbed and waited for."""
    port = str(free_port())
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start([sys.executable, *words], cwd, **common, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]


def finished(process: subprocess.Popen[str], seconds: float = SECONDS) -> tuple[int, str]:
    """Exit status and output of a process, which is killed if it takes too long."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"the processes did not end within {seconds} s:\n{output}") from None
    return process.returncode, output


def written(world: World, folder: Path, runs: list[Run]) -> Path:
    """The file that tells the worker what to do."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "plan.json"
    places = [str(world.images), str(world.clip), str(world.teacher)]
    plan.write_text(json.dumps({"world": places, "runs": runs}))
    return plan


def work(world: World, folder: Path, count: int, runs: list[Run]) -> tuple[int, str]:
    """Do the runs in ``count`` processes, one start for all of them."""
    plan = written(world, folder, runs)
    words = ["-m", "tests.distributed.worker", str(plan)]
    return finished(start(torchrun(count, *words), folder))


def result(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.{rank}.json").read_text())
    return content


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
