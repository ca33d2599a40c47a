"""SIGTERM and SIGINT at random times: the command saves its state and ends soon, and goes on exactly."""

from __future__ import annotations

import random
import shutil
import signal
import time

from tests.faults.campaign.forks import Command, Ended, run
from tests.faults.campaign.outcome import LOST, SILENT, SURVIVED, Outcome
from tests.faults.campaign.setting import Setting, differences

STOPS, SIGNALS = 200, (signal.SIGTERM, signal.SIGINT)
# Exit statuses of a stopped command, the second one before there is a state to save, and the longest time
# that it may take to end.
STOPPED, LIMIT = (130, -signal.SIGTERM), 10.0


def stop_all(setting: Setting, share: float = 1.0) -> list[Outcome]:
    """Stop runs, resume them, and compare their results with those of an undisturbed run."""
    draw, outcome, longest, trial = random.Random("stops"), Outcome("SIGTERM, SIGINT, `distill`"), 0.0, 0
    wanted = max(1, round(STOPS * share))
    seconds = run(setting.distill(setting.root / "stops" / "undisturbed")).seconds
    while outcome.tried < wanted:
        out = setting.root / "stops" / f"run-{trial}"
        trial += 1
        command = Command(setting.distill(out))
        if not command.kill_after(draw.uniform(0, 0.9 * seconds), draw.choice(SIGNALS)):
            command.wait()
            continue
        sent = time.monotonic()
        stopped = command.wait()
        took = time.monotonic() - sent
        longest = max(longest, took)
        resumed = run(setting.distill(out, *(["--resume"] if out.exists() else [])))
        outcome.add(*_effect(stopped, took, resumed, ", ".join(differences(out, setting.reference("run")))))
        shutil.rmtree(out, ignore_errors=True)
    outcome.note = f"ended after {longest:.1f} s at most"
    return [outcome]


def _effect(stopped: Ended, took: float, resumed: Ended, different: str) -> tuple[str, str]:
    if stopped.status not in (*STOPPED, 0) or took > LIMIT:
        return LOST, f"status {stopped.status} after {took:.1f} s\n{stopped.text[-2000:]}"
    if stopped.status and resumed.status:
        return LOST, f"resumed with status {resumed.status}\n{resumed.text[-2000:]}"
    return (SILENT, different) if different else (SURVIVED, "")
