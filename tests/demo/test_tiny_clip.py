from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional

import richkd.demo
from richkd.demo.digits import NAMES, write_digits
from richkd.teachers.clip.load import load_clip
from richkd.teachers.clip.prompts import PAPER

FOLDER = Path(richkd.demo.__file__).parent / "tiny_clip"
SPEC = f"local-dir:{FOLDER}"
# Measured by scripts/train_tiny_clip.py with the 12 templates on all 1,797 digits; five points below it.
LEAST = 0.839
PROMPTS = [template.replace("{}", name) for name in NAMES for template in PAPER]


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Any:
    """Any attempt to connect is an error, so whatever loads here loads offline."""
    patch = pytest.MonkeyPatch()

    def refuse(*_: object) -> None:
        raise AssertionError("the demo must not reach for the network")

    # Told to be offline, the hub's client would not even try, and the refusal would prove nothing.
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    patch.setattr(socket.socket, "connect", refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any, Any]:
    """The model, its preprocessing and its tokenizer, through open_clip alone."""
    model, preprocess = open_clip.create_model_from_pretrained(SPEC)
    return model.eval(), preprocess, open_clip.get_tokenizer(SPEC)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted(write_digits(tmp_path_factory.mktemp("demo") / "digits").glob("*/*/*.png"))


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 900_000


def test_the_tokenizer_knows_every_prompt(loaded: tuple[Any, Any, Any]) -> None:
    tokenizer = loaded[2]
    tokens_PL = tokenizer(PROMPTS)
    assert len(torch.unique(tokens_PL, dim=0)) == len(PROMPTS) == 120
    inner = tokenizer.tokenizer
    assert not (tokens_PL == inner.unk_token_id).any()
    # Pooling takes the highest token: it must be the end, stand once, and have nothing but padding after.
    end = inner.eos_token_id
    assert end == len(inner) - 1
    for row_L in tokens_PL.tolist():
        assert row_L.count(end) == 1
        assert row_L[0] == inner.bos_token_id
        assert set(row_L[row_L.index(end) + 1 :]) <= {inner.pad_token_id}
    assert tokenizer("a photo of a zebra")[0].tolist().count(inner.unk_token_id) == 1
    assert torch.equal(tokenizer("A Photo of a THREE"), tokenizer("a photo of a three"))


def test_padding_does_not_change_a_prompt(loaded: tuple[Any, Any, Any]) -> None:
    model, _, tokenizer = loaded
    tokens_L = tokenizer("a photo of a three")[0]
    noisy_L = tokens_L.clone()
    noisy_L[int(tokens_L.argmax()) + 1 :] = 5
    with torch.inference_mode():
        embeds_2D = model.encode_text(torch.stack([tokens_L, noisy_L]))
    torch.testing.assert_close(embeds_2D[0], embeds_2D[1])


def test_zero_shot_on_handwritten_digits(loaded: tuple[Any, Any, Any], digits: list[Path]) -> None:
    model, preprocess, tokenizer = loaded
    pixels = []
    for path in digits:
        with Image.open(path) as image:
            pixels.append(preprocess(image))
    labels = np.array([NAMES.index(path.parent.name) for path in digits])
    with torch.inference_mode():
        images_ND = model.encode_image(torch.stack(pixels), normalize=True)
        texts = model.encode_text(tokenizer(PROMPTS), normalize=True).view(len(NAMES), len(PAPER), -1)
        classes_CD = functional.normalize(texts.mean(dim=1), dim=1)
        result = (images_ND @ classes_CD.T).argmax(dim=1).numpy()
    assert (result == labels).mean() >= LEAST
    # No class is given up for the sake of the others.
    assert min((result == labels)[labels == label].mean() for label in range(10)) > 0.3


def test_the_library_loads_it_too(loaded: tuple[Any, Any, Any]) -> None:
    clip = load_clip(SPEC)
    assert (clip.image_size, clip.embed_width) == (16, 64)
    assert 1 < clip.logit_scale <= 100
    prompts = [[template.replace("{}", name) for template in PAPER] for name in NAMES]
    classes_CD = clip.embed_prompts(prompts)
    model, _, tokenizer = loaded
    with torch.inference_mode():
        texts = model.encode_text(tokenizer(PROMPTS), normalize=True).view(len(NAMES), len(PAPER), -1)
    torch.testing.assert_close(classes_CD, functional.normalize(texts.mean(dim=1), dim=1))
