from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory, pretrained
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import normalize, to_tensor

from richkd.core.errors import ClipError
from richkd.data.framing import frame
from richkd.teachers.clip.load import load_clip
from richkd.teachers.clip.model import Clip, ClipTeacher
from richkd.teachers.clip.named_weights import find_weights
from tests.teachers.clip.tiny import CONFIG

PAIRS = open_clip.list_pretrained()
KEYS = ("mean", "std", "interpolation", "resize_mode")


def kind(model: str, tag: str) -> tuple[Any, ...]:
    """Preprocessing and activation of a published tag, written out."""
    given = pretrained._PRETRAINED[model][tag]
    quick = given.get("quick_gelu", False) or factory._MODEL_CONFIGS[model].get("quick_gelu", False)
    return tuple(given["mean"]), tuple(given["std"]), given["interpolation"], given["resize_mode"], quick


def kinds(model: str) -> set[tuple[Any, ...]]:
    return {kind(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)}


MODELS = sorted({model for model, _ in PAIRS})
AGREEING = [model for model in MODELS if len(kinds(model)) == 1]
DISAGREEING = [model for model in MODELS if len(kinds(model)) > 1]
# A pair of each kind, and a model whose configuration has QuickGELU although its tag does not say so.
REPRESENTATIVES = [*{kind(*pair): pair for pair in PAIRS}.values(), ("roberta-ViT-B-32", "laion2b_s12b_b32k")]


@pytest.fixture
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """All architectures of open_clip become tiny; their names, activations and tags stay."""
    for name, config in factory._MODEL_CONFIGS.items():
        activation = {"quick_gelu": config["quick_gelu"]} if "quick_gelu" in config else {}
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, CONFIG | activation)
    # Tokenizers of single models would be downloaded.
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: open_clip.SimpleTokenizer())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "own@home.pt"
    # Large weights, so that GELU and QuickGELU differ.
    weights = {name: 3 * tensor for name, tensor in open_clip.CLIP(**CONFIG).state_dict().items()}
    torch.save(weights | {"logit_scale": torch.tensor(2.0)}, path)
    return path


def of_open_clip(monkeypatch: pytest.MonkeyPatch, model: str, tag: str, file: Path) -> tuple[Any, Any]:
    """Model and transform of open_clip itself for a tag whose download is a file."""
    given = pretrained._PRETRAINED[model][tag]
    monkeypatch.setitem(pretrained._PRETRAINED[model], tag, given | {"file": str(file)})
    quick = given.get("quick_gelu", False)
    reference, _, transform = open_clip.create_model_and_transforms(model, tag, force_quick_gelu=quick)
    monkeypatch.setitem(pretrained._PRETRAINED[model], tag, given)
    return reference.eval(), transform


