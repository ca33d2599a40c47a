"""Names that settings had in version 0.1, and what they are called now; used in error messages only."""

from __future__ import annotations

RENAMED = {
    "bank.folder": "cache.dir",
    "bank.top": "cache.top_k",
    "bank": "teacher_cache",
    "views.recipe": "augment.policy",
    "views.colour": "augment.color_jitter",
    "views.mixup": "augment.mixup_alpha",
    "views.cycle": "augment.num_views",
    **{f"views.{name}": f"augment.{name}" for name in ("pad", "flip", "scale", "ratio")},
    "data.leave_out": "data.exclude_fold",
    "data.held_out_of_test": "data.test_calibration_fraction",
    "held_out_of_test": "test_calibration_fraction",
    "data.resident_gb": "data.in_memory_gb",
    "data.unlabeled_share": "data.unlabeled_fraction",
    "clip.class_names": "clip.rename_classes",
    "fusion.lam": "fusion.feature_alpha",
    "fusion.distrust": "fusion.ood_quantile",
    "method.temperature": "objective.kd.temperature",
    "method.ce": "objective.ce.weight",
    "method.logits": "objective.kd.weight",
    "method.features": "objective.contrastive.weight",
    "method.label_smoothing": "objective.ce.label_smoothing",
    "method.embed_width": "objective.contrastive.embed_dim",
    "method.contrast": "objective.contrastive.negatives",
    "method.negatives": "objective.contrastive.num_negatives",
    "method.contrast_temperature": "objective.contrastive.temperature",
    "method.bank_momentum": "objective.contrastive.momentum",
    "optim.clip_grad": "optim.max_grad_norm",
    "train.accumulate": "train.grad_accum_steps",
    "train.ema": "train.ema_decay",
    **{f"teacher.{n}": f"teachers.1.{n}" for n in ("name", "weights", "pretrained", "size", "mean", "std")},
    "teacher": "teachers",
    "more_teachers": "teachers",
    "views": "augment",
}
# Values that were renamed, by setting.
RENAMED_VALUES = {
    "fusion.scale": {"calibrated": "temperature"},
    "fusion.mixing": {"chosen": "auto"},
    "fusion.features": {"isotropic": "phi-s", "standardised": "standardized"},
    "objective.contrastive.negatives": {"full": "memory-bank"},
}


def new_name(old: str) -> str | None:
    """What a setting of version 0.1 is called now; None for any other word.

    Example:
        >>> new_name("train.ema"), new_name("train.epochs")
        ('train.ema_decay', None)
    """
    return RENAMED.get(old)
