"""Pictures of fused teachers and of what students inherit.

    python benchmarks/fusion_plots.py

Reads ``fusion.json``, ``teachers.json`` and ``inherit.json`` and writes an SVG beside each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
from inherit_table import STUDENTS
from matplotlib.axes import Axes
from plots import BLACK, BLUE, GRAY, GREEN, LINES, ORANGE, RED, SKY, STYLE

SETTINGS = {
    "five": "5 labels a class, 2,349 images without",
    "sixteen": "16 labels a class, 1,249 images without",
    "all": "all 2,849 images labeled",
}
# Which students are of a kind, from top to bottom.
KINDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("labels alone", GRAY, ("labels-alone",)),
    (
        "without CLIP: the controls",
        GREEN,
        ("KD", "control", "control--x4", "KD--3-folds", "as-released"),
    ),
    ("fused with CLIP", BLUE, ("paper", "default", "default--x4", "L-F", "default--3-folds")),
    ("CLIP without the teacher", SKY, ("CLIP-alone",)),
    ("what is not CLIP's answer to the image", ORANGE, ("shuffled-in-class", "text-only", "shuffled")),
)
# "four times as long" says nothing without what came before it.
WORDS = STUDENTS | {
    "control": "control: the teacher, tempered",
    "control--x4": "control, 4 times as long",
    "default--x4": "`default`, 4 times as long",
    "as-released": "`as-released`",
    "paper": "`paper`",
    "default": "`default`",
    "L-F": "`default`, L+F",
    "default--3-folds": "`default`, out-of-fold teachers",
}


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


def inherited(result: dict[str, Any]) -> plt.Figure:
    """Students of each setting beside their controls; a dot is a run."""
    result = result["top1"]
    counts = [sum(name in result[setting] for _, _, names in KINDS for name in names) for setting in SETTINGS]
    figure, grid = plt.subplots(
        3, 1, figsize=(8.6, 0.29 * sum(counts) + 2.6), height_ratios=counts, layout="constrained", sharex=True
    )
    for axes, (setting, title) in zip(grid, SETTINGS.items(), strict=True):
        _students(axes, result[setting])
        axes.set_title(title, weight="normal")
    grid[-1].set_xlabel("right on test, percent (bar: mean; dots: runs; dotted: the teacher itself)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=color, label=title) for title, color, _ in KINDS]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    _head(figure, "What of a fused teacher reaches a student: Caltech-101")
    return figure


def _students(axes: Axes, result: dict[str, dict[str, Sequence[float]]]) -> None:
    names = [(name, color) for _, color, of_kind in KINDS for name in of_kind if name in result]
    for place, (name, color) in enumerate(names):
        values = [100 * value for value in result[name]["top1"]]
        axes.barh(place, mean(values), 0.7, color=color, alpha=0.75)
        axes.plot(values, [place] * len(values), ".", color=BLACK, markersize=5)
        words = axes.text(max(values) + 0.8, place, f"{mean(values):.1f}", va="center", fontsize=8.5)
        words.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    axes.axvline(100 * mean(result["teacher"]["top1"]), color=BLACK, linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(names)), [_plain(WORDS[name]) for name, _ in names])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)


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
    fusion, teachers, inherit = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("fusion", "teachers", "inherit")
    )
    for name, figure in (
        ("fusion", alpha_curves(fusion)),
        ("teachers", ways(fusion, teachers)),
        ("inherit", inherited(inherit)),
    ):
        # A date would make two files of one picture.
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        print(f"wrote {folder / f'{name}.svg'}")


if __name__ == "__main__":
    main()
