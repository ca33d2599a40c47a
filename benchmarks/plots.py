"""Pictures of the figures: bars of step times, and lines of growth.

    python benchmarks/plots.py

Reads ``step.json`` and ``growth.json`` and writes ``step.svg`` and ``growth.svg`` beside them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito's colors, which people tell apart whatever their sight; each line has a mark of its own too.
BLACK, ORANGE, SKY, GREEN, BLUE, RED = "#333333", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00"
GRAY = "#999999"
LINES = ((BLUE, "o"), (RED, "s"), (GREEN, "^"), (ORANGE, "D"))
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    # Text stays text; and a picture of the same figures is the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "richkd",
}
# Bars from top to bottom: contender, what it is in plain words, color.
GROUPS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Labels alone",
        GRAY,
        (
            ("plain", "plain"),
            ("plain, compiled", "plain, compiled"),
            ("plain fp32", "plain, float32"),
        ),
    ),
    (
        "RichKD L+F (ours)",
        BLUE,
        (
            ("cached, shared negatives, compiled", "cached, shared negatives, compiled"),
            ("cached, shared negatives", "cached, shared negatives"),
            ("cached, compiled", "cached, compiled"),
            ("cached", "cached"),
            ("online", "online"),
            ("online fp32", "online, float32"),
        ),
    ),
    ("RichKD L+F, written out naively", RED, (("reference", "written out naively, float32"),)),
    (
        "Plain distillation (KD, ours)",
        GREEN,
        (
            ("our KD cached", "KD, cached"),
            ("our KD online", "KD, online"),
            ("our KD cached fp32", "KD, cached, float32"),
            ("our KD online fp32", "KD, online, float32"),
        ),
    ),
    (
        "Plain distillation (KD, timm)",
        ORANGE,
        (
            ("peer KD", "KD, timm"),
            ("peer KD fp32", "KD, timm, float32"),
        ),
    ),
)
# Panels of growth: part of the JSON, title, label of x, and the curves that are drawn with their names.
PANELS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("images", "Contrastive loss: data set", "training images", {}),
    ("negatives", "Contrastive loss: negatives", "negatives of an image", {}),
    ("classes", "Whole cached step: classes", "classes", {}),
    ("prompts", "Whole cached step: prompts", "prompts of a class", {}),
    ("text", "Embedding the prompts, once", "prompts of a class", {}),
    (
        "views",
        "Teacher cache: stored views",
        "views of an image",
        {
            "bytes of an image": "bytes on disk",
            "opening": "time to open it",
            "reading a batch of 64": "time to read a batch",
        },
    ),
)


def step_bars(result: dict[str, Any]) -> plt.Figure:
    """Median time of a step of each contender, those of a kind together."""
    figure, axes = plt.subplots(figsize=(8.6, 6.4), layout="constrained")
    place, places, names = 0.0, [], []
    longest = max(row["median"] for row in result["seconds"].values())
    for title, color, bars in GROUPS:
        present = [(name, words) for name, words in bars if name in result["seconds"]]
        for position, (name, words) in enumerate(present):
            milliseconds = 1000 * result["seconds"][name]["median"]
            axes.barh(place, milliseconds, 0.78, color=color, label=title if position == 0 else None)
            axes.text(milliseconds + 8 * longest, place, f"{milliseconds:,.0f}", va="center", color=BLACK)
            places.append(place)
            names.append(words)
            place += 1
        place += 0.5 * bool(present)
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1120 * longest)
    axes.set_xlabel("median time of a training step, milliseconds (bfloat16 unless said otherwise)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    figure.suptitle("How long a training step takes", x=0.01, ha="left", weight="bold", size=13)
    axes.set_title("ResNet-32x4 teaches ResNet-8x4, CIFAR-100, batch 64", weight="normal", pad=8)
    axes.legend(loc="lower right", frameon=False)
    return figure


def growth_lines(result: dict[str, Any]) -> plt.Figure:
    """How many times its first value each curve becomes, on logarithmic scales."""
    panels = [panel for panel in PANELS if panel[0] in result]
    figure, grid = plt.subplots(2, 3, figsize=(11, 6.6), layout="constrained")
    for axes, (part, title, x_label, names) in zip(grid.flat, panels, strict=False):
        curves = {words: result[part][name] for name, words in names.items()} or result[part]
        kinds = None if names else "negatives"
        _panel(axes, {name: _points(curve) for name, curve in curves.items()}, kinds)
        axes.set_title(title)
        axes.set_xlabel(x_label)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("ratio to the first point")
    figure.get_layout_engine().set(hspace=0.08, wspace=0.05)
    figure.suptitle(
        "How cost grows with size (dotted: in proportion)", x=0.01, ha="left", weight="bold", size=13
    )
    return figure


def _panel(axes: Axes, curves: dict[str, list[tuple[float, float]]], title: str | None) -> None:
    xs = sorted({x for points in curves.values() for x, _ in points})
    axes.plot([xs[0], xs[-1]], [1, xs[-1] / xs[0]], ":", color=GRAY, linewidth=1.2)
    highest = 1.0
    for (name, points), (color, mark) in zip(curves.items(), LINES, strict=False):
        ratios = [y / points[0][1] for _, y in points]
        highest = max(highest, *ratios)
        axes.plot([x for x, _ in points], ratios, color=color, marker=mark, markersize=5, label=name)
        # The name of a curve's end says enough where it is the only one.
        if len(curves) == 1:
            text = f"× {ratios[-1]:.3g}"
            axes.annotate(
                text,
                (points[-1][0], ratios[-1]),
                (0, 7),
                textcoords="offset points",
                ha="right",
                color=color,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    # Panels of flat curves would otherwise be filled by noise.
    axes.set_ylim(0.5, max(10.0, 2 * highest))
    axes.xaxis.set_major_locator(FixedLocator(xs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    axes.yaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100, 200]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    if len(curves) > 1:
        axes.legend(loc="upper left", frameon=False, fontsize=9, title=title, alignment="left")


def _points(curve: dict[str, float]) -> list[tuple[float, float]]:
    return sorted((float(x), y) for x, y in curve.items())


def _short(number: float) -> str:
    if number >= 1e6:
        return f"{number / 1e6:.3g}M"
    return f"{number / 1000:g}k" if number >= 10_000 and number % 1000 == 0 else f"{number:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"), help="folder of the JSON")
    folder = parser.parse_args().results
    plt.rcParams.update(STYLE)
    for name, draw in (("step", step_bars), ("growth", growth_lines)):
        file = folder / f"{name}.json"
        if not file.exists():
            print(f"{file} is not there yet")
            continue
        figure = draw(json.loads(file.read_text(encoding="utf-8")))
        # A date would make two files of one picture.
        figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
        print(f"wrote {file.with_suffix('.svg')}")


if __name__ == "__main__":
    main()
