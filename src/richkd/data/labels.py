"""Use the labels of only a few training images of each class, for studies with few labels.

Which images keep their labels follows from their keys alone. So all seeds and methods of a study use the same
labels, and the labels of a smaller number are among those of a larger one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from richkd.config.schema import REST, DataConfig
from richkd.core.errors import ConfigError, DataError
from richkd.core.logs import logger_of
from richkd.core.seeds import mix_seed
from richkd.core.types import UNLABELED
from richkd.data.formats.scan import first_few
from richkd.data.split import Split

# Fixed, so that runs with different seeds learn from the same labels.
LABEL_SEED = 0

logger = logger_of(__name__)


def refuse_rest_of_all(config: DataConfig) -> None:
    """Refuse ``unlabeled: rest`` if the labels of all images are used, so that there is no rest.

    Raises:
        ConfigError: ``labels_per_class`` is not set.

    Example:
        >>> refuse_rest_of_all(DataConfig(path="photos", unlabeled="rest", labels_per_class=5))
    """
    if config.unlabeled == REST and config.labels_per_class is None:
        raise ConfigError(
            f"data.unlabeled {REST} needs data.labels_per_class",
            got="labels of all training images are used",
            fix=f"add --data.labels_per_class N, or remove --unlabeled; a folder named {REST} is ./{REST}.",
        )


def labeled_images(split: Split, per_class: int) -> NDArray[np.int64]:
    """Choose the images of every class whose labels are used.

    The images of a class are ordered by ``mix_seed(0, "labels", key)``, and the first ``per_class`` are
    chosen; a class with fewer images keeps all. So the result depends on the keys of the images only, not on
    their order, and an image that is added to a class replaces at most one other.

    Args:
        split: labeled images.
        per_class: number of images of each class, at least 1.

    Returns:
        Positions of the chosen images, in ascending order.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 6})
        >>> split = Split("train", rows, torch.tensor([0, 1, 0, 1, 0, 1]), ("ant", "bee"), "image", None)
        >>> index_N = labeled_images(split, 2)
        >>> split.labels_N[index_N].tolist().count(0), len(index_N)
        (2, 4)
    """
    labels_N, keys = split.labels_N.numpy(), split.keys()
    rank_N = np.array([mix_seed(LABEL_SEED, "labels", key) for key in keys], dtype=np.int64)
    order_N = np.lexsort((rank_N, labels_N))
    first_N = np.searchsorted(labels_N[order_N], labels_N[order_N], side="left")
    place_N = np.arange(len(order_N)) - first_N
    return np.sort(order_N[place_N < per_class])


def with_few_labels(splits: dict[str, Split], config: DataConfig) -> Split:
    """The training split with the labels of ``config.labels_per_class`` images of each class.

    The other images have the label `UNLABELED` and keep their places if ``config.unlabeled`` is ``rest``, so
    that stored outputs of teachers are those of a run with all labels. Else they are left out. Classes with
    too few images are logged.

    Raises:
        DataError: there is no training split.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 3})
        >>> train = Split("train", rows, torch.tensor([0, 0, 1]), ("ant", "bee"), "image", None)
        >>> config = DataConfig(path="insects", labels_per_class=1, unlabeled="rest")
        >>> with_few_labels({"train": train}, config).labels_N.tolist()
        [0, -1, 1]
    """
    assert config.labels_per_class is not None
    if "train" not in splits:
        raise DataError(
            f"data.labels_per_class needs a training split in {config.path}",
            got=f"only {', '.join(splits)}",
            fix="remove this setting, or set data.path to a source with training images.",
        )
    train = splits["train"]
    _log_small_classes(train, config.labels_per_class, config.path)
    index_N = labeled_images(train, config.labels_per_class)
    if len(index_N) == len(train):
        return train
    if config.unlabeled != REST:
        return train.select(train.name, index_N)
    labels_N = torch.full_like(train.labels_N, UNLABELED)
    labels_N[index_N] = train.labels_N[index_N]
    return replace(train, labels_N=labels_N)


def _log_small_classes(train: Split, per_class: int, path: str) -> None:
    counts_C = torch.bincount(train.labels_N, minlength=len(train.class_names)).tolist()
    small = [name for name, count in zip(train.class_names, counts_C, strict=True) if count < per_class]
    if small:
        logger.warning(
            "%s: classes with fewer than %s training images keep all labels (%s of %s): %s",
            path,
            per_class,
            len(small),
            len(train.class_names),
            first_few(small),
        )
