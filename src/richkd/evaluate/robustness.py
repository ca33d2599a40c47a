"""Robustness of models to image corruptions: error rate and calibration by corruption and severity.

The mean corruption error (mCE) of a model f relative to a reference model is

    mean over corruptions c of  Σ_s E_f(c, s) / Σ_s E_ref(c, s)

with the error rate E(c, s) at severity s. A model with a lower clean error usually has a lower mCE, too. The
relative mCE subtracts the clean error of each model from its E, and so measures only the errors that the
corruptions add. Source: Hendrycks and Dietterich, ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from richkd.core.logs import Log
from richkd.data.split import Split
from richkd.evaluate.corruptions.corrupt import GROUPS, TEST
from richkd.evaluate.corruptions.severity import SEVERITIES
from richkd.evaluate.corruptions.stores import CorruptedStore, published_stores
from richkd.evaluate.predictors import FramedStores, Predictor, predict_all, stores_by_framing
from richkd.metrics.calibration import ece
from richkd.metrics.checks import Figures
from richkd.metrics.intervals import RESAMPLES, RESAMPLING_SEED, Interval, bootstrap_means, paired_bootstrap

# Completes "error rate on images …".
GENERATED = "corrupted by richkd (not CIFAR-C or ImageNet-C)"

Cells = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Robustness(Figures):
    """Error rates and calibrated ECE of one model on corrupted images; made by `measure_corrupted`.

    Attributes:
        name: name of the model.
        source: origin of the corrupted images, in words.
        reference: name of the reference model of both kinds of mCE.
        clean_error: error rate on the clean images.
        clean_ece: calibrated ECE on the clean images.
        errors: error rates by corruption, a tuple over severities 1 to 5.
        eces: calibrated ECE by corruption and severity.
        error: mean error rate over all corruptions and severities, with its interval over images.
        less_reference: difference of ``error`` to that of the reference model; None for the reference.
        mce: mean corruption error over the measured test corruptions; 1 for the reference itself; see `mce`
            for when it is None.
        relative_mce: the same after subtraction of the clean error.
    """

    name: str
    source: str
    reference: str
    clean_error: float
    clean_ece: float
    errors: Cells
    eces: Cells
    error: Interval
    less_reference: Interval | None
    mce: float | None
    relative_mce: float | None

    @property
    def ece(self) -> float:
        """Mean calibrated ECE over corruptions and severities."""
        return mean(value for row in self.eces.values() for value in row)

    def group_error(self, group: str) -> float | None:
        """Mean error rate over one of `GROUPS`, such as "noise"; None if none of it was measured."""
        rows = [self.errors[name] for name in GROUPS[group] if name in self.errors]
        return mean(value for row in rows for value in row) if rows else None


@dataclass
class _Tally:
    """Sums of one model over the corrupted images that were evaluated so far.

    ``errors_N`` counts how often the prediction of each image was incorrect.
    """

    errors: dict[str, list[float]]
    eces: dict[str, list[float]]
    errors_N: Tensor

    def add(self, name: str, logits_NC: Tensor, labels_N: Tensor, temperature: float) -> None:
        error_N = (logits_NC.argmax(dim=1) != labels_N).double()
        self.errors_N += error_N
        self.errors.setdefault(name, []).append(float(error_N.mean()))
        probs_NC = (logits_NC.double() / temperature).softmax(dim=1)
        self.eces.setdefault(name, []).append(ece(probs_NC, labels_N))


def measure_corrupted(
    predictors: Sequence[Predictor],
    split: Split,
    clean: Mapping[str, Tensor],
    temperatures: Mapping[str, float],
    device: torch.device,
    *,
    published: Path | None = None,
    corruptions: Sequence[str] = TEST,
    log: Log = lambda message: None,
) -> tuple[Robustness, ...]:
    """Evaluate models on all severities of each corruption. The first model is the reference of the mCE.

    Args:
        predictors: the models, which must compute from pixels.
        split: the clean images.
        clean: logits (N, C) of each model for the clean images.
        temperatures: temperature of each model.
        device: device on which the networks are.
        published: folder of published CIFAR-C files; None to generate the corruptions.
        corruptions: names of the corruptions.
        log: receives one line per finished corruption.

    Returns:
        One result per model, in the order of the predictors.

    Raises:
        DataError: published files are missing, or belong to other images.
    """
    labels_N = split.labels_N
    names = [name for predictor in predictors for name in predictor.names]
    tallies = {name: _Tally({}, {}, torch.zeros(len(labels_N)).double()) for name in names}
    originals = stores_by_framing(predictors, split)
    for number, name in enumerate(corruptions):
        for stores in _severities(name, originals, split, published):
            for model, output in predict_all(predictors, stores, device).items():
                tallies[model].add(name, output.logits_BC, labels_N, temperatures[model])
        log(f"corruption {number + 1} of {len(corruptions)} evaluated: {name}")
    source = GENERATED if published is None else f"read from {published}"
    return _results(tallies, clean, labels_N, temperatures, source)


def mce(errors: Cells, reference: Cells) -> float | None:
    """Mean over the test corruptions c of Σ_s E(c, s) / Σ_s E_ref(c, s).

    Corruptions that are not in `TEST`, such as those for validation, are left out. The result is None if no
    test corruption was measured, or if the reference makes no error on one of them.

    Example:
        >>> mce({"fog": (0.2, 0.4), "saturate": (0.9, 0.9)}, {"fog": (0.4, 0.8), "saturate": (0.1, 0.1)})
        0.5
    """
    totals = [(sum(row), sum(reference[name])) for name, row in errors.items() if name in TEST]
    if not totals or any(of_reference <= 0 for _, of_reference in totals):
        return None
    return mean(of_model / of_reference for of_model, of_reference in totals)


def relative_mce(errors: Cells, clean: float, reference: Cells, reference_clean: float) -> float | None:
    """The same as `mce`, after subtracting the clean error of each model from its errors.

    Example:
        >>> relative_mce({"fog": (0.5, 0.75)}, 0.25, {"fog": (0.75, 1.25)}, 0.25)
        0.5
    """
    return mce(_added_errors(errors, clean), _added_errors(reference, reference_clean))


def _added_errors(errors: Cells, clean: float) -> Cells:
    return {name: tuple(value - clean for value in row) for name, row in errors.items()}


def _severities(
    name: str, originals: FramedStores, split: Split, published: Path | None
) -> Iterator[FramedStores]:
    if published is not None:
        for store in published_stores(published, name, split):
            # Published images have one size, which all models then receive.
            yield dict.fromkeys(originals, store)
        return
    for severity in SEVERITIES:
        yield {framing: CorruptedStore(store, name, severity) for framing, store in originals.items()}


def _results(
    tallies: dict[str, _Tally],
    clean: Mapping[str, Tensor],
    labels_N: Tensor,
    temperatures: Mapping[str, float],
    source: str,
) -> tuple[Robustness, ...]:
    reference, first = next(iter(tallies.items()))
    clean_errors = {name: float((clean[name].argmax(dim=1) != labels_N).double().mean()) for name in tallies}
    first_cells = _cells(first.errors)
    result = []
    for name, tally in tallies.items():
        cells = _cells(tally.errors)
        count = sum(map(len, cells.values()))
        mean_N1, first_N1 = ((t.errors_N / count)[:, None] for t in (tally, first))
        (error,) = bootstrap_means(mean_N1, seed=RESAMPLING_SEED, resamples=RESAMPLES)
        (difference,) = paired_bootstrap(first_N1, mean_N1, seed=RESAMPLING_SEED, resamples=RESAMPLES)
        probs_NC = (clean[name].double() / temperatures[name]).softmax(dim=1)
        result.append(
            Robustness(
                name,
                source,
                reference,
                clean_errors[name],
                ece(probs_NC, labels_N),
                cells,
                _cells(tally.eces),
                error,
                None if name == reference else difference,
                mce(cells, first_cells),
                relative_mce(cells, clean_errors[name], first_cells, clean_errors[reference]),
            )
        )
    return tuple(result)


def _cells(values: dict[str, list[float]]) -> Cells:
    return {name: tuple(row) for name, row in values.items()}
