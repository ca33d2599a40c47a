"""Which settings of the fusion hold for which training images."""

from __future__ import annotations

from typing import Any

import pytest

from richkd.config.schema import Config
from richkd.fusion.by_label import ByLabel, read_by_label


def groups(more: bool = True, **fusion: Any) -> ByLabel:
    data = {"path": "."} | ({"unlabeled": "more"} if more else {})
    return read_by_label(
        Config.model_validate({"data": data, "student": {"name": "resnet18"}, "fusion": fusion})
    )


def test_a_group_replaces_what_it_gives_and_has_the_rest_of_the_fusion() -> None:
    both = groups(scale="zscore", labeled={"preset": "paper"}, unlabeled={"mixing": "gate"})
    assert both.labeled is not None
    assert (both.labeled.preset, both.labeled.scale, both.labeled.mixing) == ("paper", "zscore", None)
    assert (both.main.preset, both.main.scale, both.main.mixing) == ("default", "zscore", "gate")


def test_without_unlabeled_images_the_fusion_of_labeled_images_is_the_only_one() -> None:
    one = groups(more=False, alpha=0.4, labeled={"preset": "paper"})
    assert (one.main.preset, one.main.alpha, one.labeled) == ("paper", 0.4, None)


@pytest.mark.parametrize(
    "fusion",
    [
        {},
        {"labeled": {}, "unlabeled": {}},
        {"labeled": {"preset": "default"}},
        {"preset": "paper", "labeled": {"alpha": 0.7}},
        {"labeled": {"preset": "paper"}, "unlabeled": {"scale": "logit-scale", "alpha": 0.7}},
        {"weights": (1.0, 2.0), "labeled": {"weights": (1.0, 2.0)}},
        {"labeled": {"entropy": 0.5}, "unlabeled": {"entropy": 0.5}},
    ],
)
def test_equal_fusions_are_one(fusion: dict[str, Any]) -> None:
    assert groups(**fusion).labeled is None


def test_fusions_that_differ_in_the_entropy_only_mix_alike() -> None:
    both = groups(labeled={"entropy": 0.5})
    assert both.one_mixing
    assert both.labeled is not None
    assert (both.labeled.entropy, both.main.entropy) == (0.5, "own")
    assert not groups(labeled={"alpha": 0.5}).one_mixing


def test_an_inherited_alpha_is_no_center_of_a_fit() -> None:
    both = groups(alpha=0.2, labeled={"mixing": "log-pool"})
    assert both.labeled is not None
    assert (both.main.alpha, both.labeled.alpha) == (0.2, None)
