"""What the parts of a step cost, against the obvious way.

    python benchmarks/pieces.py

Contrastive loss, data path, text embeddings, stored bytes, and the time until a command answers. Inputs
are random: times do not depend on their values. Prints a table and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from tests.reference.step import Contrast, load_image, negative_lists
from timing import machine, medians, save

from richkd.data.augmentations import CropFlip
from richkd.data.views import render
from richkd.losses.contrast import contrast_loss
from richkd.losses.features import normalize
from richkd.losses.negatives import draw, negative_rows, rows_by_class
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.clip.model import Clip
from richkd.teachers.clip.prompts import build_prompts, templates

BATCH, NEGATIVES, IMAGES, WIDTH, CLASSES = 64, 16384, 50_000, 128, 100
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


def contrast(rounds: int) -> dict[str, float]:
    """Forward and backward of the contrastive loss, rows given: gathered rows against one product."""
    labels_N = torch.arange(IMAGES) % CLASSES
    rows_N, starts_C, sizes_C = rows_by_class(labels_N, CLASSES)
    labels_B = labels_N[:BATCH]
    draws_BK = draw(0, 0, (BATCH, NEGATIVES), "cpu")
    rows_BK = negative_rows(labels_B, starts_C, sizes_C, draws_BK)
    rows_BK1 = torch.cat([rows_N[:BATCH, None], rows_BK], dim=1)
    student_BD, target_BD = (normalize(torch.randn(BATCH, WIDTH)).requires_grad_() for _ in range(2))
    slow = Contrast(IMAGES, WIDTH, 0.07, 0.5)
    banks = [bank_ND.clone() for bank_ND in slow.banks]
    log_z_2 = torch.tensor([10.8, 10.8])

    def ours(half: bool) -> Callable[[], None]:
        def call() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = contrast_loss(student_BD, target_BD, banks[0], banks[1], rows_BK1, log_z_2, 0.07)
            loss.backward()

        return call

    calls = {
        "reference": lambda: slow(student_BD, target_BD, rows_BK1).backward(),
        "ours, fp32": ours(False),
        "ours, bf16": ours(True),
    }
    return medians(calls, rounds)


def data_path(rounds: int) -> dict[str, float]:
    """A batch of augmented, normalized 32-px images, with and without its negatives."""
    pixels_NHWC = torch.randint(256, (IMAGES, 32, 32, 3), dtype=torch.uint8)
    labels_N = torch.arange(IMAGES) % CLASSES
    lists = negative_lists(labels_N.numpy(), CLASSES)
    random, augmentation = np.random.default_rng(0), CropFlip(32, 4)
    array, index_B = pixels_NHWC.numpy(), torch.randperm(IMAGES)[:BATCH]
    _, starts_C, sizes_C = rows_by_class(labels_N, CLASSES)

    def one_by_one() -> None:
        torch.stack([load_image(array[i], random, MEAN, STD) for i in index_B.tolist()])

    def one_by_one_with_negatives() -> None:
        one_by_one()
        for i in index_B.tolist():
            random.choice(lists[int(labels_N[i])], NEGATIVES, replace=True)

    def ours() -> None:
        views = augmentation.draw(0, 0, index_B)
        render(pixels_NHWC[index_B], views, 32, MEAN, STD)

    def ours_with_negatives() -> None:
        ours()
        negative_rows(labels_N[index_B], starts_C, sizes_C, draw(0, 0, (BATCH, NEGATIVES), "cpu"))

    calls = {
        "PIL": one_by_one,
        "PIL, numpy negatives": one_by_one_with_negatives,
        "ours": ours,
        "ours, negatives": ours_with_negatives,
    }
    return medians(calls, rounds)


def text(rounds: int) -> dict[str, float]:
    """Class embeddings of 100 classes × 12 prompts by a ViT-B/32's text tower with random weights."""
    model = open_clip.create_model("ViT-B-32", pretrained=None)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    config = open_clip.get_model_config("ViT-B-32")
    prompts = build_prompts([f"kind of thing number {i}" for i in range(CLASSES)], templates("paper"))
    exact = Clip(model, tokenizer, name="ViT-B-32", config=config, dtype=torch.float32)

    def class_by_class() -> None:
        with torch.inference_mode():
            for of_class in prompts:
                model.encode_text(tokenizer(list(of_class)))

    half_model = open_clip.create_model("ViT-B-32", pretrained=None, precision="bf16")
    half = Clip(half_model, tokenizer, name="ViT-B-32", config=config, dtype=torch.bfloat16)
    calls = {
        "class by class, 77 tokens": class_by_class,
        "ours, exact": lambda: exact.embed_prompts(prompts),
        "ours, bf16": lambda: half.embed_prompts(prompts),
    }
    return medians(calls, rounds, warmup=0)


def commands() -> dict[str, float]:
    """Seconds until ``richkd --help`` has answered, and of importing richkd beyond importing torch."""

    def run(code: str) -> float:
        best = 1e9
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            best = min(best, time.perf_counter() - began)
        return best

    help_code = "from richkd.cli import main\ntry:\n main(['--help'])\nexcept SystemExit: pass"
    beyond = run("import torch, richkd") - run("import torch")
    return {"richkd --help": run(help_code), "importing richkd beyond torch": beyond}


def stored() -> dict[str, int]:
    """Bytes of a view of an image in a teacher cache, its 8-byte key included."""
    return {
        "dense, 100 logits and 256 features": RowFormat(100, 256).row_bytes + 8,
        "10 largest of 1,000 logits": RowFormat(1000, 0, top_k=10).row_bytes + 8,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pieces.json"))
    arguments = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "stored bytes": stored(), "commands": commands()}
    for part in (contrast, data_path, text):
        # A minute for each call of the slow way.
        result[part.__name__] = part(2 if part is text else arguments.rounds)
    for name in ("contrast", "data_path", "text"):
        print(name)
        for contender, seconds in result[name].items():
            slowest = max(result[name].values())
            print(f"  {contender:30} {1000 * seconds:9.1f} ms   ÷ {slowest / seconds:.1f}")
    print(json.dumps({key: result[key] for key in ("machine", "stored bytes", "commands")}, indent=1))
    save(arguments.out, result)


if __name__ == "__main__":
    main()
