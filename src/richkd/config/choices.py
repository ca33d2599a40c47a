"""The registries that settings choose from; entries live where they are implemented."""

from __future__ import annotations

from typing import Any

from richkd.core.registry import Registry

AUGMENTATIONS: Registry[Any] = Registry("augmentation policy", home="richkd.data.augmentations")
SCALES: Registry[Any] = Registry("scale", home="richkd.fusion.scales")
MIXINGS: Registry[Any] = Registry("way of mixing", home="richkd.fusion.mixings")
TERMS: Registry[Any] = Registry("term", home="richkd.methods")
CORRUPTIONS: Registry[Any] = Registry("corruption", home="richkd.evaluate.corruptions")
