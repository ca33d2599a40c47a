"""Check that a tokenizer fits the text tower of CLIP, and compute text embeddings without padding.

Most mismatches between a tokenizer and a text tower cause no error; they only give wrong embeddings.
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
    """Check that the tokens of all prompts are valid for the text tower.

    Args:
        prompts: different prompts.
        tokens_PL: their tokens.
        tokenizer: the tokenizer that made the tokens.
        tower_vocabulary: vocabulary size of the text tower; 0 if it is unknown.

    Raises:
        ClipError: a token is outside the vocabulary of the text tower, a prompt has an unknown token, or two
            prompts have the same tokens.

    Example:
        >>> import torch
        >>> check_tokens(["a cat"], torch.tensor([[1, 9]]), open_clip.tokenize, tower_vocabulary=4)
        Traceback (most recent call last):
        ...
        richkd.core.errors.ClipError: Tokens must be in the vocabulary of CLIP's text tower
        Got: token 9 in 'a cat', for a vocabulary of 4 tokens
        Fix: use the model's own tokenizer, or change the prompt (--clip.rename_classes, --clip.prompts).
    """
    fix = "use the model's own tokenizer, or change the prompt (--clip.rename_classes, --clip.prompts)."
    inner = getattr(tokenizer, "tokenizer", None)
    ids = {
        role: getattr(inner, f"{role}_token_id", None) for role in ("unk", "pad", "bos", "eos", "sep", "cls")
    }
    unknown = ids.pop("unk")
    prompt_of: dict[bytes, str] = {}
    for prompt, row_L in zip(prompts, tokens_PL.int().numpy(), strict=True):
        if tower_vocabulary and row_L.max() >= tower_vocabulary:
            got = f"token {row_L.max()} in {prompt!r}, for a vocabulary of {tower_vocabulary} tokens"
            raise ClipError("Tokens must be in the vocabulary of CLIP's text tower", got=got, fix=fix)
        # CLIP's own vocabulary uses one token for padding and for unknown words, which cannot be checked.
        if unknown is not None and unknown not in ids.values() and (row_L == unknown).any():
            raise ClipError("CLIP's tokenizer must know every word of the prompts", got=repr(prompt), fix=fix)
        other = prompt_of.setdefault(row_L.tobytes(), prompt)
        if other != prompt:
            raise ClipError(
                "Different prompts must have different tokens",
                got=f"the same tokens for {other!r} and {prompt!r}",
                fix=f"{fix} Many tokenizers ignore letter case and cut long prompts.",
            )


def check_tokenizer(tokenizer: Tokenizer, tower_vocabulary: int, spec: str) -> None:
    """Check that the tokenizer has the vocabulary of the text tower.

    Args:
        tokenizer: the tokenizer.
        tower_vocabulary: vocabulary size of the text tower; 0 if it is unknown.
        spec: name of the CLIP model, for messages.

    Raises:
        ClipError: the vocabulary sizes differ, or the tokenizer has no words.

    Example:
        >>> from types import SimpleNamespace
        >>> check_tokenizer(SimpleNamespace(encoder={"a": 0, "photo": 1}), 2, "ViT-B-32:openai")
    """
    inner = getattr(tokenizer, "tokenizer", None)
    words = vocabulary(tokenizer)
    rule = f"The tokenizer of CLIP '{spec}' must have the vocabulary that its text tower was trained with"
    # open_clip uses CLIP's own tokenizer if the configuration names none.
    if inner is None and tower_vocabulary and len(words) != tower_vocabulary:
        raise ClipError(
            rule,
            got=f"CLIP's own tokenizer with {len(words)} tokens, for a text tower with {tower_vocabulary}",
            fix="set text_cfg.hf_tokenizer_name in the model's open_clip_config.json.",
        )
    # Some tokenizers load without their vocabulary file, and then have special tokens only.
    if inner is not None and len(set(words.values()) - set(inner.all_special_ids)) < 2:
        raise ClipError(
            rule,
            got="a tokenizer without words, so its vocabulary file is probably missing",
            fix="copy tokenizer.json, or the tokenizer's vocabulary file, into the folder of the model.",
        )


class _TextTower(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_PL: Tensor) -> Tensor:
        embeds_PD: Tensor = self.model.encode_text(tokens_PL)
        return embeds_PD


def encode_text(model: Any, tokens_PL: Tensor) -> Tensor:
    """Compute text embeddings (P, D), without the padding after the longest prompt.

    The result is exact for a causal text tower that is pooled at the end token, because this token does not
    attend to later positions. The positional embedding and the attention mask of ``open_clip.CLIP`` are cut
    to the same length for this call. Other text towers get the full length.

    Args:
        model: the model of open_clip.
        tokens_PL: tokens on the device of the model.

    Example:
        >>> import torch
        >>> config = {"vision_cfg": {"layers": 1, "width": 64}, "text_cfg": {"layers": 1, "width": 64}}
        >>> model = open_clip.CLIP(embed_dim=8, **config).eval()
        >>> tokens_PL = open_clip.tokenize(["a photo of a cat"])
        >>> torch.allclose(encode_text(model, tokens_PL), model.encode_text(tokens_PL), atol=1e-6)
        True
    """
    if type(model) is not open_clip.CLIP or model.attn_mask is None or model.text_pool_type != "argmax":
        whole_PD: Tensor = model.encode_text(tokens_PL)
        return whole_PD
    # The end token has the largest token number.
    length = int(tokens_PL.argmax(dim=1).max()) + 1
    cut = {
        "model.positional_embedding": model.positional_embedding[:length],
        "model.attn_mask": model.attn_mask[:length, :length],
    }
    embeds_PD: Tensor = functional_call(_TextTower(model), cut, (tokens_PL[:, :length],))
    return embeds_PD


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens of a tokenizer with their numbers; empty if the tokenizer does not list them.

    Example:
        >>> from types import SimpleNamespace
        >>> vocabulary(SimpleNamespace(encoder={"a": 0, "photo": 1}))
        {'a': 0, 'photo': 1}
    """
    inner = getattr(tokenizer, "tokenizer", None)
    words: dict[str, int] = inner.get_vocab() if inner is not None else getattr(tokenizer, "encoder", {})
    return words


def vocabulary_size(model: nn.Module) -> int:
    """The vocabulary size of the text tower of a CLIP model; 0 if it is unknown.

    Example:
        >>> from types import SimpleNamespace
        >>> vocabulary_size(SimpleNamespace(vocab_size=49408))
        49408
    """
    return int(getattr(getattr(model, "text", model), "vocab_size", 0))
