"""Run the campaign: ``python -m tests.faults.campaign [--page docs/reliability.md] [--share 1.0]``.

Ends with status 1 if any fault changed a result silently or lost one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from tests.faults.campaign.flips import flip_bits
from tests.faults.campaign.full_disk import SIZES, fill_disks
from tests.faults.campaign.hostile_part import try_hostile
from tests.faults.campaign.kills import kill_all
from tests.faults.campaign.outcome import LOST, SILENT, Outcome
from tests.faults.campaign.page import table, write_page
from tests.faults.campaign.setting import make_setting
from tests.faults.campaign.stops import stop_all
from tests.faults.campaign.writers import TRIALS, write_twice


def main() -> None:
    """Run all parts, two at a time, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, help="page whose measured part is replaced")
    parser.add_argument("--share", type=float, default=1.0, help="share of the faults to try")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started, share = time.monotonic(), options.share
    with tempfile.TemporaryDirectory(prefix="richkd-faults-") as folder:
        setting = make_setting(Path(folder))
        parts = [
            (kill_all, (setting, share)),
            (stop_all, (setting, share)),
            (flip_bits, (setting, share)),
            (fill_disks, (setting, max(2, round(SIZES * share)))),
            (write_twice, (setting, max(1, round(TRIALS * share)))),
            (try_hostile, (setting,)),
        ]
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
            futures = [pool.submit(part, *arguments) for part, arguments in parts]
            outcomes: list[Outcome] = []
            for future in futures:
                outcomes += future.result()
                print(table(outcomes[-len(future.result()) :]), flush=True)
    seconds = time.monotonic() - started
    for outcome in outcomes:
        for detail in outcome.details:
            print(detail, file=sys.stderr)
    print(f"\n{table(outcomes)}\n{seconds / 60:.1f} min")
    if options.page is not None:
        write_page(options.page, outcomes, seconds)
    sys.exit(any(outcome.counts[result] for outcome in outcomes for result in (SILENT, LOST)))


if __name__ == "__main__":
    main()
