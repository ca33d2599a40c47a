"""Prompts as tokens: whether they tell CLIP's text tower what prompts say, and no more than they need.

Most that goes wrong between a tokenizer and a tower is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import open_clip
from torch import Tensor, nn
from torch.func import functional_call

from richkd.core.errors import ClipError

Tokenizer = Callable[[list[str]], Tensor]


def check_tokens(
    prompts: Sequence[str], tokens_PL: Tensor, tokenizer: Tokenizer, tower_vocabulary: int
) -> None:
    """Refuse token rows that would make CLIP read something else than the prompts say.

    Raises:
        ClipError: a token is outside the text tower's vocabulary, a prompt has an unknown token, or
            two different prompts have the same tokens.
    """
    fix = "give the model the tokenizer that it was trained with, or reword the prompt."
    inner = getattr(tokenizer, "tokenizer", None)
    ids = {
        role: getattr(inner, f"{role}_token_id", None) for role in ("unk", "pad", "bos", "eos", "sep", "cls")
    }
    unknown = ids.pop("unk")
    seen: dict[bytes, str] = {}
    for prompt, row_L in zip(prompts, tokens_PL.int().numpy(), strict=True):
        if tower_vocabulary and row_L.max() >= tower_vocabulary:
            got = f"token {row_L.max()} in {prompt!r}, of a text tower that knows {tower_vocabulary}"
            raise ClipError("Tokens must be in the vocabulary of CLIP's text tower", got=got, fix=fix)
        # CLIP's own vocabulary marks padding and unknown words with one token, which says nothing.
        if unknown is not None and unknown not in ids.values() and (row_L == unknown).any():
            raise ClipError("CLIP's tokenizer must know every word of the prompts", got=repr(prompt), fix=fix)
        other = seen.setdefault(row_L.tobytes(), prompt)
        if other != prompt:
            raise ClipError(
                "Different prompts must give different tokens, or CLIP reads them as one",
                got=f"the same tokens for {other!r} and {prompt!r}",
                fix=f"{fix} Many tokenizers drop letter case and cut long prompts.",
            )


def check_tokenizer(tokenizer: Tokenizer, tower_vocabulary: int, spec: str) -> None:
    """Refuse a tokenizer whose vocabulary is not the one that the text tower was trained with.

    Raises:
        ClipError: naming both sizes, or that the tokenizer knows no word at all.
    """
    inner = getattr(tokenizer, "tokenizer", None)
    words = vocabulary(tokenizer)
    rule = f"The tokenizer of CLIP '{spec}' must have the vocabulary that its text tower was trained with"
    # open_clip falls back to CLIP's own tokenizer wherever a configuration names none.
    if inner is None and tower_vocabulary and len(words) != tower_vocabulary:
        raise ClipError(
            rule,
            got=f"CLIP's own tokenizer with {len(words)} tokens, a text tower that knows {tower_vocabulary}",
            fix="name the right one as text_cfg.hf_tokenizer_name in the model's open_clip_config.json.",
        )
    # Without its vocabulary file, a tokenizer may load all the same and know special tokens alone.
    if inner is not None and len(set(words.values()) - set(inner.all_special_ids)) < 2:
        raise ClipError(
            rule,
            got="a tokenizer without any word, as when its vocabulary file is missing",
            fix="put the tokenizer's files (tokenizer.json, or its vocabulary) beside the model's weights.",
        )


class _TextTower(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_PL: Tensor) -> Tensor:
        embeds_PD: Tensor = self.model.encode_text(tokens_PL)
        return embeds_PD


def encode_text(model: Any, tokens_PL: Tensor) -> Tensor:
    """Text embeddings (P, D) of a CLIP, without computing the padding behind the longest prompt.

    Exact for a causal tower that reads its end token: what stands behind that token cannot reach it.
    CLIP's own class adds positions of its whole length and masks the like, so both are cut for the call.
    Other towers get their full length.
    """
    if type(model) is not open_clip.CLIP or model.attn_mask is None or model.text_pool_type != "argmax":
        whole_PD: Tensor = model.encode_text(tokens_PL)
        return whole_PD
    # The end token has the largest number of all.
    length = int(tokens_PL.argmax(dim=1).max()) + 1
    cut = {
        "model.positional_embedding": model.positional_embedding[:length],
        "model.attn_mask": model.attn_mask[:length, :length],
    }
    embeds_PD: Tensor = functional_call(_TextTower(model), cut, (tokens_PL[:, :length],))
    return embeds_PD


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens that a tokenizer knows, with their numbers."""
    inner = getattr(tokenizer, "tokenizer", None)
    words: dict[str, int] = inner.get_vocab() if inner is not None else getattr(tokenizer, "encoder", {})
    return words


def vocabulary_size(model: nn.Module) -> int:
    """How many tokens a CLIP's text tower knows; 0 where it does not tell."""
    return int(getattr(getattr(model, "text", model), "vocab_size", 0))
