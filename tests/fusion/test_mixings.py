"""The ways of mixing by name: each builds a fusion, and has one name in settings, choice and summary."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from richkd.config.choices import MIXINGS
from richkd.config.schema import FusionConfig
from richkd.core.errors import ConfigError
from richkd.fusion import mixing as functions
from richkd.fusion.fuse import fuse
from richkd.fusion.held_out import HeldOut
from richkd.fusion.mixing import Gate, LogPool
from richkd.fusion.mixings import WayOfMixing, candidates
from richkd.fusion.presets import alpha_shares, needs_held_out
from richkd.fusion.scale import on_scales
from richkd.fusion.select import choose
from tests.fixtures import refusal
from tests.metrics.test_multipliers import labeled, teacher

NAMES = ("teacher", "CLIP")
SHARES = alpha_shares(None, 2)
LOGIT_SCALES = (1.0, 100.0)
ALL = ("auto", "alpha", "log-pool", "linear", "gate", "per-class", "simplex", "confidence")
# The function that a way of mixing makes where another way of the same function is the plainer one.
FUNCTIONS = {"alpha": "log-pool", "simplex": "log-pool", "confidence": "gate"}


def held_out(kinds: tuple[str, str] = ("skilled", "tiny"), images: int = 80) -> HeldOut:
    labels_N, generator = labeled(images, 4, 5)
    logits = [teacher(kind, labels_N, 4, generator) for kind in kinds]
    return HeldOut(NAMES, logits, labels_N, "val")


def test_the_names() -> None:
    assert tuple(MIXINGS) == ALL
    assert [entry.name for entry in MIXINGS.entries() if entry.experimental] == ["simplex", "confidence"]


@pytest.mark.parametrize("name", MIXINGS)
def test_every_way_of_mixing_builds_a_fusion(name: str) -> None:
    held = held_out()
    config = FusionConfig(mixing=name)
    fusion = fuse(config, LOGIT_SCALES, held)
    fused_NC = fusion.logits(held.logits)
    assert fused_NC.shape == (80, 4)
    assert bool(fused_NC.isfinite().all())
    # The weights are those of the teachers as they are scaled.
    direct_NC = fusion.mixing(on_scales(fusion.scales, held.logits))
    assert torch.equal(fused_NC, direct_NC)
    assert fusion.to_dict()["mixing"].keys() == {"kind", *vars(fusion.mixing)}


@pytest.mark.parametrize("name", MIXINGS)
def test_a_way_of_mixing_is_fitted_or_fixed_and_only_auto_is_neither(name: str) -> None:
    way = MIXINGS[name]
    assert (way.fit is None) + (way.fixed is None) == (2 if name == "auto" else 1)
    # With a scale that is given, only what is fitted needs held-out images.
    config = FusionConfig(mixing=name, scale="logit-scale")
    assert needs_held_out(config) == (way.fixed is None)
    if way.fixed is not None:
        assert fuse(config, LOGIT_SCALES, None).logits(held_out().logits).isfinite().all()


@pytest.mark.parametrize("name", [name for name in MIXINGS if name != "auto"])
def test_the_name_in_the_settings_is_the_kind_in_the_summary(name: str) -> None:
    fusion = fuse(FusionConfig(mixing=name), LOGIT_SCALES, held_out())
    kind = fusion.to_dict()["mixing"]["kind"]
    assert kind == fusion.mixing.kind == FUNCTIONS.get(name, name)
    assert kind in MIXINGS
    if name != "alpha":
        assert fusion.origin.split(",")[0] == name


def test_every_candidate_of_auto_has_one_name_everywhere() -> None:
    assert list(candidates()) == ["log-pool", "linear", "gate", "per-class"]
    held = held_out()
    scales = fuse(FusionConfig(), LOGIT_SCALES, held).scales
    logs = on_scales(scales, held.logits)
    choice = choose(logs, held.labels_N, NAMES)
    names = [candidate.name for candidate in choice.candidates]
    assert [name for name in names if not name.endswith("alone")] == list(candidates())
    for name, fit in candidates().items():
        assert fit(logs, held.labels_N, SHARES).kind == name
        assert MIXINGS[name].fit is fit


def complementary(images: int = 800) -> HeldOut:
    """Teachers of independent errors, of whom auto selects a mixture."""
    labels_N, generator = labeled(images, 5, 0)
    logits = [
        1.5 * torch.nn.functional.one_hot(labels_N, 5) + torch.randn(images, 5, generator=generator)
        for _ in range(2)
    ]
    return HeldOut(NAMES, logits, labels_N, "val")


def test_what_auto_selects_is_named_alike_in_choice_origin_and_summary() -> None:
    held = complementary()
    fusion = fuse(FusionConfig(mixing="auto"), LOGIT_SCALES, held)
    choice = choose(on_scales(fusion.scales, held.logits), held.labels_N, NAMES, SHARES)
    assert choice.name in MIXINGS
    assert choice.name == choice.mixing.kind == fusion.to_dict()["mixing"]["kind"]
    assert fusion.mixing == choice.mixing
    assert fusion.origin.startswith(f"{choice.name}, selected on 800 images of val")
    # The same way, asked for by that name, gives the same fusion.
    assert fuse(FusionConfig(mixing=choice.name), LOGIT_SCALES, held).mixing == fusion.mixing


def test_auto_without_a_mixture_names_the_teacher_that_is_left() -> None:
    labels_N, generator = labeled(100, 4, 5)
    good_NC, wrong_NC = (teacher(kind, labels_N, 4, generator) for kind in ("perfect", "opposite"))
    logits = [good_NC / 8, 1000 * wrong_NC]
    held = HeldOut(NAMES, logits, labels_N, "val")
    fusion = fuse(FusionConfig(mixing="auto", scale="raw"), LOGIT_SCALES, held)
    assert fusion.origin.startswith("teacher alone, selected on 100 images of val")
    assert fusion.to_dict()["mixing"]["kind"] == "log-pool"
    assert isinstance(fusion.mixing, LogPool)
    assert fusion.mixing.weights[1] == 0


def test_ways_that_are_not_fitted_are_what_they_say() -> None:
    pool = fuse(FusionConfig(mixing="alpha", alpha=0.25), LOGIT_SCALES, held_out()).mixing
    assert pool == LogPool((0.25, 0.75))
    gate = fuse(FusionConfig(mixing="confidence"), LOGIT_SCALES, held_out()).mixing
    assert gate == Gate((0.5, 0.5), (1.0, 1.0))


@pytest.mark.parametrize("name", [name for name in MIXINGS if MIXINGS[name].fit is not None])
def test_what_is_fitted_is_fitted_on_scaled_teachers(name: str) -> None:
    held = complementary(200)
    fusion = fuse(FusionConfig(mixing=name), LOGIT_SCALES, held)
    way: WayOfMixing = MIXINGS[name]
    assert way.fit is not None
    logs = on_scales(fusion.scales, held.logits)
    assert fusion.mixing == way.fit(logs, held.labels_N, SHARES)
    assert fusion.origin == f"{name}, fitted on 200 images of val, scale temperature"


def test_every_function_that_mixes_has_a_kind_that_settings_know() -> None:
    kinds = [getattr(value, "kind", None) for value in vars(functions).values() if isinstance(value, type)]
    assert sorted(filter(None, kinds)) == ["gate", "linear", "log-pool", "per-class"]
    assert set(filter(None, kinds)) <= set(MIXINGS)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("log-pol", "'log-pool'"),
        ("LogPool", "'log-pool'"),
        ("qqq", "`richkd settings fusion.mixing` lists all"),
    ],
)
def test_an_unknown_way_of_mixing_is_an_error(name: str, hint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FusionConfig(mixing=name)
    message = caught.value.errors()[0]["msg"]
    assert f"no way of mixing '{name}'" in message
    assert hint in message
    # So it is where settings were not validated.
    unchecked = FusionConfig.model_construct(**{**vars(FusionConfig()), "mixing": name})
    error = refusal(fuse, unchecked, LOGIT_SCALES, held_out())
    assert isinstance(error, ConfigError)
    assert error.rule == f"There is no way of mixing '{name}'"
    assert hint in str(error.fix)
