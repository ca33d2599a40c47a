"""A tiny CLIP with random weights, and a tokenizer of its own, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

WORDS = ["a", "photo", "of", "the", "apple", "watch", "fish", "."]
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def make_folder(folder: Path, seed: int = 0, text: dict[str, Any] | None = None) -> Path:
    """A tiny CLIP with random weights, laid out as open_clip's local-dir: expects."""
    folder.mkdir(parents=True)
    config = CONFIG | {"text_cfg": CONFIG["text_cfg"] | (text or {})}  # type: ignore[operator]
    kept = {k: v for k, v in config["text_cfg"].items() if k != "hf_tokenizer_name"}  # type: ignore[attr-defined]
    torch.manual_seed(seed)
    model = open_clip.CLIP(**(config | {"text_cfg": kept}))
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def add_tokenizer(folder: Path) -> None:
    """A tokenizer that splits at blanks, lowers the case and knows `WORDS`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    wrapped.save_pretrained(folder)
