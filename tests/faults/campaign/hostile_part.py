"""Hostile files and clumsy inputs through the command line."""

from __future__ import annotations

from tests.faults.campaign.outcome import LOST, REFUSED, SURVIVED, Outcome
from tests.faults.campaign.setting import Setting
from tests.faults.clumsy import clumsy_inputs
from tests.faults.hostile import hostile_files, may_succeed
from tests.faults.running import run


def try_hostile(setting: Setting) -> list[Outcome]:
    """Run every hostile file and every mistake; none may end in a traceback, hang, or pass as good."""
    files, mistakes = Outcome("hostile files"), Outcome("mistakes on the command line")
    folder = setting.root / "hostile"
    for path, argv in hostile_files(folder):
        _try(files, argv, may_succeed=may_succeed(folder, path))
    for argv in clumsy_inputs(setting.root / "clumsy"):
        _try(mistakes, argv, may_succeed=False)
    return [files, mistakes]


def _try(outcome: Outcome, argv: list[str], *, may_succeed: bool) -> None:
    ended = run(argv, seconds=60)
    if "Traceback" in ended.text or ended.status is None:
        outcome.add(LOST, f"{' '.join(argv)[:300]}\n{ended.text[-2000:]}")
    elif ended.status == 0:
        outcome.add(SURVIVED if may_succeed else LOST, f"{' '.join(argv)[:300]}: accepted")
    else:
        outcome.add(REFUSED)
