"""The scales by name: each builds a fusion, and brings teachers to the scale that it describes."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from richkd.config.choices import MIXINGS, SCALES
from richkd.config.schema import FusionConfig
from richkd.core.errors import ConfigError
from richkd.fusion.fuse import fuse
from richkd.fusion.held_out import HeldOut
from richkd.fusion.mixing import LogPool
from richkd.fusion.presets import needs_held_out
from richkd.fusion.scale import Scale
from tests.fixtures import refusal
from tests.fusion.test_fit import labeled, mean_nll, teacher

LOGIT_SCALES = (1.0, 100.0)


def held_out(images: int = 80) -> HeldOut:
    labels_N, generator = labeled(images, 4, 5)
    logits = [teacher(kind, labels_N, 4, generator) for kind in ("skilled", "tiny")]
    return HeldOut(("teacher", "CLIP"), logits, labels_N, "val")


def test_the_names() -> None:
    assert tuple(SCALES) == ("temperature", "logit-scale", "raw", "zscore")
    assert [entry.name for entry in SCALES.entries() if entry.experimental] == ["zscore"]


@pytest.mark.parametrize("name", SCALES)
def test_every_scale_builds_a_fusion(name: str) -> None:
    held = held_out()
    fusion = fuse(FusionConfig(scale=name, mixing="alpha"), LOGIT_SCALES, held)
    assert len(fusion.scales) == 2
    assert bool(fusion.logits(held.logits).isfinite().all())
    assert fusion.origin == f"alpha 0.7, scale {name}"
    described = fusion.to_dict()["scales"]
    assert [Scale(**scale) for scale in described] == list(fusion.scales)
    # A single teacher is brought to its scale, too.
    alone = fuse(
        FusionConfig(scale=name),
        LOGIT_SCALES[1:],
        HeldOut(("CLIP",), held.logits[1:], held.labels_N, "val"),
    )
    assert alone.scales == fusion.scales[1:]
    assert alone.origin == f"one teacher, scale {name}"


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_is_fitted_or_fixed(name: str) -> None:
    scale = SCALES[name]
    assert (scale.fitted is None) != (scale.fixed is None)
    config = FusionConfig(scale=name, mixing="alpha")
    assert needs_held_out(config) == (scale.fitted is not None)
    if scale.fixed is not None:
        assert fuse(config, LOGIT_SCALES, None).scales == tuple(map(scale.fixed, LOGIT_SCALES))


def test_scales_that_are_not_fitted() -> None:
    raw = fuse(FusionConfig(scale="raw", mixing="alpha"), LOGIT_SCALES, None)
    assert raw.scales == (Scale(1.0), Scale(1.0))
    scaled = fuse(FusionConfig(scale="logit-scale", mixing="alpha"), LOGIT_SCALES, None)
    assert scaled.scales == (Scale(1.0), Scale(100.0))


@pytest.mark.parametrize("name", [name for name in SCALES if SCALES[name].fitted is not None])
def test_a_fitted_scale_has_the_least_nll_of_its_neighbors(name: str) -> None:
    held = held_out(20_000)  # so many that the prior does not matter
    for scale, z_NC in zip(
        fuse(FusionConfig(scale=name, mixing="alpha"), LOGIT_SCALES, held).scales, held.logits, strict=True
    ):
        assert scale.standardized == (name == "zscore")

        def nll(factor: float, scale: Scale = scale, z_NC: torch.Tensor = z_NC) -> float:
            tried = Scale(factor * scale.multiplier, scale.standardized)
            return mean_nll(LogPool((1.0,)), [tried(z_NC.double())], held.labels_N)

        assert nll(1.0) < min(nll(0.9), nll(1.1))


def test_a_teachers_units_do_not_matter_to_fitted_scales() -> None:
    held = held_out(20_000)
    other = HeldOut(held.names, [held.logits[0], 1000 * held.logits[1]], held.labels_N, held.split)
    for name in ("temperature", "zscore"):
        config = FusionConfig(scale=name, mixing="alpha")
        fused_NC = fuse(config, LOGIT_SCALES, held).logits(held.logits)
        scaled_NC = fuse(config, LOGIT_SCALES, other).logits(other.logits)
        assert torch.allclose(fused_NC.softmax(1), scaled_NC.softmax(1), atol=0.01), name


@pytest.mark.parametrize(
    ("preset", "scale", "mixing"),
    [("default", "temperature", "auto"), ("paper", "logit-scale", "alpha"), ("as-released", "raw", "alpha")],
)
def test_a_preset_is_a_scale_and_a_way_of_mixing(preset: str, scale: str, mixing: str) -> None:
    assert scale in SCALES
    assert mixing in MIXINGS
    held = held_out()
    config = FusionConfig.model_validate({"preset": preset})
    assert fuse(config, LOGIT_SCALES, held) == fuse(
        FusionConfig(scale=scale, mixing=mixing), LOGIT_SCALES, held
    )


@pytest.mark.parametrize(
    ("name", "hint"), [("tempreature", "'temperature'"), ("calibrated", "richkd settings fusion.scale")]
)
def test_an_unknown_scale_is_an_error(name: str, hint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FusionConfig(scale=name)
    message = caught.value.errors()[0]["msg"]
    assert f"no scale '{name}'" in message
    assert hint in message
    # So it is where settings were not validated.
    unchecked = FusionConfig.model_construct(**{**vars(FusionConfig()), "scale": name})
    error = refusal(fuse, unchecked, LOGIT_SCALES, held_out())
    assert isinstance(error, ConfigError)
    assert error.rule == f"There is no scale '{name}'"
    assert hint in str(error.fix)
