"""SIGKILL at random times, also while a killed command is being resumed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from richkd.core.errors import RichKDError
from richkd.pipeline.fill_cache import open_caches
from richkd.reporting.report.run_facts import read_run
from tests.faults.campaign.forks import Command, run
from tests.faults.campaign.outcome import LOST, SILENT, SURVIVED, Outcome
from tests.faults.campaign.setting import Setting, differences

# Kills of each command, and the largest number of kills of one run.
KILLS = {"distill": 400, "folds": 250, "cache": 200, "report": 150}
CHAIN = 12


def kill_all(setting: Setting, shares: float = 1.0) -> list[Outcome]:
    """Kill every kind of command; ``shares`` scales the number of kills."""
    parts: dict[str, Callable[[Path], tuple[Callable[[], list[str]], Callable[[], str]]]] = {
        "distill": lambda out: _distill(setting, out),
        "folds": lambda out: _folds(setting, out),
        "cache": lambda out: _cache(setting, out),
        "report": lambda out: _report(setting, out),
    }
    outcomes = []
    for name, part in parts.items():
        draw = random.Random(f"kills {name}")
        outcome = Outcome(f"SIGKILL, `{name}`")
        wanted, trial, seconds = round(KILLS[name] * shares), 0, _undisturbed(part, setting, name)
        while outcome.tried < wanted:
            out = setting.root / "kills" / f"{name}-{trial}"
            trial += 1
            _chain(outcome, part(out), seconds, draw, wanted)
            shutil.rmtree(out, ignore_errors=True)
        outcomes.append(outcome)
    return outcomes


def _undisturbed(
    part: Callable[[Path], tuple[Callable[[], list[str]], Callable[[], str]]], setting: Setting, name: str
) -> float:
    argv, _ = part(setting.root / "kills" / f"{name}-undisturbed")
    return run(argv()).seconds


def _chain(
    outcome: Outcome,
    part: tuple[Callable[[], list[str]], Callable[[], str]],
    seconds: float,
    draw: random.Random,
    wanted: int,
) -> None:
    """Kill a command up to `CHAIN` times, let it end, and count its kills by how that came out."""
    argv, problem = part
    kills = 0
    for _ in range(min(draw.randint(1, CHAIN), wanted - outcome.tried)):
        command = Command(argv())
        killed = command.kill_after(draw.uniform(0, 1.1 * seconds))
        command.wait()
        kills += killed
        if not killed:
            break
    ended = run(argv())
    wrong = problem() if ended.status == 0 else ""
    for _ in range(kills):
        if ended.status:
            outcome.add(LOST, f"{' '.join(argv())}\n{ended.text[-2000:]}")
        else:
            outcome.add(SILENT if wrong else SURVIVED, wrong)


def _distill(setting: Setting, out: Path) -> tuple[Callable[[], list[str]], Callable[[], str]]:
    return (
        lambda: setting.distill(out, *(["--resume"] if out.exists() else [])),
        lambda: ", ".join(differences(out, setting.reference("run"))),
    )


def _folds(setting: Setting, out: Path) -> tuple[Callable[[], list[str]], Callable[[], str]]:
    def problem() -> str:
        reference = setting.reference("folds")
        return ", ".join(
            name for fold in ("fold-0", "fold-1") for name in differences(out / fold, reference / fold)
        )

    return lambda: setting.folds(out, *(["--resume"] if out.exists() else [])), problem


def _cache(setting: Setting, out: Path) -> tuple[Callable[[], list[str]], Callable[[], str]]:
    def problem() -> str:
        verified = run(["cache", "verify", str(out)])
        stored, expected = (sum(len(c) for _, c in open_caches(f)) for f in (out, setting.reference("cache")))
        left = list(out.rglob("*.tmp"))
        if verified.status or stored != expected or left:
            return f"{stored} of {expected} outputs, temporary files {left}, {verified.text[-500:]}"
        return ""

    return lambda: setting.fill(out), problem


def _report(setting: Setting, out: Path) -> tuple[Callable[[], list[str]], Callable[[], str]]:
    def problem() -> str:
        missing = [n for n in ("report.html", "report.md", "summary.json") if not (out / n).is_file()]
        ended = (out / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
        try:
            read_run(setting.reference("run"))
        except RichKDError as error:
            return str(error)
        left = [str(path) for path in out.rglob("*.tmp")]
        return (
            ""
            if ended and not missing and not left
            else f"missing {missing}, left {left}, page ended: {ended}"
        )

    return lambda: ["report", str(setting.reference("run")), "--out", str(out)], problem
