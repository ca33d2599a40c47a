"""Two commands at once in one run folder, and in one teacher cache."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

from richkd.pipeline.fill_cache import open_caches
from tests.faults.campaign.forks import Command, Ended, run
from tests.faults.campaign.outcome import LOST, REFUSED, SILENT, SURVIVED, Outcome
from tests.faults.campaign.setting import Setting, differences

TRIALS = 8


def write_twice(setting: Setting, trials: int = TRIALS) -> list[Outcome]:
    """Start the second command at a random time after the first."""
    draw = random.Random("writers")
    folder, cache = Outcome("two runs in one folder"), Outcome("two fills of one cache")
    for trial in range(trials):
        out = setting.root / "twice" / f"run-{trial}"
        _folder(folder, setting, out, resume=trial % 2 == 1, wait=draw.uniform(0, 1))
        shutil.rmtree(out)
        _cache(cache, setting, setting.root / "twice" / f"cache-{trial}", draw.uniform(0, 0.5))
    return [folder, cache]


def _folder(outcome: Outcome, setting: Setting, out: Path, *, resume: bool, wait: float) -> None:
    first = Command(setting.distill(out))
    time.sleep(wait)
    second = run(setting.distill(out, *(["--resume"] if resume else [])))
    endings = [first.wait(), second]
    refused = [ended for ended in endings if ended.status == 1 and "Traceback" not in ended.text]
    if len(refused) != 1 or sorted(ended.status for ended in endings) != [0, 1]:
        # The first had ended, or not begun: then the second is a run or a resume of its own.
        if all(ended.status == 0 for ended in endings) and not differences(out, setting.reference("run")):
            outcome.add(SURVIVED)
        else:
            outcome.add(LOST, _outputs(endings))
    elif different := differences(out, setting.reference("run")):
        outcome.add(SILENT, f"{different}\n{_outputs(endings)}")
    else:
        outcome.add(REFUSED)


def _cache(outcome: Outcome, setting: Setting, cache: Path, wait: float) -> None:
    first = Command(setting.fill(cache))
    time.sleep(wait)
    endings = [run(setting.fill(cache)), first.wait()]
    endings.append(run(["cache", "verify", str(cache)]))
    stored, expected = (sum(len(c) for _, c in open_caches(f)) for f in (cache, setting.reference("cache")))
    if any(ended.status for ended in endings):
        outcome.add(LOST, _outputs(endings))
    else:
        outcome.add(SURVIVED if stored == expected else SILENT, f"{stored} of {expected} outputs")


def _outputs(endings: list[Ended]) -> str:
    return "\n".join(f"status {ended.status}: {ended.text[-1000:]}" for ended in endings)
