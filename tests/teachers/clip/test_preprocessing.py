from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.functional import normalize, to_tensor

from richkd.core.errors import ClipError
from richkd.data.framing import frame
from richkd.teachers.clip.load import load_clip
from richkd.teachers.clip.preprocessing import read_preprocessing
from tests.teachers.clip.tiny import make_folder


def folder_with(folder: Path, quick_gelu: bool = False, **preprocess: Any) -> str:
    """A tiny CLIP with this preprocess_cfg, as a name."""
    file = make_folder(folder) / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"] |= {"quick_gelu": True} if quick_gelu else {}
    config["preprocess_cfg"] = preprocess
    file.write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.mark.parametrize(
    "preprocess",
    [
        {},
        {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear"},
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"},
        {"mean": 0.5, "std": 0.25, "interpolation": "random", "resize_mode": "shortest"},
        {"size": 999, "mode": "RGB", "mean": None, "std": None, "fill_color": 7},
    ],
)
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_folder_is_read_as_open_clip_reads_it(
    preprocess: dict[str, Any], quick_gelu: bool, tmp_path: Path
) -> None:
    spec = folder_with(tmp_path / "clip", quick_gelu, **preprocess)
    clip = load_clip(spec)
    reference, _, transform = open_clip.create_model_and_transforms(spec)
    noise = np.random.default_rng(0).integers(0, 256, (57, 83, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    pixels_3HW = normalize(to_tensor(frame(image, clip.framing)), list(clip.mean), list(clip.std))
    assert torch.equal(pixels_3HW, transform(image))
    with torch.inference_mode():
        expected = reference.eval().encode_image(pixels_3HW[None])
    torch.testing.assert_close(clip.model.encode_image(pixels_3HW[None]), expected)
    activation = "QuickGELU" if quick_gelu else "GELU"
    assert type(clip.model.transformer.resblocks[0].mlp.gelu).__name__ == activation


def test_a_folder_without_preprocessing_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_clip(folder_with(tmp_path / "with", std=[1, 1, 1]))
    assert not caplog.records
    load_clip(folder_with(tmp_path / "without"))
    (record,) = caplog.records
    assert f"{tmp_path / 'without' / 'open_clip_config.json'} has no preprocess_cfg" in record.getMessage()


def test_what_changes_outputs_changes_the_fingerprint(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"interpolation": "bilinear"},
        {"resize_mode": "squash"},
        {"mean": [0.5, 0.5, 0.5]},
        {"std": [0.5, 0.5, 0.5]},
        {"quick_gelu": True},
    ]
    prints = [load_clip(folder_with(tmp_path / str(i), **each)).fingerprint for i, each in enumerate(changes)]
    assert len(set(prints)) == len(prints)
    # Values without an effect have none.
    assert load_clip(folder_with(tmp_path / "same", fill_color=7, size=99)).fingerprint == prints[0]


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ({"resize_mode": "longest"}, "resize_mode that can be reproduced\nGot: resize_mode 'longest'"),
        ({"resize_mode": 3}, "Got: resize_mode 3"),
        ({"interpolation": "cubic"}, "Got: interpolation 'cubic'"),
        ({"interpolation": ["bicubic"]}, "interpolation"),
        ({"mode": "L"}, "Got: mode 'L'"),
        ({"mean": [0.5, 0.5]}, r"mean of CLIP .* three numbers\nGot: \[0.5, 0.5\]"),
        ({"mean": "0.5"}, "three numbers\nGot: '0.5'"),
        ({"mean": [0.5, 0.5, None]}, "three numbers"),
        ({"std": [True, 1, 1]}, "std of CLIP .* three numbers"),
        ({"std": [math.inf, 1, 1]}, "three numbers"),
        ({"std": [10**400, 1, 1]}, "three numbers"),
        ({"std": [1, 0, 1]}, "must be positive"),
    ],
)
def test_preprocessing_that_has_no_meaning_is_refused(
    preprocess: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ClipError, match=message) as caught:
        load_clip(folder_with(tmp_path / "clip", **preprocess))
    assert str(tmp_path / "clip") in str(caught.value)


def test_inputs_must_be_square() -> None:
    assert read_preprocessing({"size": [64, 64]}, "a").framing.size == 64
    with pytest.raises(ClipError, match="square input"):
        read_preprocessing({"size": (64, 32)}, "a")


ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.floats(), max_size=4)
)
KEYS = ["mode", "mean", "std", "interpolation", "resize_mode", "fill_color"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING))
def test_no_value_ends_in_another_error(config: dict[str, Any]) -> None:
    try:
        result = read_preprocessing({"size": 32, **config}, "a")
    except ClipError:
        return
    assert all(map(math.isfinite, (*result.mean, *result.std)))
    assert min(result.std) > 0
