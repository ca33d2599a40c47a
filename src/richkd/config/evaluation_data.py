"""The settings of data with which a student is evaluated, from those of its training."""

from __future__ import annotations

from richkd.config.schema import REST, DataConfig
from richkd.core.home import expanded
from richkd.core.presence import is_dir, resolved


def for_evaluation(data: DataConfig, path: str | None = None) -> DataConfig:
    """The settings of data without those that only training reads.

    ``unlabeled`` is a source of training images alone, and it may be gone when a student is evaluated. It
    stays if it is a folder inside of the data folder, where its images would be read as those of a class.
    ``unlabeled_fraction`` is a share of such images in a batch. ``labels_per_class`` stays: with
    ``exclude_fold``, it decides which images are left out of training.

    Args:
        data: the settings.
        path: where the data are now; by default, where they were.

    Example:
        >>> data = DataConfig(path="photos", unlabeled="more", unlabeled_fraction=0.5, labels_per_class=5)
        >>> for_evaluation(data) == DataConfig(path="photos", labels_per_class=5)
        True
    """
    place = data.path if path is None else path
    changes = {"path": place, "unlabeled": _unlabeled_inside(data, place), "unlabeled_fraction": None}
    return data.model_copy(update=changes)


def _unlabeled_inside(data: DataConfig, path: str) -> str | None:
    """The folder of unlabeled images, if it is inside of the data, which are now at ``path``, and exists."""
    if data.unlabeled is None or data.unlabeled == REST:
        return None
    folder, root = resolved(expanded(data.unlabeled)), resolved(expanded(data.path))
    if root not in folder.parents:
        return None
    inside = expanded(path) / folder.relative_to(root)
    return str(inside) if is_dir(inside) else None
