"""Find prompts that are longer than the context of CLIP's text tower. Tokenizers cut them silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.tokenizer import SigLipTokenizer, basic_clean, canonicalize_text

from richkd.core.errors import ClipError
from richkd.core.logs import logger_of
from richkd.teachers.clip.tokens import Tokenizer

_LOG = logger_of(__name__)
# Numbers of prompts or classes, and of characters that are cut, that the message shows.
SHOWN, SHOWN_TEXT = 10, 120
# More tokens than any tokenizer adds at the ends of a prompt.
MOST_ADDED = 8


@dataclass(frozen=True)
class CutPrompt:
    """A prompt that does not fit in the context.

    Attributes:
        class_name: its class.
        template: the template or class-specific sentence that it was made from.
        prompt: the prompt.
        tokens: its number of tokens, with those that the tokenizer adds at the ends.
        limit: the largest number of tokens.
        lost: the text of the tokens that are cut.
    """

    class_name: str
    template: str
    prompt: str
    tokens: int
    limit: int
    lost: str

    def __str__(self) -> str:
        half = SHOWN_TEXT // 2
        lost = self.lost if len(self.lost) <= SHOWN_TEXT else f"{self.lost[:half]} … {self.lost[-half:]}"
        where = f"class '{self.class_name}', template {self.template!r}"
        return f"{where}: {self.tokens} tokens, cut off: {lost!r}"


def cut_prompts(
    tokenizer: Tokenizer,
    class_names: Sequence[str],
    prompts: Sequence[Sequence[str]],
    templates: Sequence[Sequence[str]],
) -> list[CutPrompt]:
    """Find the prompts that the tokenizer cuts, in the order of classes and templates.

    Args:
        tokenizer: a tokenizer of open_clip. Of other tokenizers the full length is unknown; nothing is found.
        class_names: names of the classes.
        prompts: the prompts of each class.
        templates: what each prompt was made from.

    Example:
        >>> import open_clip
        >>> [cut] = cut_prompts(open_clip.get_tokenizer("ViT-B-32"), ["owl"], [["an owl" * 90]], [["{}"]])
        >>> cut.tokens, cut.limit
        (182, 77)
    """
    limit = int(getattr(tokenizer, "context_length", 0) or 0)
    result = []
    for name, sentences, sources in zip(class_names, prompts, templates, strict=True):
        for prompt, template in zip(sentences, sources, strict=True):
            full = None if _is_short(prompt, limit) else _full_tokens(tokenizer, prompt)
            if full is not None and full.count > limit > 0:
                result.append(CutPrompt(name, template, prompt, full.count, limit, full.lost(limit)))
    return result


def check_prompt_lengths(
    tokenizer: Tokenizer,
    class_names: Sequence[str],
    prompts: Sequence[Sequence[str]],
    templates: Sequence[Sequence[str]],
) -> None:
    """Log all prompts that are cut in one message, and refuse those that become equal by it.

    Args:
        tokenizer: a tokenizer of open_clip.
        class_names: names of the classes.
        prompts: the prompts of each class.
        templates: what each prompt was made from.

    Raises:
        ClipError: two different prompts have the same tokens because they are cut.

    Example:
        >>> import open_clip
        >>> check_prompt_lengths(open_clip.get_tokenizer("ViT-B-32"), ["owl"], [["an owl"]], [["an {}"]])
    """
    cut = cut_prompts(tokenizer, class_names, prompts, templates)
    if not cut:
        return
    owner: dict[bytes, CutPrompt] = {}
    for one, row_L in zip(cut, tokenizer([one.prompt for one in cut]), strict=True):
        other = owner.setdefault(row_L.to(torch.int64).numpy().tobytes(), one)
        if other.prompt != one.prompt:
            raise ClipError(
                f"Prompts must differ in the first {one.limit} tokens, because CLIP does not see the others",
                got=f"the same tokens for {other}; and for {one}",
                fix="shorten the names with --clip.rename_classes, or the templates or class prompts.",
            )
    _LOG.warning("%s", _message(cut, sum(map(len, prompts))))


def _message(cut: Sequence[CutPrompt], total: int) -> str:
    lines = [
        f"{len(cut)} of {total} prompts have more than {cut[0].limit} tokens, and CLIP never sees the rest. "
        "Shorten the names with --clip.rename_classes, or the templates:"
    ]
    if len(cut) <= SHOWN:
        return "\n  ".join([*lines, *map(str, cut)])
    of_class: dict[str, list[CutPrompt]] = {}
    for one in cut:
        of_class.setdefault(one.class_name, []).append(one)
    # Every class is represented by its longest prompt.
    longest = sorted(
        (max(each, key=lambda one: one.tokens) for each in of_class.values()), key=lambda one: -one.tokens
    )
    for one in longest[:SHOWN]:
        more = len(of_class[one.class_name]) - 1
        lines.append(f"{one}" + (f" (and {more} more of this class)" if more else ""))
    if len(longest) > SHOWN:
        lines.append(f"and {len(longest) - SHOWN} more classes")
    return "\n  ".join(lines)


def _is_short(prompt: str, limit: int) -> bool:
    """Whether a prompt has fewer characters than the limit has tokens; spares most prompts the tokenizer."""
    # Text cleaning can make other characters and HTML entities (&) longer.
    return prompt.isascii() and "&" not in prompt and len(prompt) + MOST_ADDED <= limit


@dataclass(frozen=True)
class _Tokens:
    """The tokens of a text without a limit, and how many the tokenizer adds to them."""

    text: Sequence[int]
    added: int
    decode: Any
    from_left: bool = False

    @property
    def count(self) -> int:
        return len(self.text) + self.added

    def lost(self, limit: int) -> str:
        kept = max(0, limit - self.added)
        ids = self.text[: len(self.text) - kept] if self.from_left else self.text[kept:]
        return str(self.decode(list(ids))).strip()


def _full_tokens(tokenizer: Any, prompt: str) -> _Tokens | None:
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        # CLIP's own tokenizer adds a start and an end token.
        encode = getattr(tokenizer, "encode", None)
        return None if encode is None else _Tokens(encode(prompt), 2, tokenizer.decode)
    if isinstance(tokenizer, SigLipTokenizer):
        text = canonicalize_text(basic_clean(prompt))
    else:
        text = tokenizer.clean_fn(prompt)
    plain = inner(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    if getattr(tokenizer, "tokenizer_mode", "") == "clips":
        # Start, end and class token.
        return _Tokens(plain, 3, inner.decode)
    whole = inner(text, truncation=False, verbose=False)["input_ids"]
    from_left = getattr(inner, "truncation_side", "right") == "left"
    return _Tokens(plain, len(whole) - len(plain), inner.decode, from_left)
