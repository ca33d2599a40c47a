"""Fitting what combines teachers: weights of prompts, fusions, and scales of features, on held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from richkd.config.schema import Config, FusionConfig
from richkd.core.errors import ClipError, DataError
from richkd.core.home import expanded
from richkd.core.logs import Log
from richkd.core.types import UNLABELED
from richkd.data.held_out import held_out_split
from richkd.data.split import evenly_spaced
from richkd.data.stores import Stores
from richkd.fusion.by_label import ALL, LABELED, WITHOUT, ByLabel, setting_of
from richkd.fusion.feature_scale import FeatureScale, fit_feature_scale
from richkd.fusion.fuse import average_fusion, fuse
from richkd.fusion.fusion import Fusion, identity_fusion
from richkd.fusion.held_out import HeldOut
from richkd.fusion.ood import fit_ood_weights
from richkd.fusion.presets import needs_held_out
from richkd.pipeline.targets import TargetSource
from richkd.teachers.base import Teacher
from richkd.teachers.clip.prompt_weights import (
    PromptSet,
    cross_fitted_nll,
    fit_prompt_weights,
    read_prompt_weights,
)
from richkd.teachers.predict import outputs_of

# Training images on which the scale of features is fitted.
FEATURE_IMAGES = 4096
# What a log line calls the fusion of each kind of training images.
FUSION_OF = {
    ALL: "fusion",
    LABELED: "fusion of images with labels",
    WITHOUT: "fusion of images without labels",
}
GIVE_HELD_OUT = "give --data.calibration DIR, --data.val_fraction 0.1 or --data.test_calibration_fraction 0.2"


@dataclass
class Fitter:
    """Fits fusions of a run's teachers. Each teacher's held-out outputs are computed once.

    Attributes:
        settings: those of the fusions, by kind of training images.
        features: whether a loss term reads features.
        log: receives a line for everything that was fitted.
    """

    config: Config
    settings: ByLabel
    stores: Stores
    device: torch.device
    features: bool
    log: Log
    _held_out: dict[int, Tensor] = field(default_factory=dict)

    def source(self, teachers: Sequence[Teacher], *, clip: bool, averaged: bool = False) -> TargetSource:
        """The target of some teachers: the fusions that the settings describe, each fitted once.

        Args:
            clip: whether the last teacher is the CLIP, with which the others share by alpha.
            averaged: no term reads the fused logits, so their mean is taken and nothing is fitted.

        Raises:
            DataError: it has to be fitted, and there are no held-out images.
        """
        other = self.settings.labeled
        kind = ALL if other is None else WITHOUT
        main = self._fusion(teachers, self.settings.main, kind, clip=clip, averaged=averaged)
        source = TargetSource(tuple(teachers), main)
        # Teachers of folds have no features; their target is then not one whose features are read.
        scaled = self.features and self.config.fusion.features != "raw" and main != identity_fusion()
        if scaled and all(teacher.feature_width for teacher in teachers):
            source = replace(source, fusion=replace(main, features=self._feature_scales(teachers)))
        if other is not None and not averaged:
            same = self.settings.one_mixing
            labeled = main if same else self._fusion(teachers, other, LABELED, clip=clip, averaged=False)
            source = replace(source, labeled=labeled)
        for kind, fusion in source.fusions.items():
            if fusion != identity_fusion():
                self.log(f"{FUSION_OF[kind]}: {describe(fusion, teachers)}")
        return source

    def _fusion(
        self, teachers: Sequence[Teacher], config: FusionConfig, kind: str, *, clip: bool, averaged: bool
    ) -> Fusion:
        scales = [teacher.logit_scale for teacher in teachers]
        if len(teachers) == 1 and config.weights is None and not clip:
            return identity_fusion()
        shared = clip and len(teachers) > 1
        # Alpha says how vision teachers and a CLIP share; without a CLIP all have equal shares.
        settings = config if shared else config.model_copy(update={"alpha": None, "feature_alpha": None})
        split = held_out_split(self.stores.names)
        weighs_ood = config.ood_quantile > 0 and self._has_unlabeled()
        held_out = None
        fitted = needs_held_out(settings) and not averaged
        if fitted or (weighs_ood and split is not None):
            held_out = self._held_out_of(teachers, split, settings.preset)
        if averaged:
            fused = average_fusion(scales, settings.feature_alpha, clip=clip)
        else:
            weights_setting = setting_of(self.config.fusion, kind, "weights")
            fused = fuse(settings, scales, held_out, clip=clip, weights=weights_setting)
        if weighs_ood and held_out is not None:
            weights = fit_ood_weights(fused.scales, held_out.logits, config.ood_quantile)
            fused = replace(fused, ood_weights=weights)
        elif weighs_ood:
            self.log(
                "unlabeled images count in full: without held-out images, unusual ones cannot be detected"
            )
        return fused

    def weigh_prompts(self, clip: Teacher) -> Teacher:
        """The CLIP with its prompts weighted as the settings ask; the given teacher stays as it is.

        Raises:
            ClipError: embeddings of single prompts are not known, or the file of weights does not fit the
                prompts.
            DataError: weights have to be fitted, and there are no held-out images.
        """
        assert self.config.clip is not None
        choice = self.config.clip.prompt_weights
        if choice == "equal":
            return clip
        zero_shot = clip.zero_shot
        assert zero_shot is not None
        prompts = zero_shot.prompts()
        if prompts is None:
            raise ClipError(
                f"Prompt weights need the class embeddings of each prompt; {clip.name} holds their mean only",
                got=f"clip.prompt_weights {choice}",
                fix="add 'prompt_features' and 'prompts' to the file, or leave the weights equal.",
            )
        if choice == "fitted":
            weights_P = self._fitted_prompt_weights(clip, prompts)
        else:
            weights_P = read_prompt_weights(expanded(choice), prompts.templates)
        order = weights_P.argsort(descending=True)[:3].tolist()
        largest = (f"{float(weights_P[place]):.2f} × '{prompts.templates[place]}'" for place in order)
        self.log(f"prompts: {', '.join(largest)}, …")
        embeddings_CD = prompts.class_embeddings(weights_P).float()
        return zero_shot.reweighted(embeddings_CD.to(zero_shot.class_embeddings_CD))

    def _fitted_prompt_weights(self, clip: Teacher, prompts: PromptSet) -> Tensor:
        """Weights (P) that are fitted on held-out images; logs what they are worth."""
        split = held_out_split(self.stores.names)
        if split is None:
            raise DataError(
                "Prompt weights are fitted on held-out images",
                got="neither a calibration folder nor a validation split",
                fix=f"{GIVE_HELD_OUT}.",
            )
        store = self.stores.clean(split, clip.framing)
        labels_N = store.split.labels_N
        feats_ND = outputs_of(clip, store, self.device).feats_BF
        weights_P = fit_prompt_weights(prompts, feats_ND, labels_N, clip.logit_scale)
        fitted, equal = cross_fitted_nll(prompts, feats_ND, labels_N, clip.logit_scale)
        self.log(
            f"prompts: weights fitted on {len(labels_N)} images of {split}; cross-fitted NLL "
            f"{fitted:.4f}, with equal weights {equal:.4f}"
        )
        return weights_P

    def _has_unlabeled(self) -> bool:
        """Whether some training images have no labels; with ``data.unlabeled: rest``, there may be none."""
        train = self.stores.splits.get("train")
        return train is not None and bool((train.labels_N == UNLABELED).any())

    def _held_out_of(self, teachers: Sequence[Teacher], split: str | None, preset: str) -> HeldOut:
        if split is None:
            raise DataError(
                f"Fusion preset '{preset}' is fitted on held-out images",
                got="neither a calibration folder nor a validation split",
                fix=f"{GIVE_HELD_OUT}, or use --fusion.preset paper.",
            )
        for teacher in teachers:
            if id(teacher) not in self._held_out:
                store = self.stores.clean(split, teacher.framing)
                self._held_out[id(teacher)] = outputs_of(teacher, store, self.device).logits_BC
        logits = [self._held_out[id(teacher)] for teacher in teachers]
        labels_N = self.stores.splits[split].labels_N
        return HeldOut([teacher.name for teacher in teachers], logits, labels_N, split)

    def _feature_scales(self, teachers: Sequence[Teacher]) -> tuple[FeatureScale, ...]:
        places_N = evenly_spaced(len(self.stores.splits["train"]), FEATURE_IMAGES)
        phi_s = self.config.fusion.features == "phi-s"
        feats = (
            outputs_of(t, self.stores.clean("train", t.framing), self.device, places_N).feats_BF
            for t in teachers
        )
        return tuple(fit_feature_scale(feats_NF, phi_s=phi_s) for feats_NF in feats)


def describe(fusion: Fusion, teachers: Sequence[Teacher]) -> str:
    """A fusion in one line: its teachers, their multipliers where these are all of it, and its origin."""
    names = [teacher.name for teacher in teachers]
    if fusion.multipliers:
        names = [f"{w:.4g} × {name}" for w, name in zip(fusion.multipliers, names, strict=True)]
    return f"{', '.join(names)} ({fusion.origin})"
