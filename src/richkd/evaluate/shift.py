"""Evaluation under distribution shift: other images of the same classes, such as sketches or another camera.

Classes are matched by name. If the shifted images have only some of the classes, only the logits of these
classes are used, before the softmax. The in-distribution images of these classes are evaluated in the same
way, so that both accuracies can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from richkd.core.errors import ClassError, DataError
from richkd.core.home import expanded
from richkd.core.presence import is_dir
from richkd.data.class_text import hint_at_class, normalized
from richkd.data.columns import DETECTED, Columns, as_split
from richkd.data.formats.hub import quiet
from richkd.data.formats.scan import WHOLE
from richkd.data.split import Split
from richkd.data.tables import open_tables
from richkd.evaluate.model_report import correct_of
from richkd.evaluate.predictors import Predictor, predict_all, stores_by_framing
from richkd.metrics.calibration import ece
from richkd.metrics.checks import Figures
from richkd.metrics.intervals import RESAMPLES, RESAMPLING_SEED, Interval, bootstrap_means


@dataclass(frozen=True)
class Shift(Figures):
    """Metrics of one model on shifted images and on in-distribution images; made by `measure_shift`.

    Attributes:
        shift: name of the set of shifted images.
        name: name of the model.
        images: number of shifted images.
        classes: number of classes that have shifted images; both accuracies are over these classes.
        accuracy: accuracy on the shifted images, with its interval.
        home_accuracy: accuracy on the in-distribution images of the same classes, with its interval; None
            if there are none.
        ece: calibrated ECE on the shifted images.
        home_ece: calibrated ECE on the in-distribution images of the same classes.
    """

    shift: str
    name: str
    images: int
    classes: int
    accuracy: Interval
    home_accuracy: Interval | None
    ece: float
    home_ece: float | None


def open_shift(
    path: str,
    class_names: Sequence[str] | None,
    columns: Columns = DETECTED,
    source_names: Sequence[str] = (),
) -> Split:
    """Open shifted images from any source that `open_tables` reads; of data with splits, the test split.

    Args:
        path: the folder or file.
        class_names: classes of the models; None if they are not known, for a check of the images alone.
        columns: names of columns of the in-distribution data; those that this source lacks do not count.
        source_names: names of the classes in the in-distribution data, in the same order, if a file of class
            names replaced them. The shifted images may have these names, too.

    Returns:
        The images as a split. The labels are positions in ``class_names``.

    Raises:
        DataError: there are no images, or images of one class only, or there are splits but no test split.
        ClassError: a class is not one of ``class_names``, and not all are of ``source_names``.
    """
    columns = replace(columns, optional=True)
    with quiet():
        # Nested classes are named by their paths.
        nested = any("/" in name for name in (*(class_names or ()), *source_names))
        tables = open_tables(path, columns=columns, nested=nested and is_dir(expanded(path)))
        table = tables.get(WHOLE, tables.get("test"))
        if table is None:
            raise DataError(
                f"{path} must be one folder of class folders, or have a test split",
                got=f"splits {', '.join(tables)}",
                fix="give the folder of the split that must be evaluated.",
            )
        # Messages name the split, and there can be several sets of shifted images.
        split = as_split(table, f"shift {path}", path, columns)
    _refuse_one_class(split, path)
    if class_names is None:
        return split
    class_names, source_names = [*map(normalized, class_names)], [*map(normalized, source_names)]
    fitting = (names for names in (class_names, source_names) if set(split.class_names) <= set(names))
    known = next(fitting, class_names)
    unknown = [name for name in split.class_names if name not in known]
    if unknown:
        raise ClassError(
            f"The classes of {path} must be classes of the models",
            got=f"{len(unknown)} other classes, such as '{unknown[0]}'",
            fix=f"name the folders like the classes of the models. {hint_at_class(unknown[0], class_names)}",
        )
    position_C = torch.tensor([known.index(name) for name in split.class_names])
    return replace(split, labels_N=position_C[split.labels_N], class_names=tuple(class_names))


def _refuse_one_class(split: Split, path: str) -> None:
    """Refuse images of a single class: over the logits of this class alone, every prediction is correct."""
    labels = set(split.labels_N.tolist())
    if len(labels) < 2:
        raise DataError(
            f"{path} must have images of at least two classes",
            got=f"images of '{split.class_names[labels.pop()]}' only",
            fix="add images of another class, because the accuracy over one class is always 100 %.",
        )


def measure_shift(
    shift: str,
    split: Split,
    predictors: Sequence[Predictor],
    home: Mapping[str, Tensor],
    temperatures: Mapping[str, float],
    home_labels_N: Tensor,
    device: torch.device,
) -> tuple[Shift, ...]:
    """Evaluate models on shifted images.

    Args:
        shift: name of the set of shifted images.
        split: the images, from `open_shift`.
        predictors: the models, which must compute from pixels.
        home: logits (N, C) of each model for the in-distribution images.
        temperatures: temperature of each model.
        home_labels_N: labels of the in-distribution images.
        device: device on which the networks are.

    Returns:
        One result per model, in the order of the predictors.

    Raises:
        ImageError: an image cannot be read.
    """
    kept_K = torch.tensor(sorted(set(split.labels_N.tolist())))
    result = []
    for name, output in predict_all(predictors, stores_by_framing(predictors, split), device).items():
        shifted = _measure(output.logits_BC, split.labels_N, kept_K, temperatures[name])
        assert shifted is not None
        in_distribution = _measure(home[name], home_labels_N, kept_K, temperatures[name])
        result.append(
            Shift(
                shift,
                name,
                len(split),
                len(kept_K),
                shifted[0],
                None if in_distribution is None else in_distribution[0],
                shifted[1],
                None if in_distribution is None else in_distribution[1],
            )
        )
    return tuple(result)


def _measure(
    logits_NC: Tensor, labels_N: Tensor, kept_K: Tensor, temperature: float
) -> tuple[Interval, float] | None:
    """Accuracy and calibrated ECE on the images of the kept classes (K), over these classes only.

    None if there are no such images.
    """
    of_kept_N = torch.isin(labels_N, kept_K)
    if not of_kept_N.any():
        return None
    logits_MK = logits_NC[of_kept_N][:, kept_K]
    labels_M = torch.searchsorted(kept_K, labels_N[of_kept_N])
    (accuracy,) = bootstrap_means(
        correct_of(logits_MK, labels_M)[:, None], seed=RESAMPLING_SEED, resamples=RESAMPLES
    )
    return accuracy, ece((logits_MK.double() / temperature).softmax(dim=1), labels_M)
