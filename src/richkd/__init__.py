"""Distill a large image classifier, fused with CLIP, into a small one for deployment.

Train a student and load it::

    import richkd

    run = richkd.distill(richkd.load_config("recipe.yaml"))
    student = richkd.load_student(run.folder)

The modules of the public names are imported when a name is first used, so ``import richkd`` is fast.

Example:
    >>> import richkd
    >>> config = richkd.load_config(None, {"data.path": "photos", "student.name": "resnet18"})
    >>> config.train.epochs
    240
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from richkd.config.loading import load_config
    from richkd.config.schema import Config
    from richkd.core.errors import RichKDError
    from richkd.export.student import Student, load_student, save_student
    from richkd.fusion.fusion import Fusion
    from richkd.loops.callbacks import Callback
    from richkd.loops.distiller import Distiller
    from richkd.losses.contrast import contrast_loss
    from richkd.losses.features import fuse_features
    from richkd.losses.logits import cross_entropy, kd_divergence
    from richkd.training.distill import distill
    from richkd.training.run import Run

_HOMES = {
    "Config": "config.schema",
    "load_config": "config.loading",
    "RichKDError": "core.errors",
    "Student": "export.student",
    "load_student": "export.student",
    "save_student": "export.student",
    "Fusion": "fusion.fusion",
    "contrast_loss": "losses.contrast",
    "fuse_features": "losses.features",
    "cross_entropy": "losses.logits",
    "kd_divergence": "losses.logits",
    "Callback": "loops.callbacks",
    "Distiller": "loops.distiller",
    "Run": "training.run",
    "distill": "training.distill",
}

__all__ = [
    "Callback",
    "Config",
    "Distiller",
    "Fusion",
    "RichKDError",
    "Run",
    "Student",
    "contrast_loss",
    "cross_entropy",
    "distill",
    "fuse_features",
    "kd_divergence",
    "load_config",
    "load_student",
    "save_student",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'richkd' has no attribute '{name}'")
    return getattr(importlib.import_module(f"richkd.{_HOMES[name]}"), name)
