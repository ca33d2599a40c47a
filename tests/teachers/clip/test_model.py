from __future__ import annotations

import copy
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from richkd.core.errors import CheckpointError, ClipError
from richkd.teachers.clip.load import load_clip
from richkd.teachers.clip.model import Clip, ClipTeacher
from richkd.teachers.clip.prompts import build_prompts, templates
from richkd.teachers.clip.tokens import check_tokens, encode_text
from tests.fixtures import flip_bit
from tests.teachers.clip.tiny import add_tokenizer, make_folder

NAMES = ["aquarium_fish", "apple", "sea horse", "watch", "yin_yang"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return load_clip(f"local-dir:{folder}")


@pytest.fixture
def text_calls(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of prompts in each call of the text tower."""
    calls: list[int] = []
    encode: Callable[[torch.Tensor], torch.Tensor] = clip.model.encode_text

    def counted(tokens: torch.Tensor) -> torch.Tensor:
        calls.append(len(tokens))
        return encode(tokens)

    monkeypatch.setattr(clip.model, "encode_text", counted)
    return calls


def test_what_a_loaded_clip_says_of_itself(clip: Clip, folder: Path) -> None:
    weights = load_file(folder / "open_clip_model.safetensors")
    assert clip.logit_scale == pytest.approx(math.exp(weights["logit_scale"].item()), rel=1e-9)
    assert (clip.embed_width, clip.image_size) == (16, 32)
    assert (clip.mean, clip.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert not clip.model.training
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())


def test_class_embeddings_equal_a_loop_over_single_prompts(clip: Clip) -> None:
    prompts = build_prompts(
        NAMES, templates("paper"), {"apple": ["a red fruit", "a {}"], "watch": ["a watch"]}
    )
    result = clip.embed_prompts(prompts, batch_size=7)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    for c, sentences in enumerate(prompts):
        total = torch.zeros(16)
        for sentence in sentences:
            embedding = clip.model.encode_text(tokenizer([sentence]))[0]
            total += embedding / embedding.norm()
        assert torch.allclose(result[c], total / total.norm(), atol=1e-6)
    assert torch.allclose(result, clip.embed_prompts(prompts), atol=1e-6)


def test_prompts_are_embedded_in_large_batches_and_once_each(clip: Clip, text_calls: list[int]) -> None:
    clip.embed_prompts([["a dog", "a pet"], ["a cat", "a pet"], ["a bird", "a bird"]], batch_size=3)
    assert text_calls == [3, 1]


def test_cache_spares_the_text_tower(clip: Clip, text_calls: list[int], tmp_path: Path) -> None:
    prompts = build_prompts(NAMES, templates("simple"))
    first = clip.class_embeddings(NAMES, prompts, tmp_path / "deep" / "cache")
    again = clip.class_embeddings(NAMES, prompts, str(tmp_path / "deep" / "cache"))
    assert text_calls == [5]
    assert torch.equal(first, again)
    changed = [[*prompts[0], "one more"], *prompts[1:]]
    clip.class_embeddings(NAMES, changed, tmp_path / "deep" / "cache")
    assert text_calls == [5, 6]
    # The order of classes is part of the key: rows must never be handed out for other classes.
    clip.class_embeddings(NAMES[::-1], prompts[::-1], tmp_path / "deep" / "cache")
    assert text_calls == [5, 6, 5]
    clip.class_embeddings(NAMES, prompts, None)
    assert text_calls == [5, 6, 5, 5]
    kept = list((tmp_path / "deep" / "cache").iterdir())
    assert sorted(file.suffix for file in kept) == [".safetensors"] * 3


def test_a_cache_folder_that_cannot_be_written_is_an_error(clip: Clip, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="class-embeddings"):
        clip.class_embeddings(["a"], [["a"]], tmp_path / "file" / "cache")


def test_fingerprint_follows_content_and_not_place(clip: Clip, folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert load_clip(f"local-dir:{moved}").fingerprint == clip.fingerprint
    prints = {clip.fingerprint, load_clip(f"local-dir:{folder}", dtype=torch.bfloat16).fingerprint}
    prints.add(load_clip(f"local-dir:{make_folder(tmp_path / 'seed', seed=1)}").fingerprint)
    config = json.loads((moved / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.1, 0.4, 0.3]
    (moved / "open_clip_config.json").write_text(json.dumps(config))
    prints.add(load_clip(f"local-dir:{moved}").fingerprint)
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": "whitespace"}
    (moved / "open_clip_config.json").write_text(json.dumps(config))
    prints.add(load_clip(f"local-dir:{moved}").fingerprint)
    assert len(prints) == 5


def test_teacher_gives_cosines_and_features(clip: Clip) -> None:
    embeddings = clip.embed_prompts(build_prompts(NAMES, templates("simple")))
    teacher = ClipTeacher(clip, embeddings)
    pixels = torch.randn(4, 3, 32, 32)
    out = teacher.cosines(pixels)
    # Rounded to float16, as a cache keeps it.
    reference = functional.normalize(clip.model.encode_image(pixels), dim=1).half().float()
    expected = functional.cosine_similarity(reference[:, None], embeddings[None], dim=2)
    assert torch.allclose(out.logits_BC, expected, atol=1e-6)
    assert torch.allclose(out.feats_BF.norm(dim=1), torch.ones(4), atol=1e-6)
    assert (teacher.logit_scale, teacher.feature_width) == (clip.logit_scale, 16)
    other = ClipTeacher(clip, embeddings.flip(0))
    assert other.fingerprint != teacher.fingerprint == ClipTeacher(clip, embeddings).fingerprint


def test_padding_behind_the_longest_prompt_is_not_computed(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["a cat", "a photo of the apple watch, the fish and the watch", "yin yang"]
    tokens = clip.tokenizer(prompts)
    whole = clip.model.encode_text(tokens)
    lengths: list[int] = []
    transformer = clip.model.transformer.forward

    def counted(x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        lengths.append(x.shape[1])
        return transformer(x, **kwargs)

    monkeypatch.setattr(clip.model.transformer, "forward", counted)
    torch.testing.assert_close(encode_text(clip.model, tokens), whole, rtol=1e-5, atol=1e-6)
    assert lengths == [int((tokens != 0).sum(1).max())]
    assert clip.model.positional_embedding.shape[0] == clip.model.attn_mask.shape[0] == 77
    torch.testing.assert_close(clip.model.encode_text(tokens), whole, rtol=0, atol=0)


@pytest.mark.parametrize("change", ["no mask", "last token"])
def test_towers_that_read_their_padding_keep_it(clip: Clip, change: str) -> None:
    model = copy.deepcopy(clip.model)
    if change == "no mask":
        model.attn_mask = None
    else:
        model.text_pool_type = "last"
    tokens = clip.tokenizer(["a cat", "a dog on a mat"])
    assert torch.equal(encode_text(model, tokens), model.encode_text(tokens))


def test_no_flipped_bit_of_stored_embeddings_is_used(clip: Clip, tmp_path: Path) -> None:
    prompts = [["a cat"], ["a dog"]]
    expected = clip.class_embeddings(["cat", "dog"], prompts, tmp_path)
    (path,) = tmp_path.glob("class-embeddings-*")
    original = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(original)), 60):
        flip_bit(path, bit)
        assert torch.equal(clip.class_embeddings(["cat", "dog"], prompts, tmp_path), expected)
        path.unlink()
        path.write_bytes(original)


def test_features_can_feed_a_trained_head(clip: Clip) -> None:
    feats = clip.image_features(torch.randn(2, 3, 32, 32))
    assert not feats.requires_grad
    head = torch.nn.Linear(16, 3)
    head(feats).sum().backward()
    assert head.weight.grad is not None


def test_outputs_do_not_follow_autocast(clip: Clip) -> None:
    prompts, pixels = [["a cat"], ["a dog"]], torch.randn(2, 3, 32, 32)
    plain = ClipTeacher(clip, clip.embed_prompts(prompts)).cosines(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        cast = ClipTeacher(clip, clip.embed_prompts(prompts)).cosines(pixels)
    assert torch.equal(plain.logits_BC, cast.logits_BC)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(clip: Clip, folder: Path, dtype: torch.dtype) -> None:
    half = load_clip(f"local-dir:{folder}", dtype=dtype)
    pixels = torch.randn(4, 3, 32, 32)
    feats, expected = half.image_features(pixels), clip.image_features(pixels)
    assert feats.dtype == torch.float32
    assert functional.cosine_similarity(feats, expected).min() > 0.999
    texts = half.embed_prompts([["a cat"], ["a dog"]])
    assert functional.cosine_similarity(texts, clip.embed_prompts([["a cat"], ["a dog"]])).min() > 0.999
    assert half.logit_scale == pytest.approx(clip.logit_scale)


def test_prompts_that_clip_would_read_as_one_are_refused(clip: Clip) -> None:
    with pytest.raises(ClipError, match="'a Crane' and 'a crane'"):
        clip.embed_prompts([["a Crane"], ["a dog", "a crane"]])
    long = "very " * 80
    with pytest.raises(ClipError, match="cut long prompts"):
        clip.embed_prompts([[f"{long} small"], [f"{long} big"]])
    with pytest.raises(ClipError, match="none for class 1"):
        clip.embed_prompts([["a"], []])


def test_embeddings_that_are_not_finite_are_refused(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip.model, "encode_text", lambda tokens: torch.full((len(tokens), 16), math.nan))
    with pytest.raises(ClipError, match="first prompt is 'a cat'"):
        clip.embed_prompts([["a cat"], ["a dog"]])


def test_a_tokenizer_of_the_models_own(tmp_path: Path) -> None:
    text = {"vocab_size": 10, "context_length": 8, "hf_tokenizer_name": "any"}
    folder = make_folder(tmp_path / "own", text=text)
    add_tokenizer(folder)
    clip = load_clip(f"local-dir:{folder}")
    assert clip.embed_prompts([["a photo of a fish ."], ["the watch"]]).shape == (2, 16)
    with pytest.raises(
        ClipError, match=r"know every word(.|\n)*'a photo of a dog'(.|\n)*--clip\.rename_classes"
    ):
        clip.embed_prompts([["a fish"], ["a photo of a dog"]])
    assert clip.fingerprint == load_clip(f"local-dir:{folder}").fingerprint
    with pytest.raises(ClipError, match=r"token 9 in 'a fish \."):
        check_tokens(["a fish ."], clip.tokenizer(["a fish ."]), clip.tokenizer, 9)


@pytest.mark.parametrize("left_over", [None, "CLIPTokenizer", "BertTokenizer", "T5Tokenizer"])
def test_a_missing_tokenizer_is_an_error(tmp_path: Path, left_over: str | None) -> None:
    folder = make_folder(tmp_path / "own", text={"hf_tokenizer_name": "any"})
    if left_over:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": left_over}))
    with pytest.raises(ClipError, match="okenizer"):
        load_clip(f"local-dir:{folder}")


def test_clips_own_tokenizer_must_fit_the_text_tower(tmp_path: Path) -> None:
    for size in (1000, 50000):
        folder = make_folder(tmp_path / str(size), text={"vocab_size": size})
        with pytest.raises(ClipError, match=f"49408 tokens, for a text tower with {size}"):
            load_clip(f"local-dir:{folder}")


def test_folders_that_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=f"no {tmp_path / 'absent'}\n"):
        load_clip(f"local-dir:{tmp_path / 'absent'}")
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "open_clip_model.safetensors").write_bytes(b"text")
    with pytest.raises(ClipError, match="could not be loaded"):
        load_clip(f"local-dir:{copy}")
    (copy / "open_clip_model.safetensors").unlink()
    with pytest.raises(ClipError, match="with its weights"):
        load_clip(f"local-dir:{copy}")
    (copy / "open_clip_config.json").unlink()
    with pytest.raises(ClipError, match="with its configuration"):
        load_clip(f"local-dir:{copy}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ViT-B-23:openai", "Did you mean .*'ViT-B-32'"),
        ("ViT-B-32:datacomp_xl", "Did you mean .*'datacomp_xl_s13b_b90k'"),
        ("ViT-B/32", "Got: no tag"),
        ("ViT-B-32:", "Got: no tag"),
        ("ViT-B-32", r"write a tag, such as --clip ViT-B-32:openai; open_clip\..* lists all"),
        ("localdir:runs/clip", "Did you mean 'local-dir:runs/clip'"),
        ("runs/clip", "runs/clip is written as a path"),
        ("cache:big", "cache: is a kind of teacher"),
        ("qqqqqqqqqqqq:openai", r"open_clip.list_models\(\) lists all"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(ClipError, match=message):
        load_clip(spec)


def test_a_failed_download_says_how_to_place_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(open_clip, "create_model", refuse)
    repository = "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K"
    for spec in ("ViT-B-32:datacomp_xl_s13b_b90k", f"hf-hub:{repository}"):
        with pytest.raises(
            ClipError, match=f"no route to host\n(.|\n)*hf download {repository} (.|\n)*local-dir:"
        ):
            load_clip(spec)


def test_quick_gelu_weights_get_quick_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B-32's own configuration says GELU, but OpenAI's weights were trained with QuickGELU."""
    asked: dict[str, bool] = {}

    def record(name: str, tag: str, *, force_quick_gelu: bool, **_: object) -> None:
        asked[f"{name}:{tag}"] = force_quick_gelu
        raise RuntimeError("far enough")

    monkeypatch.setattr(open_clip, "create_model", record)
    for tag in ("openai", "datacomp_xl_s13b_b90k"):
        with pytest.raises(ClipError, match="far enough"):
            load_clip(f"ViT-B/32:{tag}")
    assert asked == {"ViT-B-32:openai": True, "ViT-B-32:datacomp_xl_s13b_b90k": False}


def test_types_that_clip_does_not_take(folder: Path) -> None:
    with pytest.raises(ClipError, match=r"torch\.float64"):
        load_clip(f"local-dir:{folder}", dtype=torch.float64)
