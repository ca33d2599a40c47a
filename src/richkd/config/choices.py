"""The registries that settings choose from; entries live where they are implemented."""

from __future__ import annotations

from typing import Any

from richkd.core.registry import Registry


def _listed(setting: str) -> str:
    return f"`richkd settings {setting}` lists all."


AUGMENTATIONS: Registry[Any] = Registry(
    "augmentation policy", home="richkd.data.augmentations", listing=_listed("augment.policy")
)
SCALES: Registry[Any] = Registry("scale", home="richkd.fusion.scales", listing=_listed("fusion.scale"))
MIXINGS: Registry[Any] = Registry(
    "way of mixing", home="richkd.fusion.mixings", listing=_listed("fusion.mixing")
)
TERMS: Registry[Any] = Registry("term", home="richkd.methods", listing=_listed("objective"))
CORRUPTIONS: Registry[Any] = Registry("corruption", home="richkd.evaluate.corruptions")
FORMATS: Registry[Any] = Registry(
    "format", home="richkd.export.formats", listing="`richkd export --help` lists those of this package."
)
