"""Further figures of a comparison: superclasses, and figures that some runs lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from richkd.compare.further import Further, corrupted_difference, further_figures, over_known
from richkd.compare.logits import StoredLogits
from richkd.data.cifar100 import SUPERCLASSES
from tests.fixtures import refusal

CLASSES = ("ant", "bee", "cow", "dog")


def stored(classes: tuple[str, ...], seed: int = 0) -> StoredLogits:
    random = np.random.default_rng(seed)
    labels_N = torch.from_numpy(random.integers(len(classes), size=30))
    logits_NC = torch.from_numpy(random.normal(size=(30, len(classes)))).float()
    return StoredLogits(logits_NC, labels_N, 1.0, "images", "keys", "weights", classes)


def slow_auroc(output: StoredLogits, superclass: dict[str, str]) -> float:
    areas = []
    for logits_C, label in zip(output.logits_NC.double().numpy(), output.labels_N.tolist(), strict=True):
        others = [place for place in range(len(output.classes)) if place != label]
        group = superclass[output.classes[label]]
        near = [logits_C[place] for place in others if superclass[output.classes[place]] == group]
        far = [logits_C[place] for place in others if superclass[output.classes[place]] != group]
        if near and far:
            areas.append(np.mean([[(a > b) + 0.5 * (a == b) for b in far] for a in near]))
    return float(np.mean(areas))


def test_superclasses_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "superclasses.yaml"
    file.write_text("{insect: [ant, bee], mammal: [cow, dog]}")
    output = stored(CLASSES)
    figures = further_figures({"kd": output}, file, {"kd": 0.25})["kd"]
    expected = slow_auroc(output, {"ant": "insect", "bee": "insect", "cow": "mammal", "dog": "mammal"})
    assert figures.superclass_auroc == pytest.approx(expected)
    assert figures.corrupted_error == 0.25


def test_those_of_cifar100_are_known() -> None:
    superclass = {name: above for above, names in SUPERCLASSES.items() for name in names}
    output = stored(tuple(sorted(superclass)))
    figures = further_figures({"kd": output, "own": stored(CLASSES)}, None, {})
    assert figures["kd"].superclass_auroc == pytest.approx(slow_auroc(output, superclass))
    assert figures["own"] == Further()


def test_a_file_of_other_classes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "superclasses.yaml"
    file.write_text("{insect: [ant, bee], mammal: [cow, dog, elk]}")
    assert "'elk'" in str(refusal(further_figures, {"kd": stored(CLASSES)}, file, {}))


def test_a_figure_that_a_run_lacks_is_left_out() -> None:
    assert over_known([]) is None
    assert over_known([0.5, None]) is None
    ours, theirs = {0: Further(None, 0.5), 1: Further(None, 0.7)}, {1: Further(None, 0.4), 2: Further()}
    difference = corrupted_difference(ours, theirs)
    assert difference is not None
    assert (difference.n, round(difference.mean, 9)) == (1, 0.3)
    assert corrupted_difference(ours, {0: Further()}) is None
