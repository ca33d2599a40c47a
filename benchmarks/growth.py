"""How time and memory grow: with images, classes, prompts, negatives and views, and what surrounds the steps.

    python benchmarks/growth.py

Pixels, weights and CLIP features are random: neither times nor bytes depend on their values. Prints curves
and the ratios that matter, and writes both as JSON. Takes some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import growth_runs
import growth_steps
import peak
from timing import machine, save

Curves = dict[str, dict[int, float]]


def measure(rounds: int) -> dict[str, Any]:
    """Every curve and figure."""
    result: dict[str, Any] = {"machine": machine()}
    for part in (growth_steps.images, growth_steps.negatives, growth_steps.classes, growth_steps.prompts):
        result[part.__name__] = _printed(part.__name__, part(rounds))
    result["text"] = _printed("text", growth_steps.text())
    result["views"] = _printed("views", growth_runs.views(rounds))
    # A peak is the same each time.
    peaks = {kind: peak.peak_bytes(kind) for kind in peak.KINDS}
    result["peak bytes of the contrastive loss"] = _printed("peak bytes of the contrastive loss", peaks)
    result["evaluation"] = _printed("evaluation", growth_runs.evaluation(rounds))
    result["start"] = _printed("start", growth_runs.start(min(rounds, 3)))
    result["ratios"] = _printed("ratios", ratios(result))
    return result


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """The largest of each curve to its smallest, our memory to the reference's, evaluation to epoch."""
    quotients = {}
    for part, unit in (
        ("images", "images"),
        ("negatives", "negatives"),
        ("classes", "classes"),
        ("prompts", "prompts"),
        ("text", "prompts"),
        ("views", "views"),
    ):
        for name, curve in result[part].items():
            least, most = min(curve), max(curve)
            quotients[f"{name}, {most:,} ÷ {least:,} {unit}"] = curve[most] / curve[least]
    peaks, evaluation = result["peak bytes of the contrastive loss"], result["evaluation"]
    quotients["peak memory, ours bf16 ÷ reference"] = peaks["bf16"] / peaks["reference"]
    quotients["peak memory, ours fp32 ÷ reference"] = peaks["fp32"] / peaks["reference"]
    tested, epoch = evaluation.values()
    quotients["evaluation ÷ cached epoch"] = tested / epoch
    return quotients


def _printed(title: str, figures: dict[str, Any]) -> dict[str, Any]:
    print(title)
    for name, value in figures.items():
        points = value if isinstance(value, dict) else {"": value}
        shown = "   ".join(f"{_named(x)}{y:,.5g}" for x, y in points.items())
        print(f"  {name:44} {shown}", flush=True)
    return figures


def _named(x: int | str) -> str:
    return f"{x:,}: " if isinstance(x, int) else f"{x}: " * bool(x)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/growth.json"))
    arguments = parser.parse_args()
    save(arguments.out, measure(arguments.rounds))


if __name__ == "__main__":
    main()
