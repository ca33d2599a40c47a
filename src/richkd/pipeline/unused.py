"""Settings that have no effect are refused by name, so that nobody relies on one that does nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from timm.optim import get_optimizer_info, list_optimizers

from richkd.config.model_name import parse_model_name
from richkd.config.schema import REST, Config
from richkd.core.errors import ConfigError
from richkd.core.logs import Log
from richkd.data.labels import refuse_rest_of_all
from richkd.methods.objective import TermSpec
from richkd.pipeline.roles import Roles
from richkd.pipeline.unused_fusion import changed, unused_of_fusion

CROP_ONLY = ("scale", "ratio", "color_jitter", "num_views", "auto_augment", "reprob", "remode", "recount")
# Settings of a network that is built from its name, and the kinds of teachers that are not.
NETWORK = ("pretrained", "size", "mean", "std", "args")
NO_NETWORK = {
    "cache": "imported outputs have no network",
    "folds": "the networks of folds are built as they were saved",
}
NO_DOWNLOAD = "only models of timm can be downloaded by their names; give a file of weights"
FOLD_SHARE, FOLDS_ONLY = ("fold_share",), "it needs a teacher folds:FOLDER"


def refuse_unused(config: Config, specs: Sequence[TermSpec], roles: Roles) -> None:
    """Refuse a setting that differs from its default and that this run does not read.

    Raises:
        ConfigError: naming the setting, and what it would need to have an effect.
    """
    # Its message has both ways out, where the one below knows only one.
    refuse_rest_of_all(config.data)
    for name, reason in unused(config, specs, roles):
        value = _value(config, name)
        raise ConfigError(
            f"Setting '{name}' has no effect in this run: {reason}",
            got=f"{name} {value}",
            fix=f"remove {name}.",
        )


def warn_of_endless_warmup(config: Config, log: Log) -> None:
    """Say that a run ends in its warm-up. Short trials of a recipe do so, and are no mistake."""
    warmup, epochs = config.optim.warmup_epochs, config.train.epochs
    if warmup >= epochs:
        log(
            f"warning: the learning rate stays below {config.optim.lr:g}: the warm-up (optim.warmup_epochs "
            f"{warmup:g}) takes the whole run (train.epochs {epochs})"
        )


def unused(config: Config, specs: Sequence[TermSpec], roles: Roles) -> Iterator[tuple[str, str]]:
    """Names of changed settings without effect, each with the reason. A name can occur more than once."""
    yield from _augment(config)
    yield from _optim(config)
    yield from unused_of_fusion(config, specs, roles)
    if not roles.vision:
        reason = "no loss term reads a teacher"
        yield from changed("cache", config.cache, reason)
        yield from changed("train", config.train, reason, ("shard_teachers",))
    elif config.cache.dir is None:
        yield from changed("cache", config.cache, "it needs cache.dir (--teacher-cache)", ("top_k",))
    if not any(roles.vision.values()):
        reason = "there is no vision teacher"
        yield from changed("cache", config.cache, reason, ("top_k",))
        yield from changed("train", config.train, reason, ("teacher_precision", "compile_teacher"))
    yield from _networks(config)
    if config.data.unlabeled is None:
        yield from changed("data", config.data, "it needs data.unlabeled", ("unlabeled_fraction",))
    elif config.data.unlabeled == REST and config.data.labels_per_class is None:
        reason = f"{REST} needs data.labels_per_class; a folder with this name is ./{REST}"
        yield from changed("data", config.data, reason, ("unlabeled",))


def _networks(config: Config) -> Iterator[tuple[str, str]]:
    teachers = {f"teachers.{number}": teacher for number, teacher in enumerate(config.teachers, start=1)}
    for section, model in {**teachers, "student": config.student}.items():
        kind = parse_model_name(model.name).kind
        if kind in NO_NETWORK:
            yield from changed(section, model, NO_NETWORK[kind], NETWORK)
        if kind == "callable":
            yield from changed(section, model, NO_DOWNLOAD, ("pretrained",))
        if kind != "folds" or section == "student":
            yield from changed(section, model, FOLDS_ONLY, FOLD_SHARE)


def _value(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value[int(part) - 1] if part.isdigit() else getattr(value, part)
    return value


def _augment(config: Config) -> Iterator[tuple[str, str]]:
    policy = config.augment.policy
    if policy != "random-resized-crop":
        yield from changed("augment", config.augment, f"the augmentation policy is {policy}", CROP_ONLY)
    if policy != "crop-flip":
        yield from changed("augment", config.augment, f"the augmentation policy is {policy}", ("pad",))
    if policy == "clean":
        yield from changed("augment", config.augment, "the augmentation policy is clean", ("flip",))
    if not config.augment.reprob:
        yield from changed("augment", config.augment, "it needs augment.reprob", ("remode", "recount"))
    if not (config.augment.mixup_alpha and config.augment.cutmix_alpha):
        reason = "it needs augment.mixup_alpha and augment.cutmix_alpha"
        yield from changed("augment", config.augment, reason, ("mixup_switch_prob",))


def _optim(config: Config) -> Iterator[tuple[str, str]]:
    if config.optim.schedule == "cosine":
        yield from changed("optim", config.optim, "the schedule is cosine", ("milestones", "gamma"))
    elif not config.optim.milestones:
        yield from changed("optim", config.optim, "there are no milestones", ("gamma",))
    name = config.optim.name
    # `build_optimizer` refuses a name that timm does not know.
    if name in list_optimizers() and not get_optimizer_info(name).has_momentum:
        yield from changed("optim", config.optim, f"the optimizer {name} does not take it", ("momentum",))
