from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from richkd.config.schema import ClipConfig
from richkd.core.errors import ClipError
from richkd.teachers.clip.load import open_clip_teacher
from richkd.teachers.clip.prompt_lengths import check_prompt_lengths, cut_prompts
from tests.teachers.clip.tiny import add_tokenizer, make_folder

CLIP_TOKENIZER = open_clip.get_tokenizer("ViT-B-32")
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<cls>"]
WORDS = ["a", "photo", "of", "the", "red", "owl", "cat", "in", "snow"]
LIMIT = 8


def word_tokenizer(kind: str) -> Any:
    """A tokenizer of open_clip's classes that knows `WORDS`, with another end for every kind."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "both ends":
        ends = [("<s>", 2), ("</s>", 3)]
        inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    if kind == "siglip":
        inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 3)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    side = "left" if kind == "left" else "right"
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, cls_token="<cls>", truncation_side=side, model_max_length=LIMIT, **names
    )
    wrapper = SigLipTokenizer if kind == "siglip" else HFTokenizer
    tokenizer = wrapper.__new__(wrapper)
    tokenizer.tokenizer, tokenizer.context_length = fast, LIMIT
    tokenizer.tokenizer_mode = "clips" if kind == "clips" else ""
    tokenizer.clean_fn, tokenizer.strip_sep_token = str.strip, False
    return tokenizer


def words_that_fit(tokenizer: Any) -> int:
    """The largest number of words that all have an effect on the tokens, found by trying."""
    count = 0
    for number in range(1, LIMIT + 2):
        cat, owl = (tokenizer([" ".join(["a"] * (number - 1) + [last])]) for last in ("cat", "owl"))
        first = [tokenizer([" ".join([first] + ["a"] * (number - 1))]) for first in ("cat", "owl")]
        if not torch.equal(cat, owl) and not torch.equal(*first):
            count = number
    return count


def cuts(tokenizer: Any, *prompts: str) -> list[Any]:
    return cut_prompts(tokenizer, ["red owl"], [prompts], [["{}"] * len(prompts)])


@pytest.mark.parametrize("kind", ["plain", "both ends", "siglip", "clips", "left"])
def test_every_kind_of_tokenizer_is_measured(kind: str) -> None:
    tokenizer = word_tokenizer(kind)
    most = words_that_fit(tokenizer)
    assert most == {"plain": 8, "both ends": 6, "siglip": 7, "clips": 5, "left": 8}[kind]
    words = [WORDS[number % len(WORDS)] for number in range(20)]
    assert cuts(tokenizer, *(" ".join(words[:count]) for count in range(1, most + 1))) == []
    for count in range(most + 1, 20):
        (cut,) = cuts(tokenizer, " ".join(words[:count]))
        assert (cut.tokens, cut.limit) == (LIMIT + count - most, LIMIT)
        lost = words[: count - most] if kind == "left" else words[most:count]
        assert cut.lost == " ".join(lost)


@settings(deadline=None, max_examples=40)
@given(st.text(min_size=1, max_size=120), st.integers(1, 6))
def test_clips_own_tokenizer_cuts_exactly_what_is_found(text: str, repeats: int) -> None:
    prompt = text * repeats
    tokens = CLIP_TOKENIZER.encode(prompt)
    wide = CLIP_TOKENIZER([prompt], context_length=2000)[0]
    length = int(wide.argmax()) + 1
    assert bool(cuts(CLIP_TOKENIZER, prompt)) == (length > 77)
    for cut in cuts(CLIP_TOKENIZER, prompt):
        assert cut.tokens == length == len(tokens) + 2
        assert cut.lost == CLIP_TOKENIZER.decode(tokens[75:]).strip()


def test_the_limit_is_that_of_the_model() -> None:
    prompt = "a photo of the red owl " * 5
    assert not cuts(CLIP_TOKENIZER, prompt)
    (cut,) = cuts(open_clip.SimpleTokenizer(context_length=16), prompt)
    assert (cut.tokens, cut.limit) == (32, 16)


def test_a_tokenizer_of_unknown_kind_is_left_alone() -> None:
    assert cuts(lambda texts: torch.zeros(len(texts), 4), "word " * 200) == []


def test_one_message_has_class_template_tokens_and_what_was_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Through the settings: templates from a file, prompts of one class, another name for a class."""
    (tmp_path / "templates.txt").write_text("a photo of a {}.\na {} in the deep snow of the north.\n")
    (tmp_path / "prompts.yaml").write_text(f"cat: ['{'a very ' * 40}old {{}}']\n")
    (tmp_path / "names.yaml").write_text(f"owl: {'big ' * 70}owl\n")
    config = ClipConfig(
        name=f"local-dir:{make_folder(tmp_path / 'clip')}",
        prompts=str(tmp_path / "templates.txt"),
        class_prompts=tmp_path / "prompts.yaml",
        rename_classes=tmp_path / "names.yaml",
        cache=tmp_path / "cache",
    )
    for _ in range(2):
        caplog.clear()
        open_clip_teacher(config, ["dog", "cat", "owl"], torch.device("cpu"))
        # Also if the class embeddings are read from their cache.
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        first, cat, owl, *others = record.getMessage().splitlines()
        assert "3 of 5 prompts have more than 77 tokens" in first
        assert "class 'cat', template 'a very" in cat
        assert "84 tokens" in cat
        assert cat.endswith("cut off: 'very a very a very old cat'")
        assert "class 'owl', template 'a photo of a {}.': 78 tokens, cut off: '.'" in owl
        assert len(others) == 1


