"""Settings that have no effect are refused by name, so that nobody relies on one that does nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from richkd.config.model_name import parse_model_name
from richkd.config.schema import REST, Config, Section
from richkd.core.errors import ConfigError
from richkd.fusion.mixings import ALPHA
from richkd.methods.objective import TermSpec, needs_of, reads_teachers_only
from richkd.pipeline.roles import Roles

CROP_ONLY = ("scale", "ratio", "color_jitter", "num_views", "auto_augment", "reprob", "remode", "recount")
# Vision teachers of a target, and whether it has a CLIP.
Size = tuple[int, bool]
# Settings of a network that is built from its name, and the kinds of teachers that are not.
NETWORK = ("pretrained", "size", "mean", "std", "args")
NO_NETWORK = {
    "cache": "imported outputs have no network",
    "folds": "the networks of folds are built as they were saved",
}


def refuse_unused(config: Config, specs: Sequence[TermSpec], roles: Roles) -> None:
    """Refuse a setting that differs from its default and that this run does not read.

    Raises:
        ConfigError: naming the setting, and what it would need to have an effect.
    """
    for name, reason in unused(config, specs, roles):
        value = _value(config, name)
        raise ConfigError(
            f"Setting '{name}' has no effect in this run: {reason}",
            got=f"{name} {value}",
            fix=f"remove {name}.",
        )


def unused(config: Config, specs: Sequence[TermSpec], roles: Roles) -> Iterator[tuple[str, str]]:
    """Names of changed settings without effect, each with the reason. A name can occur more than once."""
    yield from _augment(config)
    yield from _optim(config)
    yield from _fusion(config, specs, roles)
    if not roles.vision:
        yield from _changed("cache", config.cache, "no loss term reads a teacher")
    elif config.cache.dir is None:
        yield from _changed("cache", config.cache, "it needs cache.dir (--teacher-cache)", ("top_k",))
    if not any(roles.vision.values()):
        reason = "there is no vision teacher"
        yield from _changed("cache", config.cache, reason, ("top_k",))
        yield from _changed("train", config.train, reason, ("teacher_precision", "compile_teacher"))
    yield from _teachers(config)
    if config.data.unlabeled is None:
        yield from _changed("data", config.data, "it needs data.unlabeled", ("unlabeled_fraction",))
    elif config.data.unlabeled == REST and config.data.labels_per_class is None:
        reason = f"{REST} needs data.labels_per_class; a folder with this name is ./{REST}"
        yield from _changed("data", config.data, reason, ("unlabeled",))


def _teachers(config: Config) -> Iterator[tuple[str, str]]:
    for number, teacher in enumerate(config.teachers, start=1):
        reason = NO_NETWORK.get(parse_model_name(teacher.name).kind)
        if reason is not None:
            yield from _changed(f"teachers.{number}", teacher, reason, NETWORK)


def _value(config: Config, name: str) -> Any:
    section, *number, leaf = name.split(".")
    values = getattr(config, section)
    return getattr(values[int(number[0]) - 1] if number else values, leaf)


def _augment(config: Config) -> Iterator[tuple[str, str]]:
    policy = config.augment.policy
    if policy != "random-resized-crop":
        yield from _changed("augment", config.augment, f"the augmentation policy is {policy}", CROP_ONLY)
    if policy != "crop-flip":
        yield from _changed("augment", config.augment, f"the augmentation policy is {policy}", ("pad",))
    if policy == "clean":
        yield from _changed("augment", config.augment, "the augmentation policy is clean", ("flip",))
    if not config.augment.reprob:
        yield from _changed("augment", config.augment, "it needs augment.reprob", ("remode", "recount"))
    if not (config.augment.mixup_alpha and config.augment.cutmix_alpha):
        reason = "it needs augment.mixup_alpha and augment.cutmix_alpha"
        yield from _changed("augment", config.augment, reason, ("mixup_switch_prob",))


def _optim(config: Config) -> Iterator[tuple[str, str]]:
    if config.optim.schedule == "cosine":
        yield from _changed("optim", config.optim, "the schedule is cosine", ("milestones", "gamma"))


def _fusion(config: Config, specs: Sequence[TermSpec], roles: Roles) -> Iterator[tuple[str, str]]:
    fusion, sizes = (
        config.fusion,
        {name: (len(roles.vision[name]), roles.clip[name]) for name in roles.vision},
    )
    fused = [size for name, size in sizes.items() if not reads_teachers_only(specs, name)]
    if not sizes:
        yield from _changed("fusion", fusion, "no loss term reads a teacher")
    elif all(vision + clip == 1 for vision, clip in fused):
        one = all(vision + clip == 1 for vision, clip in sizes.values())
        reason = "there is only one teacher" if one else "terms read each teacher by itself"
        read = _read_without_fusion(config, list(sizes.values()), fused)
        others = [name for name in type(fusion).model_fields if name not in read]
        yield from _changed("fusion", fusion, f"{reason}, so nothing is fused", others)
    elif not any(vision and clip for vision, clip in sizes.values()):
        reason = "vision teachers have equal shares, and no target has both them and a CLIP"
        yield from _changed("fusion", fusion, reason, ("alpha", "feature_alpha"))
    if fusion.weights is not None:
        yield from _changed("fusion", fusion, "fusion.weights replaces it", ("scale", "mixing", "alpha"))
    elif fusion.mixing not in (None, ALPHA):
        yield from _changed("fusion", fusion, f"fusion.mixing is {fusion.mixing}", ("alpha",))
    if "features" not in needs_of(specs):
        names = ("feature_alpha", "features")
        yield from _changed("fusion", fusion, "no loss term reads features", names)
    if config.data.unlabeled is None:
        yield from _changed("fusion", fusion, "it needs data.unlabeled", ("ood_quantile",))


def _read_without_fusion(config: Config, sizes: Sequence[Size], fused: Sequence[Size]) -> set[str]:
    """The settings of a fusion that are read if no term reads the fused logits of several teachers.

    Args:
        sizes: vision teachers of each target, and whether it has a CLIP.
        fused: the same, for targets whose fused logits are read.
    """
    names = set()
    if fused:
        names.add("weights")
    if any(clip for _, clip in fused):
        # A CLIP alone is brought to a scale.
        names |= {"preset", "scale"}
    if any(clip for _, clip in sizes) or config.fusion.weights is not None:
        names |= {"features", "ood_quantile"}
    if any(vision + clip > 1 for vision, clip in sizes):
        names |= {"features", "ood_quantile", "control"}
    if any(vision and clip for vision, clip in sizes):
        names.add("feature_alpha")
    return names


def _changed(
    section: str, values: Section, reason: str, names: Sequence[str] | None = None
) -> Iterator[tuple[str, str]]:
    for name, field in type(values).model_fields.items():
        if (names is None or name in names) and getattr(values, name) != field.get_default(
            call_default_factory=True
        ):
            yield f"{section}.{name}", reason
