"""The finished runs of ``benchmarks/inherit.py`` as one table, and as ``inherit.json`` for its picture.

    python benchmarks/inherit_table.py

Reads ``runs/inherit/SETTING/STUDENT-SEED/summary.json``; a student that has no finished run leaves its cell
empty.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from timing import machine, save

SETTINGS = ("five", "sixteen", "all")
# Folder of a student's runs, and what it is in words.
STUDENTS = {
    "teacher": "teacher",
    "labels-alone": "labels alone",
    "KD": "KD from the teacher",
    "control": "control: the teacher at the default's temperature",
    "control--x4": "… four times as long",
    "as-released": "RichKD L, `as-released`",
    "paper": "RichKD L, `paper`",
    "default": "RichKD L, `default`",
    "default--x2": "… twice as long",
    "default--x4": "… four times as long",
    "L-F": "RichKD L+F, `default`",
    "CLIP-alone": "CLIP alone",
    "shuffled": "shuffled CLIP",
    "shuffled-in-class": "CLIP shuffled within classes",
    "text-only": "text only",
    "KD--3-folds": "KD from out-of-fold teachers",
    "default--3-folds": "RichKD L, out-of-fold teachers",
}
# Where nothing is unlabeled for it, labels alone are seen as often as all images would be.
LABELED_ONLY = "--labeled-only"


def collected(runs: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Test top-1 of every finished run and of its target, by setting and student."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for setting in SETTINGS:
        students: dict[str, dict[str, Any]] = defaultdict(lambda: {"top1": [], "target": None})
        for file in sorted((runs / setting).glob("*/summary.json")):
            name, _, seed = file.parent.name.rpartition("-")
            name = name.removesuffix(LABELED_ONLY) if seed.isdigit() else file.parent.name
            if name not in STUDENTS:
                continue
            summary = json.loads(file.read_text(encoding="utf-8"))
            students[name]["top1"].append(summary["splits"]["test"]["top1"])
            target = summary.get("teachers", {}).get("test", {}).get("target", {})
            students[name]["target"] = target.get("top1")
        result[setting] = dict(students)
    return result


def cell(values: Sequence[float]) -> str:
    """Mean, standard deviation and number of runs, in percent."""
    if not values:
        return ""
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread} ({len(values)})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/inherit"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder of the JSON")
    arguments = parser.parse_args()
    result = collected(arguments.runs)
    print("| | target's top-1, *all* | *five* | *sixteen* | *all* |\n|---|---|---|---|---|")
    for folder, words in STUDENTS.items():
        of_settings = [result[setting].get(folder) for setting in SETTINGS]
        if not any(of_settings):
            continue
        target = of_settings[-1] and of_settings[-1]["target"]
        cells = [cell(of["top1"]) if of else "" for of in of_settings]
        print(f"| {words} | {f'{100 * target:.1f}' if target else ''} | {' | '.join(cells)} |")
    save(arguments.results / "inherit.json", {"machine": machine(), "top1": result})


if __name__ == "__main__":
    main()