def assert_equal_to(clip: Clip, reference: Any, transform: Any) -> None:
    """The same pixels of a picture, the same normalization and the same features."""
    noise = np.random.default_rng(0).integers(0, 256, (57, 83, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected_3HW = transform(image)
    pixels_3HW = normalize(to_tensor(frame(image, clip.framing)), list(clip.mean), list(clip.std))
    assert torch.equal(pixels_3HW, expected_3HW)
    assert InterpolationMode(clip.framing.interpolation) == transform.transforms[0].interpolation
    tokens_PL = open_clip.tokenize(["a photo of a cat"])
    with torch.inference_mode():
        torch.testing.assert_close(
            clip.model.encode_image(expected_3HW[None]), reference.encode_image(expected_3HW[None])
        )
        torch.testing.assert_close(clip.model.encode_text(tokens_PL), reference.encode_text(tokens_PL))
    activation, expected = (
        type(model.transformer.resblocks[0].mlp.gelu) for model in (clip.model, reference)
    )
    assert activation is expected


@pytest.mark.parametrize(("model", "tag"), REPRESENTATIVES)
def test_a_file_with_a_tag_is_what_open_clip_makes_of_the_tag(
    model: str, tag: str, tiny_models: None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = of_open_clip(monkeypatch, model, tag, file)
    assert_equal_to(load_clip(f"{model}:{tag}@{file}"), *reference)
    if model in AGREEING:
        assert_equal_to(load_clip(f"{model}:{file}"), *reference)


@pytest.mark.parametrize("tag", ["openai", "datacomp_xl_s13b_b90k"])
def test_a_published_tag_is_what_open_clip_makes_of_it(
    tag: str, tiny_models: None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = of_open_clip(monkeypatch, "ViT-L-14", tag, file)
    given = pretrained._PRETRAINED["ViT-L-14"][tag]
    monkeypatch.setitem(pretrained._PRETRAINED["ViT-L-14"], tag, given | {"file": str(file)})
    assert_equal_to(load_clip(f"ViT-L-14:{tag}"), *reference)


def test_every_published_pair(file: Path) -> None:
    for model, tag in PAIRS:
        result = find_weights(f"{model}:{tag}@{file}")
        assert (*(result.preprocessing[key] for key in KEYS), result.quick_gelu) == kind(model, tag)
        assert (result.model, result.weights) == (model, str(file))
        alone = find_weights(f"{model}:{tag}")
        assert (alone.weights, alone.preprocessing, alone.quick_gelu) == (tag, {}, result.quick_gelu)
    assert len(PAIRS) > 150


@pytest.mark.parametrize("model", DISAGREEING)
def test_a_file_alone_is_refused_if_the_tags_differ(model: str, file: Path) -> None:
    with pytest.raises(ClipError, match="need a tag of") as caught:
        find_weights(f"{model}:{file}")
    message = str(caught.value)
    assert f"'{model}:TAG@{file}'" in message
    # A line for each kind, with its tags.
    lines = message.split("right kind:\n")[1].splitlines()
    assert len(lines) == len(kinds(model))
    for line in lines:
        tags = line.split(": ")[1].split(", ")
        assert len({kind(model, tag) for tag in tags}) == 1
    listed = [tag for line in lines for tag in line.split(": ")[1].split(", ")]
    assert sorted(listed) == sorted(open_clip.list_pretrained_tags_by_model(model))


def test_the_differences_are_named(file: Path) -> None:
    with pytest.raises(ClipError) as caught:
        find_weights(f"ViT-B-32:{file}")
    assert "\n  QuickGELU: openai, " in str(caught.value)
    assert "mean" not in str(caught.value)
    with pytest.raises(ClipError) as caught:
        find_weights(f"ViT-H-14-quickgelu:{file}")
    assert "\n  resize_mode squash: dfn5b" in str(caught.value)
    with pytest.raises(ClipError) as caught:
        find_weights(f"ViT-L-14:{file}")
    assert "mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5), GELU: laion2b_s32b_b82k" in str(caught.value)


def test_a_file_alone_has_what_all_tags_agree_on(file: Path) -> None:
    for model in AGREEING:
        result = find_weights(f"{model}:{file}")
        assert {(*(result.preprocessing[key] for key in KEYS), result.quick_gelu)} == kinds(model)
    assert len(AGREEING) > 50


@pytest.mark.parametrize(("model", "quick"), [("ViT-S-32", False), ("ViT-L-14-worldwide-quickgelu", True)])
def test_a_model_without_published_weights_has_open_clips_defaults(
    model: str, quick: bool, tiny_models: None, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = load_clip(f"{model}:{file}")
    (record,) = caplog.records
    assert "no published weights" in record.getMessage()
    assert ("QuickGELU" in record.getMessage()) is quick
    reference, _, transform = open_clip.create_model_and_transforms(model, str(file))
    assert_equal_to(clip, reference.eval(), transform)


def test_ways_to_write_the_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("HOME", str(file.parent))
    for path in (file.name, f"./{file.name}", f"~/{file.name}", str(file)):
        for spec in (f"ViT-B/32:OpenAI@{path}", f"RN50:{path}"):
            result = find_weights(spec)
            assert Path(result.weights).samefile(file)
            assert result.quick_gelu
    # A file may have the name of a tag.
    (tmp_path / "openai").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert find_weights("ViT-B-32:openai").weights == "openai"
    assert find_weights("ViT-B-32:openai@openai").weights == str(tmp_path / "openai")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ViT-B-32:openai@absent.pt", "no file 'absent.pt'"),
        ("ViT-B-32:openai@", "no file ''"),
        ("ViT-B-32:absent.pt", "'absent.pt', which is no tag and no file"),
        ("ViT-B-32:opnai@FILE", "Did you mean 'openai'"),
        ("ViT-B-32:@FILE", "Got: no tag"),
        ("ViT-S-32:openai@FILE", r"no weights of ViT-S-32 are published; write 'ViT-S-32:FILE'"),
        ("ViT-B-32:openai@/", "no file '/'"),
        ("ViT-B-32:~nobody-has-this-name/a.pt", "no tag and no file"),
        ("ViT-B-32:" + "a" * 5000, "no tag and no file"),
        ("ViT-B-32:openai@\0", "must exist"),
        ("ViT-C-32:openai@FILE", "must be a model of open_clip"),
    ],
)
def test_what_names_no_weights_is_refused(spec: str, message: str, file: Path) -> None:
    with pytest.raises(ClipError, match=message):
        load_clip(spec.replace("FILE", str(file)))


def test_a_file_of_another_model_is_refused_without_advice_to_download(file: Path) -> None:
    with pytest.raises(ClipError, match=f"check that {file} holds the weights of a ViT-S-32") as caught:
        load_clip(f"ViT-S-32:{file}")
    assert "hf download" not in str(caught.value)


def test_preprocessing_and_activation_belong_to_the_digest_of_a_cache(tiny_models: None, file: Path) -> None:
    """The same weights with tags that differ in the activation, in the normalization, and not at all."""
    openai, gelu, half, metaclip = (
        ClipTeacher(load_clip(f"ViT-L-14:{tag}@{file}"), torch.eye(2, 16)).ingredients()["CLIP's weights"]
        for tag in ("openai", "laion400m_e31", "laion2b_s32b_b82k", "metaclip_400m")
    )
    assert len({openai, gelu, half}) == 3
    assert metaclip == openai