def test_many_cut_prompts_are_summed_up_by_class(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{number} {'very ' * (80 + number)}" for number in range(14)]
    templates = ["a {}", "the long {}"]
    prompts = [[template.replace("{}", name) for template in templates] for name in names]
    check_prompt_lengths(CLIP_TOKENIZER, names, prompts, [templates] * 14)
    (record,) = caplog.records
    first, *lines, last = record.getMessage().splitlines()
    assert "28 of 28 prompts" in first
    assert "class '13 very" in lines[0]
    assert all("'the long {}'" in line and "(and 1 more of this class)" in line for line in lines)
    assert (len(lines), last.strip()) == (10, "and 4 more classes")


def test_class_names_that_are_cut_to_the_same_prompt_are_refused(tmp_path: Path) -> None:
    long = "very " * 80
    config = ClipConfig(name=f"local-dir:{make_folder(tmp_path / 'clip')}", cache=tmp_path)
    with pytest.raises(ClipError, match=r"first 77 tokens(.|\n)*class 'a very(.|\n)*88 tokens") as caught:
        open_clip_teacher(config, ["dog", f"a {long} small", f"a {long} big"], torch.device("cpu"))
    assert "rename_classes" in str(caught.value)
    assert "cut off: 'very" in str(caught.value)


def test_a_model_with_a_tokenizer_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = {"vocab_size": 10, "context_length": 8, "hf_tokenizer_name": "any"}
    folder = make_folder(tmp_path / "own", text=text)
    add_tokenizer(folder)
    (tmp_path / "templates.txt").write_text("a photo of the {}\na photo of the fish of the fish of {}\n")
    config = ClipConfig(
        name=f"local-dir:{folder}", prompts=str(tmp_path / "templates.txt"), cache=tmp_path / "cache"
    )
    open_clip_teacher(config, ["apple"], torch.device("cpu"))
    (record,) = caplog.records
    assert "1 of 2 prompts have more than 8 tokens" in record.getMessage()
    assert "class 'apple', template 'a photo of the fish of the fish of {}': 10 tokens" in record.getMessage()
    assert record.getMessage().endswith("cut off: 'of apple'")
    with pytest.raises(ClipError, match=r"'of apple'(.|\n)*'of watch'"):
        open_clip_teacher(config, ["apple", "watch"], torch.device("cpu"))
