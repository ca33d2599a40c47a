"""Other pictures of the same classes: sketches, another camera, another year.

Classes are matched by name. Where a folder has some of the classes only, logits are cut down to them before
the softmax, and the images at home are judged on the same classes in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from richkd.core.errors import ClassError, DataError, nearest
from richkd.data.batches import open_store
from richkd.data.columns import as_split
from richkd.data.split import Split
from richkd.data.tables import WHOLE, open_tables, quiet
from richkd.evaluate.model_report import right_of
from richkd.evaluate.predictors import Predictor, predict_all
from richkd.metrics.calibration import ece
from richkd.metrics.checks import Figures
from richkd.metrics.intervals import Interval, bootstrap_means

SEED, RESAMPLES = 0, 1000


@dataclass(frozen=True)
class Shift(Figures):
    """One model on one folder of other pictures, beside the images at home of the same classes.

    ``accuracy`` and ``home_accuracy`` come with intervals over images; ``ece`` and ``home_ece`` are
    calibrated.
    """

    shift: str
    name: str
    images: int
    classes: int
    accuracy: Interval
    home_accuracy: Interval | None
    ece: float
    home_ece: float | None


def open_shift(path: str, class_names: Sequence[str]) -> Split:
    """All images of a folder of class folders or a parquet file (of its test split, where it has splits).

    Labels become positions in ``class_names``.

    Raises:
        DataError: no images, or splits without "test".
        ClassError: a class that the models do not know.
    """
    with quiet():
        tables = open_tables(path)
        table = tables.get(WHOLE, tables.get("test"))
        if table is None:
            raise DataError(
                f"{path} must be one folder of class folders, or have a test split",
                got=", ".join(tables),
                fix="give the folder whose images are to be judged.",
            )
        split = as_split(table, "shift", path, None, None, None)
    unknown = [name for name in split.class_names if name not in class_names]
    if unknown:
        raise ClassError(
            f"The classes of {path} must be some of the models' own",
            got=f"{len(unknown)} others, such as '{unknown[0]}'",
            fix=f"name folders as the models' classes. {nearest(unknown[0], class_names)}",
        )
    position_C = torch.tensor([list(class_names).index(name) for name in split.class_names])
    return replace(split, labels_N=position_C[split.labels_N], class_names=tuple(class_names))


def measure_shift(
    shift: str,
    path: str,
    predictors: Sequence[Predictor],
    home: Mapping[str, Tensor],
    temperatures: Mapping[str, float],
    home_labels_N: Tensor,
    class_names: Sequence[str],
    device: torch.device,
) -> tuple[Shift, ...]:
    """All models that look at pixels, on other pictures.

    Args:
        home: each model's logits (N, C) of the images at home.
        temperatures: what logits are divided by, by model.

    Raises:
        RichKDError: as `open_shift`, and for images that cannot be read.
    """
    split = open_shift(path, class_names)
    kept_K = torch.tensor(sorted(set(split.labels_N.tolist())))
    result = []
    for size in sorted({predictor.size for predictor in predictors}):
        alike = [predictor for predictor in predictors if predictor.size == size]
        for name, output in predict_all(alike, open_store(split, size), device).items():
            away = _judged(output.logits_BC, split.labels_N, kept_K, temperatures[name])
            assert away is not None
            at_home = _judged(home[name], home_labels_N, kept_K, temperatures[name])
            result.append(
                Shift(
                    shift,
                    name,
                    len(split),
                    len(kept_K),
                    away[0],
                    None if at_home is None else at_home[0],
                    away[1],
                    None if at_home is None else at_home[1],
                )
            )
    order = [name for predictor in predictors for name in predictor.names]
    return tuple(sorted(result, key=lambda row: order.index(row.name)))


def _judged(
    logits_NC: Tensor, labels_N: Tensor, kept_K: Tensor, temperature: float
) -> tuple[Interval, float] | None:
    """Accuracy and calibrated ECE on the images of some classes, among those classes; None without any."""
    of_kept_N = torch.isin(labels_N, kept_K)
    if not of_kept_N.any():
        return None
    logits_MK = logits_NC[of_kept_N][:, kept_K]
    labels_M = torch.searchsorted(kept_K, labels_N[of_kept_N])
    (accuracy,) = bootstrap_means(right_of(logits_MK, labels_M)[:, None], seed=SEED, resamples=RESAMPLES)
    return accuracy, ece((logits_MK.double() / temperature).softmax(dim=1), labels_M)
