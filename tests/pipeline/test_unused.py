"""Settings without effect are refused by name; settings with an effect, and all defaults, are accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from richkd.config.loading import load_config
from richkd.config.schema import OptimConfig
from richkd.core.errors import ConfigError
from richkd.core.interrupt import Interrupted
from richkd.data.batches import Store
from richkd.methods.objective import read_objective
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.roles import assign_roles
from richkd.pipeline.unused import refuse_unused, warn_of_endless_warmup
from richkd.training.optimizer import build_optimizer
from richkd.training.run import distill
from richkd.training.trainer import Trainer
from tests.fixtures import World, make_teacher, refusal

CPU = torch.device("cpu")
CE: dict[str, Any] = {"method__name": "ce"}
KD: dict[str, Any] = {"method__name": "kd"}
L: dict[str, Any] = {"method__variant": "l"}
F: dict[str, Any] = {"method__variant": "f"}
TEACHER: dict[str, Any] = {"teachers__1__name": "resnet18"}
# A value of each setting of the fusion of some images.
GROUP: dict[str, Any] = {
    "preset": "paper",
    "scale": "raw",
    "mixing": "gate",
    "alpha": 0.5,
    "weights": (1.0, 30.0),
    "entropy": 0.5,
}
CLIP: dict[str, Any] = {"method__name": "kd", "objective__kd__target": "clip"}
CLIP_FEATURES: dict[str, Any] = {
    "objective": [{"contrastive": {"target": "clip", "num_negatives": 32, "embed_dim": 8}}]
}
CACHED: dict[str, Any] = {"teachers__1__name": "cache:given", "cache__dir": Path("cache")}
FOLDS: dict[str, Any] = L | {"teachers__1__name": "folds:runs/folds"}
CUSTOM_TEACHER: dict[str, Any] = {"teachers__1__name": "nets:large"}
CUSTOM_STUDENT: dict[str, Any] = {"student__name": "torchvision.models:vgg11"}
CROP: dict[str, Any] = {"augment__policy": "random-resized-crop"}


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The setting of a second vision teacher."""
    folder = tmp_path_factory.mktemp("unused") / "second"
    make_teacher(folder, seed=6)
    return {"teachers__2__name": f"local-dir:{folder}"}


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The setting of a folder of unlabeled images."""
    folder = tmp_path_factory.mktemp("unlabeled")
    for number in range(8):
        Image.new("RGB", (16, 16), (number, 30 * number, 250)).save(folder / f"{number}.png")
    return {"data__unlabeled": str(folder)}


def check(world: World, **changes: Any) -> None:
    """What is checked of settings before any data are opened."""
    if "objective" in changes:
        changes = {"clip__name": f"outputs:{world.clip}"} | changes
    config = world.config(Path("unused"), **changes)
    specs = read_objective(config)
    refuse_unused(config, specs, assign_roles(config, specs))


def name_of(change: dict[str, Any]) -> str:
    (name,) = change
    return name.replace("__", ".")


UNUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # augment
    ({}, {"augment__scale": (0.2, 1.0)}, "the augmentation policy is crop-flip"),
    ({}, {"augment__ratio": (0.5, 2.0)}, "the augmentation policy is crop-flip"),
    ({}, {"augment__color_jitter": 0.4}, "the augmentation policy is crop-flip"),
    ({}, {"augment__num_views": 4}, "the augmentation policy is crop-flip"),
    ({}, {"augment__auto_augment": "v0"}, "the augmentation policy is crop-flip"),
    ({"augment__policy": "clean"}, {"augment__reprob": 0.25}, "the augmentation policy is clean"),
    (CROP, {"augment__remode": "const"}, "it needs augment.reprob"),
    (CROP | {"augment__auto_augment": "v0"}, {"augment__recount": 2}, "it needs augment.reprob"),
    (CROP, {"augment__pad": 2}, "the augmentation policy is random-resized-crop"),
    ({"augment__policy": "clean"}, {"augment__scale": (0.2, 1.0)}, "the augmentation policy is clean"),
    ({"augment__policy": "clean"}, {"augment__pad": 2}, "the augmentation policy is clean"),
    ({"augment__policy": "clean"}, {"augment__flip": False}, "the augmentation policy is clean"),
    ({}, {"augment__mixup_switch_prob": 0.2}, "it needs augment.mixup_alpha and augment.cutmix_alpha"),
    (
        {"augment__mixup_alpha": 0.4},
        {"augment__mixup_switch_prob": 0.2},
        "it needs augment.mixup_alpha and augment.cutmix_alpha",
    ),
    (
        {"augment__cutmix_alpha": 1.0},
        {"augment__mixup_switch_prob": 0.2},
        "it needs augment.mixup_alpha and augment.cutmix_alpha",
    ),
    # optim
    ({"optim__schedule": "cosine"}, {"optim__milestones": (0.5,)}, "the schedule is cosine"),
    ({"optim__schedule": "cosine"}, {"optim__gamma": 0.5}, "the schedule is cosine"),
    ({"optim__milestones": ()}, {"optim__gamma": 0.5}, "there are no milestones"),
    *(
        ({"optim__name": name}, {"optim__momentum": 0.5}, f"the optimizer {name} does not take it")
        for name in ("adamw", "lion", "nadam", "adafactor")
    ),
    # fusion without a teacher
    (CE, {"fusion__preset": "paper"}, "no loss term reads a teacher"),
    (CE, {"fusion__weights": (1.0,)}, "no loss term reads a teacher"),
    # fusion of one vision teacher
    (KD, {"fusion__preset": "paper"}, "there is only one teacher, so nothing is fused"),
    (KD, {"fusion__scale": "raw"}, "there is only one teacher, so nothing is fused"),
    (KD, {"fusion__mixing": "gate"}, "there is only one teacher, so nothing is fused"),
    (KD, {"fusion__alpha": 0.5}, "there is only one teacher, so nothing is fused"),
    (KD, {"fusion__feature_alpha": 0.5}, "there is only one teacher, so nothing is fused"),
    (KD, {"fusion__features": "phi-s"}, "there is only one teacher, so nothing is fused"),
    (KD, {"fusion__control": "teacher-only"}, "there is only one teacher, so nothing is fused"),
    (KD, {"fusion__ood_quantile": 0.1}, "there is only one teacher, so nothing is fused"),
    # fusion of a CLIP alone, which is brought to a scale
    (CLIP, {"fusion__mixing": "gate"}, "there is only one teacher, so nothing is fused"),
    (CLIP, {"fusion__alpha": 0.0}, "there is only one teacher, so nothing is fused"),
    (CLIP, {"fusion__control": "clip-only"}, "there is only one teacher, so nothing is fused"),
    (CLIP, {"fusion__features": "phi-s"}, "no loss term reads features"),
    (CLIP, {"fusion__ood_quantile": 0.1}, "it needs data.unlabeled"),
    # fusion of several teachers
    (L, {"fusion__features": "phi-s"}, "no loss term reads features"),
    (L, {"fusion__feature_alpha": 0.5}, "no loss term reads features"),
    ({}, {"fusion__ood_quantile": 0.1}, "it needs data.unlabeled"),
    ({"fusion__weights": (1.0, 30.0)}, {"fusion__alpha": 0.5}, "fusion.weights replaces it"),
    ({"fusion__weights": (1.0, 30.0)}, {"fusion__scale": "raw"}, "fusion.weights replaces it"),
    ({"fusion__weights": (1.0, 30.0)}, {"fusion__mixing": "gate"}, "fusion.weights replaces it"),
    ({"fusion__mixing": "log-pool"}, {"fusion__alpha": 0.5}, "fusion.mixing is log-pool"),
    # entropy of the fused target
    (CE, {"fusion__entropy": 0.5}, "no loss term reads a teacher"),
    (KD, {"fusion__entropy": 0.5}, "there is only one teacher, so nothing is fused"),
    (KD, {"fusion__entropy": "match-teacher"}, "there is only one teacher, so nothing is fused"),
    (CLIP, {"fusion__entropy": 0.5}, "there is only one teacher, so nothing is fused"),
    (F, {"fusion__entropy": 0.5}, "no loss term reads fused logits, except for their z-scores"),
    (
        L | {"objective__kd__standardize": True},
        {"fusion__entropy": 0.5},
        "no loss term reads fused logits, except for their z-scores",
    ),
    (L | {"fusion__labeled__entropy": 0.5}, {"fusion__entropy": 0.4}, "fusion.labeled.entropy replaces it"),
    # fusions of images with and without labels
    *((L, {f"fusion__unlabeled__{name}": value}, "it needs data.unlabeled") for name, value in GROUP.items()),
    (CE, {"fusion__labeled__preset": "paper"}, "no loss term reads a teacher"),
    (KD, {"fusion__labeled__preset": "paper"}, "there is only one teacher, so nothing is fused"),
    (KD, {"fusion__labeled__entropy": 0.5}, "there is only one teacher, so nothing is fused"),
    (CLIP, {"fusion__labeled__mixing": "gate"}, "there is only one teacher, so nothing is fused"),
    *(
        (F, {f"fusion__labeled__{name}": value}, "no loss term reads fused logits")
        for name, value in GROUP.items()
    ),
    (
        L | {"objective__kd__standardize": True},
        {"fusion__labeled__entropy": 0.5},
        "no loss term reads fused logits, except for their z-scores",
    ),
    (
        {"objective": [{"kd": {"target": "teacher"}}, {"aver": {"target": "fused"}}], **TEACHER},
        {"fusion__labeled__alpha": 0.5},
        "terms read each teacher by itself, so nothing is fused",
    ),
    (
        L | {"fusion__labeled__preset": "paper"},
        {"fusion__preset": "as-released"},
        "fusion.labeled.preset replaces",
    ),
    (L | {"fusion__labeled__mixing": "gate"}, {"fusion__alpha": 0.5}, "fusion.labeled.mixing is gate"),
    (
        L | {"fusion__labeled__mixing": "gate"},
        {"fusion__labeled__alpha": 0.5},
        "fusion.labeled.mixing is gate",
    ),
    (L | {"fusion__mixing": "gate"}, {"fusion__labeled__alpha": 0.5}, "fusion.mixing is gate"),
    *(
        (
            L | {"fusion__weights": (1.0, 30.0)},
            {f"fusion__labeled__{name}": value},
            "fusion.weights replaces it",
        )
        for name, value in GROUP.items()
        if name not in ("weights", "entropy")
    ),
    (
        L | {"fusion__labeled__weights": (1.0, 30.0)},
        {"fusion__scale": "raw"},
        "fusion.labeled.weights replaces it",
    ),
    # cache and teachers
    (CE, {"cache__dir": Path("cache")}, "no loss term reads a teacher"),
    (CE, {"cache__top_k": 2}, "no loss term reads a teacher"),
    (KD, {"cache__top_k": 2}, "it needs cache.dir"),
    (CLIP | {"cache__dir": Path("cache")}, {"cache__top_k": 2}, "there is no vision teacher"),
    (CE, {"train__teacher_precision": "fp32"}, "there is no vision teacher"),
    (CE, {"train__compile_teacher": True}, "there is no vision teacher"),
    (CLIP, {"train__teacher_precision": "fp32"}, "there is no vision teacher"),
    (CLIP, {"train__compile_teacher": True}, "there is no vision teacher"),
    # teachers without a network that is built
    (CACHED, {"teachers__1__args": {"depth": 2}}, "imported outputs have no network"),
    (CACHED, {"teachers__1__size": 64}, "imported outputs have no network"),
    (FOLDS, {"teachers__1__args": {"depth": 2}}, "the networks of folds are built as they were saved"),
    (FOLDS, {"teachers__1__pretrained": True}, "the networks of folds are built as they were saved"),
    (KD | CUSTOM_TEACHER, {"teachers__1__pretrained": True}, "only models of timm can be downloaded"),
    (CE | CUSTOM_STUDENT, {"student__pretrained": True}, "only models of timm can be downloaded"),
    # a share of folds without folds
    (KD, {"teachers__1__fold_share": 0.5}, "it needs a teacher folds:FOLDER"),
    (KD, {"teachers__1__fold_share": 1.0}, "it needs a teacher folds:FOLDER"),
    (CACHED, {"teachers__1__fold_share": 0.0}, "it needs a teacher folds:FOLDER"),
    (FOLDS, {"student__fold_share": 0.5}, "it needs a teacher folds:FOLDER"),
    # data
    ({}, {"data__unlabeled_fraction": 0.5}, "it needs data.unlabeled"),
]


@pytest.mark.parametrize(
    ("base", "change", "reason"),
    UNUSED,
    ids=[f"{number}-{name_of(c)}" for number, (_, c, _) in enumerate(UNUSED)],
)
def test_a_setting_without_effect_is_refused_by_name(
    world: World, base: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    check(world, **base)
    error = refusal(check, world, **base | change)
    assert isinstance(error, ConfigError)
    name = name_of(change)
    assert f"Setting '{name}' has no effect in this run: {reason}" in error.rule
    assert str(error.got).startswith(f"{name} ")
    assert error.fix == f"remove {name}."


@pytest.mark.parametrize("change", [{"fusion__alpha": 0.5}, {"fusion__feature_alpha": 0.5}])
def test_a_share_of_vision_teachers_beside_no_clip_is_refused(
    world: World, second: dict[str, Any], change: dict[str, Any]
) -> None:
    base = {"method__name": "contrastive", **second} if "feature_alpha" in name_of(change) else KD | second
    check(world, **base)
    error = refusal(check, world, **base | change)
    assert f"'{name_of(change)}' has no effect in this run: vision teachers have equal shares" in error.rule


@pytest.mark.parametrize(
    "changes",
    [
        # The value of a default may be written out in any run.
        CE | {"fusion__preset": "default", "cache__dir": None, "fusion__ood_quantile": 0.05},
        CE | {"optim__schedule": "cosine", "optim__gamma": 0.1, "optim__milestones": (0.625, 0.75, 0.875)},
        CE | {"train__teacher_precision": "auto", "augment__color_jitter": 0.0},
        {"augment__pad": 3, "augment__flip": False},
        CROP | {"augment__scale": (0.2, 1.0), "augment__ratio": (0.5, 2.0), "augment__color_jitter": 0.4},
        CROP | {"augment__num_views": 4, "augment__flip": False},
        CROP | {"augment__auto_augment": "rand-m9-mstd0.5-inc1", "augment__reprob": 0.25},
        CROP | {"augment__reprob": 0.25, "augment__remode": "const", "augment__recount": 2},
        {"augment__policy": "clean", "augment__mixup_alpha": 0.4},
        {"augment__policy": "clean", "augment__cutmix_alpha": 1.0},
        {"augment__mixup_alpha": 0.4, "augment__cutmix_alpha": 1.0, "augment__mixup_switch_prob": 0.2},
        {"optim__milestones": (0.5,), "optim__gamma": 0.5},
        {"optim__schedule": "cosine", "optim__warmup_epochs": 1.0},
        {"optim__name": "rmsprop", "optim__momentum": 0.5},
        {"optim__name": "muon", "optim__momentum": 0.5},
        {"optim__name": "adamw", "optim__momentum": 0.9},
        {"train__epochs": 1},
        {"optim__warmup_epochs": 0.5, "train__epochs": 1},
        KD | {"fusion__weights": (0.7,)},
        KD | {"cache__dir": Path("cache"), "cache__top_k": 2},
        FOLDS | {"teachers__1__fold_share": 0.5},
        KD | {"train__teacher_precision": "fp32", "train__compile_teacher": True},
        CLIP | {"fusion__preset": "paper"},
        CLIP | {"fusion__scale": "raw"},
        CLIP | {"fusion__weights": (50.0,)},
        CLIP | {"cache__dir": Path("cache")},
        CLIP_FEATURES | {"fusion__features": "phi-s"},
        L | {"fusion__alpha": 0.5},
        L | {"fusion__mixing": "alpha", "fusion__alpha": 0.5},
        L | {"fusion__weights": (1.0, 30.0)},
        L | {"fusion__control": "shuffled"},
        {"fusion__feature_alpha": 0.5, "fusion__features": "standardized"},
        L | {"fusion__entropy": 0.5},
        L | {"fusion__entropy": "own", "fusion__labeled__entropy": "match-teacher"},
        L | {"fusion__weights": (1.0, 30.0), "fusion__labeled__entropy": 0.5},
        L | {"fusion__alpha": 0.5, "fusion__labeled__preset": "paper"},
        CLIP | {"fusion__labeled__scale": "raw"},
        KD | {"fusion__labeled__weights": (0.7,)},
        *(L | {f"fusion__labeled__{name}": value} for name, value in GROUP.items()),
    ],
)
def test_a_setting_with_an_effect_is_accepted(world: World, changes: dict[str, Any]) -> None:
    check(world, **changes)


def test_a_rest_of_labels_that_are_all_used_is_refused_with_both_ways_out(world: World) -> None:
    error = refusal(check, world, data__unlabeled="rest")
    assert error.rule == "data.unlabeled rest needs data.labels_per_class"
    assert str(error.fix).startswith("add --data.labels_per_class N, or remove --unlabeled;")


@pytest.mark.parametrize(("warmup", "epochs"), [(3.0, 3), (1.0, 1), (1e9, 240), (0.5, 1), (2.0, 3), (0.0, 1)])
def test_a_warm_up_that_takes_the_whole_run_is_a_warning(
    world: World, tmp_path: Path, warmup: float, epochs: int
) -> None:
    lines: list[str] = []
    warn_of_endless_warmup(
        world.config(tmp_path, optim__warmup_epochs=warmup, train__epochs=epochs), lines.append
    )
    assert len(lines) == (warmup >= epochs)
    assert all(f"(optim.warmup_epochs {warmup:g}) takes the whole run" in line for line in lines)


@pytest.mark.parametrize(
    "name", ["momentum", "sgd", "adamw", "lion", "nadam", "rmsprop", "adafactor", "muon"]
)
def test_momentum_is_refused_where_it_does_not_reach_the_optimizer(world: World, name: str) -> None:
    values = (0.4, 0.5)
    groups = [
        build_optimizer(nn.Linear(2, 2), OptimConfig(name=name, momentum=value)).param_groups
        for value in values
    ]
    plain = [[{n: v for n, v in group.items() if n != "params"} for group in one] for one in groups]
    if plain[0] == plain[1]:
        assert "'optim.momentum'" in refusal(check, world, optim__name=name, optim__momentum=0.5).rule
    else:
        check(world, optim__name=name, optim__momentum=0.5)


def test_settings_of_unlabeled_images_and_of_several_teachers_are_accepted(
    world: World, second: dict[str, Any], unlabeled: dict[str, Any]
) -> None:
    check(world, **unlabeled, data__unlabeled_fraction=0.5, fusion__ood_quantile=0.1)
    check(world, **CLIP, **unlabeled, fusion__ood_quantile=0.0)
    check(world, **KD, **second, fusion__mixing="gate", fusion__scale="zscore")
    check(world, **KD, **second, fusion__control="teacher-only")
    check(world, **second, fusion__alpha=0.5, fusion__feature_alpha=0.5)


def test_settings_of_images_without_labels_need_such_images_and_others_of_theirs(
    world: World, unlabeled: dict[str, Any]
) -> None:
    for name, value in GROUP.items():
        check(world, **L, **unlabeled, **{f"fusion__unlabeled__{name}": value})
        check(world, **L, **unlabeled, **{f"fusion__labeled__{name}": value})
    one = unlabeled | L | {"fusion__alpha": 0.5, "fusion__labeled__alpha": 0.6}
    check(world, **one)
    error = refusal(check, world, **one, fusion__unlabeled__alpha=0.7)
    assert "'fusion.alpha' has no effect" in error.rule
    assert "fusion.labeled.alpha replaces it and fusion.unlabeled.alpha replaces it" in error.rule


def target_logits(parts: Parts) -> torch.Tensor:
    """The fused logits of the validation images."""
    store: Store = parts.stores.clean("val")
    (batch,) = store.batches([torch.arange(len(store.split))])
    return parts.teach(batch, 0)["clip"].logits_BC


@pytest.mark.parametrize(
    "change", [{"fusion__scale": "raw"}, {"fusion__preset": "paper"}, {"fusion__weights": (5.0,)}]
)
def test_settings_that_are_accepted_for_a_clip_alone_change_its_target(
    world: World, change: dict[str, Any]
) -> None:
    plain = assemble(world.config(Path("unused"), **CLIP), CPU)
    changed = assemble(world.config(Path("unused"), **CLIP, **change), CPU)
    assert not torch.equal(target_logits(plain), target_logits(changed))


def test_settings_that_are_accepted_for_a_clip_alone_change_its_features(world: World) -> None:
    changes = CLIP_FEATURES | {"clip__name": f"outputs:{world.clip}"}
    plain = assemble(world.config(Path("unused"), **changes), CPU)
    changed = assemble(world.config(Path("unused"), **changes, fusion__features="phi-s"), CPU)
    assert plain.fusion is not None
    assert changed.fusion is not None
    assert (plain.fusion.features is None, changed.fusion.features is None) == (True, False)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, KD, CE, CLIP, CROP | {"augment__num_views": 2}])
def test_the_saved_settings_of_a_run_load_and_resume(
    world: World, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped goes on with its own config.yaml, where every default is written out."""
    whole = distill(world.config(tmp_path / "whole", **changes), quiet=True)
    out = tmp_path / "run"
    save, saves = Trainer.save, iter(range(10))

    def stopped(self: Trainer) -> None:
        save(self)
        if next(saves) == 1:
            raise Interrupted

    monkeypatch.setattr(Trainer, "save", stopped)
    with pytest.raises(Interrupted):
        distill(world.config(out, **changes), quiet=True)
    monkeypatch.undo()
    saved = out / "config.yaml"
    written = yaml.safe_load(saved.read_text())
    # Defaults, too, of sections and settings that this run does not read.
    assert written["fusion"]["preset"] == "default"
    assert written["optim"]["milestones"] == [0.625, 0.75, 0.875]
    assert written["augment"]["scale"] == [0.35, 1.0]
    config = load_config(saved)
    assert config == load_config(None, world.settings(out, **changes))
    assert config.to_yaml() == saved.read_text()
    distill(config, resume=True, quiet=True)
    weights = "student/model.safetensors"
    assert (out / weights).read_bytes() == (whole.folder / weights).read_bytes()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["splits"] == whole.summary["splits"]
