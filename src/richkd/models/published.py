"""Published weights of timm's models, which can need different normalizations."""

from __future__ import annotations

import timm
from timm.models import get_pretrained_cfg

from richkd.core.logs import logger_of
from richkd.core.visible import ITEM
from richkd.models.arguments import option

_LOG = logger_of(__name__)

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


def normalizations(architecture: str) -> dict[Normalization, list[str]]:
    """Mean and std of the published weights of an architecture, with the tags that have them.

    Example:
        >>> sorted(mean[0] for mean, std in normalizations("mixer_b16_224"))
        [0.0, 0.5]
        >>> len(normalizations("resnet18"))
        1
    """
    tags: dict[Normalization, list[str]] = {}
    for name in timm.list_models(f"{architecture}.*", pretrained=True):
        cfg = get_pretrained_cfg(name)
        tags.setdefault((tuple(cfg.mean), tuple(cfg.std)), []).append(name.partition(".")[2])
    return tags


def warn_of_normalization(name: str, role: str) -> None:
    """Log that a weights file without a tag may need another normalization than the architecture's default.

    Args:
        name: the model's name in timm; with a tag, such as ``vit_base_patch16_224.augreg_in1k``, it is clear.
        role: ``"student"`` or ``"teacher"``.

    Example:
        >>> warn_of_normalization("resnet18", "teacher")  # all tags agree
    """
    published = {} if "." in name else normalizations(name)
    if len(published) < 2:
        return
    used = get_pretrained_cfg(name)
    kinds = [f"mean {mean}, std {std}: {', '.join(tags)}" for (mean, std), tags in published.items()]
    _LOG.warning(
        "published weights of %s have different normalizations, and a file does not say which it needs. "
        "Used is mean %s, std %s. Name a tag, as in %s.TAG, or give %s and %s. The tags:%s",
        name,
        tuple(used.mean),
        tuple(used.std),
        name,
        option(role, "mean"),
        option(role, "std"),
        "".join(f"{ITEM}{kind}" for kind in kinds),
    )
