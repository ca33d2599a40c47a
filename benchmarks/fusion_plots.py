"""Pictures of fused teachers.

    python benchmarks/fusion_plots.py

Reads ``fusion.json`` and ``teachers.json`` and writes an SVG beside each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from plots import BLACK, BLUE, GRAY, LINES, RED, STYLE


def alpha_curves(result: dict[str, Any]) -> plt.Figure:
    """Accuracy and NLL of the fused teacher over α, on three scales."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4), layout="constrained")
    for (name, curve), (color, mark) in zip(result["curves"].items(), LINES, strict=False):
        for axes, values in ((left, [100 * value for value in curve["top1"]]), (right, curve["nll"])):
            axes.plot(result["alphas"], values, color=color, marker=mark, markersize=4, label=name)
    default = result["ways"]["`default`"]
    for axes, value, title in (
        (left, 100 * default["top1"], "Right answers, percent"),
        (right, default["nll"], "NLL, nats (less is better)"),
    ):
        axes.axhline(value, color=BLACK, linestyle=":", linewidth=1.4, label="default, fitted")
        axes.axvline(0.7, color=GRAY, linewidth=0.8, zorder=0)
        axes.set_title(title, weight="normal")
        axes.set_xlabel("α: 0 is CLIP alone, 1 the teacher alone (gray: 0.7, as published)")
    right.set_ylim(0, 2.5)
    left.legend(frameon=False, loc="center left", bbox_to_anchor=(0.06, 0.55))
    _head(figure, "The same α means three things on three scales")
    return figure


def ways(caltech: dict[str, Any], cifar: dict[str, Any]) -> plt.Figure:
    """NLL and accuracy under each way of mixing, Caltech-101 beside CIFAR-100."""
    figure, grid = plt.subplots(1, 2, figsize=(10.6, 4.8), layout="constrained")
    titles = ("Caltech-101: ResNet-10t and CLIP", "CIFAR-100: ResNet-56, -44 and -32")
    for axes, result, title in zip(grid, (caltech, cifar), titles, strict=True):
        rows = sorted(result["ways"].items(), key=lambda row: -row[1]["nll"])
        longest = max(row["nll"] for _, row in rows)
        for place, (name, row) in enumerate(rows):
            part = "alone" in name or "calibrated" in name.split(", ")[1:]
            color = GRAY if part else RED if name == "`default`" else BLUE
            axes.barh(place, row["nll"], 0.7, color=color)
            text = f"{row['nll']:.3f}, {100 * row['top1']:.1f} % right"
            axes.text(row["nll"] + 0.01 * longest, place, text, va="center", fontsize=8.5, color=BLACK)
        axes.set_yticks(range(len(rows)), [_plain(name) for name, _ in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.42 * longest)
        axes.set_title(title, weight="normal")
        axes.set_xlabel("NLL on test, nats (gray: one teacher; red: default)")
    _head(figure, "Fused teachers, best to worst")
    return figure


def _plain(words: str) -> str:
    return words.replace("`", "").replace("cifar_resnet", "ResNet-")


def _head(figure: plt.Figure, words: str) -> None:
    figure.suptitle(words, x=0.01, ha="left", weight="bold", size=13)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder of the JSON")
    folder = parser.parse_args().results
    plt.rcParams.update(STYLE)
    fusion, teachers = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("fusion", "teachers")
    )
    for name, figure in (("fusion", alpha_curves(fusion)), ("teachers", ways(fusion, teachers))):
        # A date would make two files of one picture.
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        print(f"wrote {folder / f'{name}.svg'}")


if __name__ == "__main__":
    main()
