"""The data of a run: opened and announced, and which images make up each step."""

from __future__ import annotations

from richkd.config.schema import REST, Config
from richkd.core.logs import Log
from richkd.core.types import UNLABELED
from richkd.data.order import TrainingOrder
from richkd.data.sources import open_data
from richkd.data.split import Data
from richkd.data.unlabeled import refuse_tested


def open_run_data(config: Config, log: Log) -> Data:
    """Open the data of a run, and say how many images and labels there are.

    Raises:
        RichKDError: see :func:`~richkd.data.sources.open_data`; or an image of a source without labels is
            also a held-out one.
    """
    data = open_data(config.data, config.train.seed)
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    log(f"data: {data.path}, {len(data.class_names)} classes, {sizes}")
    # Images of the data themselves would be trained on in any case; `richkd check` compares these.
    if config.data.unlabeled not in (None, REST):
        refuse_tested(data, config.train.workers)
    _log_labels(config, data, log)
    return data


def order_of(config: Config, data: Data) -> TrainingOrder:
    """Which images make up each step of a run, over all processes.

    Raises:
        DataError: fewer than two training images.
    """
    unlabeled_N, settings = data.splits["train"].labels_N == UNLABELED, config.train
    return TrainingOrder(
        len(unlabeled_N),
        settings.batch_size,
        settings.seed,
        unlabeled=int(unlabeled_N.sum()),
        share=config.data.unlabeled_fraction,
        by_kind_N=unlabeled_N.long().argsort(stable=True),
    )


def _log_labels(config: Config, data: Data, log: Log) -> None:
    """Say how many training images have labels, where they are not all."""
    per_class, source = config.data.labels_per_class, config.data.unlabeled
    if per_class is None and source is None:
        return
    labels_N = data.splits["train"].labels_N
    count = int((labels_N == UNLABELED).sum())
    if per_class is not None:
        log(f"labels: those of {len(labels_N) - count:,} training images, at most {per_class:,} of a class")
    if source is not None:
        origin = "whose labels are not used" if source == REST else f"from {source}"
        log(f"unlabeled: {count:,} of the training images, {origin}")
