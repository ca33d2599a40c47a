"""Fusion as the settings describe it: presets, their parts, and how much of it is not the teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from richkd.config.choices import MIXINGS, SCALES
from richkd.config.schema import FusionConfig
from richkd.core.errors import ConfigError, DataError
from richkd.core.types import UNLABELED, Output
from richkd.fusion.alone import first_teachers_only, last_teacher_only, measure_target_shift
from richkd.fusion.feature_scale import FeatureScale, fit_feature_scale
from richkd.fusion.fit import fit_log_pool, fit_simplex
from richkd.fusion.fuse import fuse
from richkd.fusion.fusion import Fusion, identity_fusion
from richkd.fusion.held_out import HeldOut
from richkd.fusion.mixing import Gate, LinearPool, LogPool, PerClass
from richkd.fusion.ood import OodWeights, fit_ood_weights
from richkd.fusion.presets import alpha_shares, needs_held_out
from richkd.fusion.scale import Scale
from richkd.metrics.multipliers import fit_multipliers
from tests.metrics.test_multipliers import labeled, teacher
from tests.reference import fusion as slow

LOGIT_SCALES = (1.0, 100.0)
FITTED = [name for name in MIXINGS if MIXINGS[name].fit is not None]


def held_out(images: int = 80, seed: int = 5) -> HeldOut:
    labels_N, generator = labeled(images, 4, seed)
    logits = [teacher(kind, labels_N, 4, generator) for kind in ("skilled", "tiny")]
    return HeldOut(("teacher", "CLIP"), logits, labels_N, "val")


def test_multipliers_of_the_presets() -> None:
    def multipliers(scales: tuple[float, ...] = LOGIT_SCALES, **changes: object) -> tuple[float, ...] | None:
        return fuse(FusionConfig(**changes), scales, None).multipliers  # type: ignore[arg-type]

    assert multipliers(preset="paper") == pytest.approx((0.7, 30.0))
    assert multipliers(preset="as-released") == pytest.approx((0.7, 0.3))
    assert multipliers((1.0, 80.0), preset="paper", alpha=0.25) == pytest.approx((0.25, 60.0))
    assert multipliers((100.0,), preset="paper") == (100.0,)
    assert multipliers((100.0,), preset="as-released") == (1.0,)
    assert multipliers(preset="paper", weights=(0.5, 40.0)) == (0.5, 40.0)
    assert multipliers((1.0, 1.0, 100.0), preset="paper") == pytest.approx((0.35, 0.35, 30.0))
    assert identity_fusion().multipliers == identity_fusion().feature_weights == (1.0,)


def test_scaled_features_leave_the_maps_and_logits_of_teachers() -> None:
    torch.manual_seed(0)
    teachers = [Output(torch.randn(4, 3), torch.randn(4, 8), (torch.randn(4, 2, 5, 5),)) for _ in range(2)]
    plain = fuse(FusionConfig(preset="paper"), (1.0, 1.0), None, clip=False)
    scales = tuple(fit_feature_scale(torch.randn(64, 8), phi_s=False) for _ in teachers)
    target = replace(plain, features=scales)(teachers, torch.zeros(4, dtype=torch.int64))
    for scaled, before, scale in zip(target.teachers, teachers, scales, strict=True):
        assert torch.equal(scaled.maps[0], before.maps[0])
        assert torch.equal(scaled.logits_BC, before.logits_BC)
        assert torch.equal(scaled.feats_BF, scale(before.feats_BF))


def test_shares() -> None:
    assert alpha_shares(None, 2) == pytest.approx((0.7, 0.3))
    assert alpha_shares(0.2, 2) == pytest.approx((0.2, 0.8))
    assert alpha_shares(0.2, 1) == (1.0,)
    fused = fuse(FusionConfig(preset="paper", alpha=0.1), LOGIT_SCALES, None)
    assert fused.feature_weights == pytest.approx((0.7, 0.3))


def test_what_has_to_be_fitted() -> None:
    assert needs_held_out(FusionConfig())
    assert needs_held_out(FusionConfig(preset="paper", scale="temperature"))
    assert needs_held_out(FusionConfig(preset="paper", mixing="gate"))
    assert not needs_held_out(FusionConfig(preset="paper"))
    assert not needs_held_out(FusionConfig(preset="paper", mixing="confidence"))
    assert not needs_held_out(FusionConfig(weights=(1, 2)))


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("scale", SCALES)
def test_any_scale_goes_with_any_mixing(scale: str, mixing: str) -> None:
    held = held_out()
    config = FusionConfig(scale=scale, mixing=mixing)
    fused = fuse(config, LOGIT_SCALES, held)
    classes = {"linear": LinearPool, "gate": Gate, "confidence": Gate, "per-class": PerClass}
    if mixing != "auto":
        assert isinstance(fused.mixing, classes.get(mixing, LogPool))
    target = fused([Output(logits_NC, torch.ones(80, 3)) for logits_NC in held.logits], held.labels_N)
    assert target.logits_BC.dtype == torch.float32
    assert bool(target.logits_BC.isfinite().all())
    right = (target.logits_BC.argmax(1) == held.labels_N).float().mean()
    assert right > 0.5
    # What a run writes down is what it did.
    kinds_of = {LogPool: "log-pool", LinearPool: "linear", Gate: "gate", PerClass: "per-class"}
    assert fused.to_dict()["mixing"]["kind"] == kinds_of[type(fused.mixing)]
    assert len(fused.to_dict()["scales"]) == 2


def test_a_given_alpha_mixes_calibrated_teachers() -> None:
    held = held_out()
    multipliers = [
        fit_multipliers([z_NC], held.labels_N, (center,))[0]
        for z_NC, center in zip(held.logits, LOGIT_SCALES, strict=True)
    ]
    fused = fuse(FusionConfig(alpha=0.25, feature_alpha=0.5), LOGIT_SCALES, held)
    assert fused.multipliers == pytest.approx((0.25 * multipliers[0], 0.75 * multipliers[1]))
    assert fused.feature_weights == (0.5, 0.5)


def test_the_fitted_simplex_is_fitted_on_calibrated_teachers() -> None:
    held = held_out()
    fused = fuse(FusionConfig(mixing="simplex"), LOGIT_SCALES, held)
    logs = [scale(z_NC) for scale, z_NC in zip(fused.scales, held.logits, strict=True)]
    assert isinstance(fused.mixing, LogPool)
    assert fused.mixing.weights == pytest.approx(fit_simplex(logs, held.labels_N, (0.7, 0.3)).weights)
    assert "80 images of val" in fused.origin


def test_a_fusion_of_some_of_the_teachers_keeps_all_else() -> None:
    """Controls of one teacher: weights of unusual images and scales of features are those of the fusion."""
    scales = (Scale(2.0), Scale(50.0), Scale(100.0))
    logits = [torch.randn(40, 5, generator=torch.Generator().manual_seed(m)) / 10**m for m in range(3)]
    features = tuple(FeatureScale(torch.full((4,), float(m)), torch.eye(4)) for m in range(3))
    ood = fit_ood_weights(scales, logits, 0.2)
    whole = Fusion(scales, LogPool((0.5, 0.2, 0.3)), (0.4, 0.3, 0.3), "test", ood, features)
    unusual = [
        Output(z_NC[:6] / 100, torch.ones(6, 4)) for z_NC in logits
    ]  # low energies: the weight is below one
    unknown_B = torch.full((6,), UNLABELED)
    pairs = [
        (last_teacher_only(whole), slice(2, 3)),
        (first_teachers_only(whole, 2, 1.5), slice(0, 2)),
        (first_teachers_only(whole, 1, 1.5), slice(0, 1)),
    ]
    for alone, kept in pairs:
        assert alone.ood_weights is not None
        assert alone.ood_weights.lowest == ood.lowest[kept]
        assert alone.features == features[kept]
        target = alone(unusual[kept], unknown_B)
        assert target.weight_B is not None
        # The energies are measured on the scale on which the limits were fitted.
        weights = ood([output.logits_BC for output in unusual], unknown_B == 0)
        assert torch.equal(target.weight_B, torch.stack(weights[kept]).amax(dim=0))
        assert torch.equal(target.teachers[0].feats_BF, torch.ones(6, 4) - float(kept.start))


def test_a_factor_belongs_to_the_whole_fusion_and_to_none_of_its_parts() -> None:
    whole = Fusion((Scale(2.0), Scale(50.0)), LogPool((0.5, 0.3)), (0.6, 0.4), "test", fitted=True)
    sharp = replace(whole, factor=3.0)
    assert sharp.multipliers == pytest.approx((3.0, 45.0))
    assert (whole.is_calibrated, sharp.is_calibrated) == (True, False)
    logits = [torch.randn(4, 5, generator=torch.Generator().manual_seed(m)) / 10**m for m in range(2)]
    target = sharp([Output(z_BC, torch.zeros(4, 2)) for z_BC in logits], torch.arange(4))
    torch.testing.assert_close(target.logits_BC, 3 * whole.logits(logits))
    assert last_teacher_only(sharp).multipliers == (50.0,)
    # One vision teacher: its own logits, whatever their scale in the fusion.
    assert first_teachers_only(sharp, 1, 1.5).multipliers == (1.5,)
    three = Fusion((Scale(2.0), Scale(4.0), Scale(9.0)), LogPool((0.2,) * 3), (0.5, 0.3, 0.2), "test")
    assert first_teachers_only(three, 2, 1.5).multipliers == pytest.approx((1.5, 3.0))
    for alone, count in (
        (last_teacher_only(sharp), 1),
        (first_teachers_only(sharp, 1), 1),
        (first_teachers_only(three, 2), 2),
    ):
        assert alone.feature_weights == (1 / count,) * count
        assert not alone.is_calibrated


def test_an_image_counts_as_much_as_to_the_teacher_that_knows_it_best() -> None:
    scales = (Scale(), Scale())
    weights = OodWeights(scales, ((1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 4.0)))
    fusion = Fusion(scales, LogPool((0.5, 0.5)), (0.5, 0.5), "test", weights)
    # Energies 2.69 and 3.69: half and three quarters of the tails are below.
    teachers = [Output(torch.full((1, 2), value), torch.zeros(1, 2)) for value in (2.0, 3.0)]
    target = fusion(teachers, torch.tensor([UNLABELED]))
    assert target.weight_B is not None
    assert target.weight_B.tolist() == [0.75]


@pytest.mark.parametrize("mixing", ["auto", "log-pool", "gate", "per-class", "linear"])
def test_fits_start_from_the_shares_of_the_settings(mixing: str) -> None:
    # Too few images for a choice, so that `auto` is the logarithmic pool.
    held = held_out(30)
    fused = fuse(FusionConfig(mixing=mixing, alpha=0.9), LOGIT_SCALES, held)
    logs = [scale(z_NC) for scale, z_NC in zip(fused.scales, held.logits, strict=True)]
    fit = MIXINGS["log-pool" if mixing == "auto" else mixing].fit
    assert fit is not None
    assert fused.mixing == fit([log_NC.double() for log_NC in logs], held.labels_N, (0.9, 1 - 0.9))
    assert fused.mixing != fit([log_NC.double() for log_NC in logs], held.labels_N, None)
    assert fused.fitted


def test_without_a_clip_all_shares_are_equal() -> None:
    held = held_out(30)
    both = [fuse(FusionConfig(mixing="log-pool"), (1.0, 1.0), held, clip=clip) for clip in (False, True)]
    logs = [scale(z_NC) for scale, z_NC in zip(both[0].scales, held.logits, strict=True)]
    for fused, shares in zip(both, ((0.5, 0.5), (0.7, 0.3)), strict=True):
        expected = fit_log_pool([log_NC.double() for log_NC in logs], held.labels_N, shares)
        assert isinstance(fused.mixing, LogPool)
        assert fused.mixing.weights == pytest.approx(expected.weights, rel=1e-6)
        assert fused.feature_weights == pytest.approx(shares)


def test_as_many_multipliers_as_teachers() -> None:
    with pytest.raises(ConfigError, match=r"fusion\.weights(.|\n)*Got: 3 for 2 teachers"):
        fuse(FusionConfig(weights=(1, 2, 3)), LOGIT_SCALES, None)


def test_a_fusion_is_the_weighted_sum_but_for_a_constant_of_each_image() -> None:
    generator = torch.Generator().manual_seed(0)
    teachers = [
        Output(torch.randn(4, 5, generator=generator), torch.randn(4, w, generator=generator)) for w in (3, 7)
    ]
    target = Fusion((Scale(), Scale(100.0)), LogPool((0.7, 0.3)), (0.6, 0.4), "test")(
        teachers, torch.arange(4)
    )
    expected = torch.tensor(slow.fused([e.logits_BC for e in teachers], (0.7, 30.0)))
    assert np.allclose(target.logits_BC.softmax(1), expected.softmax(1), rtol=1e-4, atol=1e-6)
    assert target.teachers == tuple(teachers)
    assert target.feature_weights == (0.6, 0.4)


def test_teachers_that_cannot_be_fused_are_named() -> None:
    held = held_out(12)
    broken = held.logits[1].clone()
    broken[3, 1] = torch.nan
    with pytest.raises(DataError, match=r"those of 'CLIP' are not(.|\n)*1 of 12 images"):
        HeldOut(held.names, (held.logits[0], broken), held.labels_N, "val")
    with pytest.raises(DataError, match=r"teacher 'teacher'(.|\n)*probabilities"):
        HeldOut(held.names, (held.logits[0].softmax(1).half(), held.logits[1]), held.labels_N, "val")
    with pytest.raises(DataError, match="none in val"):
        HeldOut(held.names, [z_NC[:0] for z_NC in held.logits], held.labels_N[:0], "val")


def test_a_class_without_held_out_images_and_a_single_class_are_fitted() -> None:
    held = held_out(60)
    for rows_N in (held.labels_N != 2, held.labels_N == 1):
        part = HeldOut(held.names, [z_NC[rows_N] for z_NC in held.logits], held.labels_N[rows_N], "val")
        for mixing in (*FITTED, "auto"):
            fused = fuse(FusionConfig(mixing=mixing), LOGIT_SCALES, part)
            assert bool(fused.logits(held.logits).isfinite().all()), mixing


# How much CLIP says


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.floats(0.1, 2), st.floats(0, 50)), st.floats(0.5, 8), st.integers(0, 10_000))
def test_signal_is_the_least_divergence_of_any_temperature(
    weights: tuple[float, float], temperature: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = [scale * torch.randn(5, 6, generator=generator, dtype=torch.float64) for scale in (4, 0.03)]
    fused_NC = torch.tensor(slow.fused(logits, weights), dtype=torch.float64)
    result = measure_target_shift(fused_NC, logits[0], temperature)
    for multiplier in (result.multiplier, weights[0], 0.9 * result.multiplier, 1.1 * result.multiplier):
        reached = slow.divergence(fused_NC, multiplier * logits[0], temperature)
        assert result.nats <= reached + 1e-7
    expected = slow.divergence(fused_NC, result.multiplier * logits[0], temperature)
    assert result.nats == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_clip_that_is_constant_says_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher_BC = 5 * torch.randn(20, 10, generator=generator, dtype=torch.float64)
    constant_BC = torch.rand(20, 1, generator=generator, dtype=torch.float64).expand(20, 10)
    nothing = measure_target_shift(0.7 * teacher_BC + 30 * constant_BC, teacher_BC, 3.0)
    assert abs(nothing.nats) < 1e-9
    assert nothing.multiplier == pytest.approx(0.7, rel=1e-3)
    assert measure_target_shift(0.7 * teacher_BC + 30 * constant_BC.cumsum(1), teacher_BC, 3.0).nats > 0.1


def test_cosines_of_a_real_clip_are_drowned_as_released(data_dir: Path) -> None:
    stored = np.load(data_dir / "clip-vitb32" / "caltech101_clip_vitb32.npz")
    test_N = stored["split"] == "test"
    assert test_N.sum() == 2465
    feats = functional.normalize(torch.from_numpy(stored["image_features"][test_N]).float(), dim=1)
    texts = functional.normalize(torch.from_numpy(stored["text_features"]).float(), dim=1)
    cosines_NC = feats @ texts.T
    labels_N = torch.from_numpy(stored["label"][test_N]).long()
    # A classifier whose logits spread by a few units and which is right on some two thirds of the images.
    generator = torch.Generator().manual_seed(0)
    noise_NC = torch.randn(cosines_NC.shape, generator=generator)
    teacher_NC = 3 * (noise_NC + 3 * functional.one_hot(labels_N, 100))
    assert 0.5 < (teacher_NC.argmax(1) == labels_N).float().mean() < 0.8
    logits = [teacher_NC, cosines_NC]
    half_N = torch.arange(len(labels_N)) % 2 == 0
    held = HeldOut(("teacher", "CLIP"), [z_NC[half_N] for z_NC in logits], labels_N[half_N], "half of test")

    def fused(preset: str) -> Tensor:
        return fuse(FusionConfig(preset=preset), LOGIT_SCALES, held).logits(logits)[~half_N]  # type: ignore[arg-type]

    def accuracy(z_NC: Tensor) -> float:
        return float((z_NC.argmax(1) == labels_N[~half_N]).float().mean())

    assert measure_target_shift(fused("as-released"), teacher_NC[~half_N], 3.0).nats < 1e-4
    assert measure_target_shift(fused("paper"), teacher_NC[~half_N], 3.0).nats > 1e-2
    assert accuracy(fused("as-released")) == pytest.approx(accuracy(teacher_NC[~half_N]), abs=0.01)
    parts = [accuracy(z_NC[~half_N]) for z_NC in logits]
    assert accuracy(fused("default")) > max(*parts, accuracy(fused("paper")))
