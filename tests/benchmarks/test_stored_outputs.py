"""Published outputs of vision-language models, converted to files that the package reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from benchmarks.stored_outputs import as_features, cifar10, whurs19
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from richkd.teachers.precomputed.clip import load_given
from richkd.teachers.precomputed.outputs_file import read_outputs

NAMES = np.array(["ant", "bee", "cat"])
FILES = np.array(["1.png", "2.png"])


@settings(deadline=None)
@given(arrays(np.float32, (4, 3), elements=st.floats(-50, 50, width=32)))
def test_scaled_cosines_are_the_logits_up_to_an_offset(logits_NC: np.ndarray) -> None:
    logits_NC[0] += np.arange(3)
    image_NF, text_CF, scale = as_features(logits_NC)
    np.testing.assert_allclose(np.linalg.norm(image_NF, axis=1), 1, atol=1e-6)
    offset_NC = logits_NC - scale * (image_NF @ text_CF.T)
    np.testing.assert_allclose(offset_NC - offset_NC[:, :1], 0, atol=1e-3)


def test_logits_of_cifar10_are_read_in_both_forms(tmp_path: Path) -> None:
    logits_NC = np.array([[1.0, -2.0, 5.0], [0.0, 9.0, 1.0]], dtype=np.float32)
    models = ("clip", "siglip", "siglip2", "biomedclip")
    cifar10({f"logits_{m}": logits_NC for m in models} | {"classes": NAMES, "filename": FILES}, tmp_path)
    kept = read_outputs(tmp_path / "siglip2.npz", NAMES.tolist())
    assert kept.keys == FILES.tolist()
    assert torch.equal(kept.logits_NC, torch.tensor(logits_NC))
    clip = load_given(tmp_path / "siglip2-clip.npz", {"test": ["2.png", "1.png"]}, NAMES.tolist())
    probabilities_BC = (clip.logit_scale * clip.look_up("test", torch.tensor([1, 0])).logits_BC).softmax(1)
    torch.testing.assert_close(probabilities_BC, torch.tensor(logits_NC).softmax(1), atol=1e-5, rtol=1e-4)


def test_class_embeddings_of_whurs19_are_means_over_prompts(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    given_arrays = {"classnames": NAMES, "files": FILES, "prompts": np.array(["a {}.", "the {}."])}
    for model in ("clip_vitb32", "clip_vitl14", "remoteclip_vitb32"):
        given_arrays[f"{model}_text"] = random.normal(size=(2, 3, 8)).astype(np.float16)
        given_arrays[f"{model}_image"] = random.normal(size=(2, 8)).astype(np.float16)
    whurs19(given_arrays, tmp_path)
    clip = load_given(tmp_path / "clip_vitl14.npz", {"test": FILES.tolist()}, NAMES.tolist())
    text_PCD = given_arrays["clip_vitl14_text"].astype(np.float64)
    expected_CD = (text_PCD / np.linalg.norm(text_PCD, axis=-1, keepdims=True)).mean(axis=0)
    expected_CD /= np.linalg.norm(expected_CD, axis=-1, keepdims=True)
    np.testing.assert_allclose(clip.class_embeddings_CD.numpy(), expected_CD, atol=1e-6)
    assert clip.prompts is not None
