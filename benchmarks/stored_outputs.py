"""Published outputs of vision-language models as files that ``richkd`` reads.

    python benchmarks/stored_outputs.py cifar10 DATA/cifar10-vlm/cifar10_test_vlm_logits.npz data/cifar10
    python benchmarks/stored_outputs.py whurs19 DATA/whurs19-clip/whurs19_clip.npz data/whurs19

For CIFAR-10 there are logits only. A file for ``richkd cache import`` keeps them as they are. A file for
``clip.name outputs:FILE`` has image features instead: for logits l of C classes and a scale s that is larger
than all norms, the features are (l / s, sqrt(1 - |l / s|²)) and the text features are unit vectors, so that
s times the cosines are the logits again. Such features say nothing beyond the logits.

For WHU-RS19 there are features and 106 prompts; the class embeddings are means over the prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CIFAR10_MODELS = ("clip", "siglip", "siglip2", "biomedclip")
WHURS19_MODELS = ("clip_vitb32", "clip_vitl14", "remoteclip_vitb32")


def as_features(logits_NC: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Unit-norm image features (N, C + 1), text features (C, C + 1) and the scale s of logits (N, C).

    Logits have an arbitrary offset per image, which is removed first, so that the scale is not larger than
    necessary.
    """
    centered_NC = logits_NC.astype(np.float64)
    centered_NC -= centered_NC.mean(axis=1, keepdims=True)
    scale = 1.01 * float(np.linalg.norm(centered_NC, axis=1).max())
    cosines_NC = centered_NC / scale
    rest_N1 = np.sqrt(1.0 - (cosines_NC**2).sum(axis=1, keepdims=True))
    text_CF = np.eye(logits_NC.shape[1], logits_NC.shape[1] + 1, dtype=np.float32)
    return np.hstack([cosines_NC, rest_N1]).astype(np.float32), text_CF, scale


def cifar10(arrays: Mapping[str, NDArray[Any]], out: Path) -> None:
    """Write ``MODEL.npz`` for ``richkd cache import``, and ``MODEL-clip.npz`` for ``clip.name``."""
    names = {"classnames": arrays["classes"], "files": arrays["filename"]}
    for model in CIFAR10_MODELS:
        logits_NC = arrays[f"logits_{model}"]
        np.savez(out / f"{model}.npz", logits=logits_NC, **names)
        image_NF, text_CF, scale = as_features(logits_NC)
        np.savez(
            out / f"{model}-clip.npz",
            image_features=image_NF,
            text_features=text_CF,
            logit_scale=scale,
            **names,
        )


def whurs19(arrays: Mapping[str, NDArray[Any]], out: Path) -> None:
    """Write ``MODEL.npz`` for ``clip.name``."""
    for model in WHURS19_MODELS:
        prompts_PCD = arrays[f"{model}_text"].astype(np.float32)
        prompts_PCD /= np.linalg.norm(prompts_PCD, axis=-1, keepdims=True)
        np.savez(
            out / f"{model}.npz",
            image_features=arrays[f"{model}_image"],
            text_features=prompts_PCD.mean(axis=0),
            prompts=arrays["prompts"],
            prompt_features=prompts_PCD,
            classnames=arrays["classnames"],
            files=arrays["files"],
        )


def main() -> None:
    """Convert the outputs of one data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=("cifar10", "whurs19"))
    parser.add_argument("outputs", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    convert = cifar10 if arguments.data == "cifar10" else whurs19
    with np.load(arguments.outputs, allow_pickle=False) as arrays:
        convert(arrays, arguments.out)


if __name__ == "__main__":
    main()
