"""How much of its accuracy, and of its honesty, a model keeps on corrupted images.

Errors are kept by corruption and severity. ``mCE`` of a model f beside a reference is

    mean over corruptions c of  Σ_s E_f(c, s) / Σ_s E_ref(c, s)

(Hendrycks and Dietterich, ICLR 2019). It falls whenever clean accuracy rises, so the relative form, with the
clean error taken off every E, stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from richkd.data.batches import Store, open_store
from richkd.data.split import Split
from richkd.evaluate.corruptions.corrupt import GROUPS, TEST
from richkd.evaluate.corruptions.severity import SEVERITIES
from richkd.evaluate.corruptions.stores import CorruptedStore, published_stores
from richkd.evaluate.predictors import Predictor, predict_all
from richkd.metrics.calibration import ece
from richkd.metrics.checks import Figures
from richkd.metrics.intervals import Interval, bootstrap_means, paired_bootstrap

SEED, RESAMPLES = 0, 1000
OWN = "corrupted by richkd (not CIFAR-C or ImageNet-C)"

Cells = dict[str, tuple[float, ...]]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Robustness(Figures):
    """One model on corrupted images: shares of wrong answers and calibrated ECE, by corruption and severity.

    Attributes:
        source: where the corrupted images come from.
        clean_error, clean_ece: the same on the images as they are.
        errors, eces: a tuple over severities 1 to 5 for each corruption.
        error: mean over all of them, with its interval over images.
        less_reference: that mean less the reference's; None for the reference itself.
        mce, relative_mce: over the test corruptions that were measured, relative to the reference, so 1 for
            the reference itself; see `mce` for when they are None.
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
        """Mean error of one group of corruptions, where it was measured."""
        rows = [self.errors[name] for name in GROUPS[group] if name in self.errors]
        return mean(value for row in rows for value in row) if rows else None


@dataclass
class _Tally:
    """What one model has got wrong so far."""

    errors: dict[str, list[float]]
    eces: dict[str, list[float]]
    wrong_N: Tensor

    def add(self, name: str, logits_NC: Tensor, labels_N: Tensor, temperature: float) -> None:
        wrong_N = (logits_NC.argmax(dim=1) != labels_N).double()
        self.wrong_N += wrong_N
        self.errors.setdefault(name, []).append(float(wrong_N.mean()))
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
    """All models that look at pixels, on each corruption and severity; the first is everybody's reference.

    Args:
        clean: each model's logits (N, C) of the images as they are.
        temperatures: what they are divided by, by model.
        published: a folder of CIFAR-C files instead of corruptions made here.
        say: told of each corruption that is done.

    Raises:
        DataError: published files that are missing or of other images.
    """
    labels_N = split.labels_N
    seeing = [name for predictor in predictors for name in predictor.names]
    tallies = {name: _Tally({}, {}, torch.zeros(len(labels_N)).double()) for name in seeing}
    originals = {
        size: open_store(split, size) for size in sorted({predictor.size for predictor in predictors})
    }
    for number, name in enumerate(corruptions):
        for stores in _severities(name, originals, split, published):
            for size, store in stores.items():
                alike = [
                    predictor for predictor in predictors if published is not None or predictor.size == size
                ]
                for model, output in predict_all(alike, store, device).items():
                    tallies[model].add(name, output.logits_BC, labels_N, temperatures[model])
        log(f"{name}, {number + 1} of {len(corruptions)} corruptions")
    source = OWN if published is None else f"the files in {published}"
    return _summed(tallies, clean, labels_N, temperatures, source)


def mce(errors: Cells, reference: Cells) -> float | None:
    """Mean over the test corruptions c of Σ_s E(c, s) / Σ_s E_ref(c, s).

    Corruptions that are not in `TEST`, such as those for validation, are left out. The result is None if no
    test corruption was measured, or if the reference makes no error on one of them.

    Example:
        >>> mce({"fog": (0.2, 0.4), "saturate": (0.9, 0.9)}, {"fog": (0.4, 0.8), "saturate": (0.1, 0.1)})
        0.5
    """
    totals = [(sum(row), sum(reference[name])) for name, row in errors.items() if name in TEST]
    if not totals or any(below <= 0 for _, below in totals):
        return None
    return mean(own / below for own, below in totals)


def relative_mce(errors: Cells, clean: float, reference: Cells, reference_clean: float) -> float | None:
    """The same as `mce`, after subtracting the clean error of each model from its errors.

    Example:
        >>> relative_mce({"fog": (0.5, 0.75)}, 0.25, {"fog": (0.75, 1.25)}, 0.25)
        0.5
    """
    return mce(_beyond(errors, clean), _beyond(reference, reference_clean))


def _beyond(errors: Cells, clean: float) -> Cells:
    return {name: tuple(value - clean for value in row) for name, row in errors.items()}


def _severities(
    name: str, originals: dict[int, Store], split: Split, published: Path | None
) -> Iterator[dict[int, Store]]:
    if published is not None:
        for store in published_stores(published, name, split):
            yield {store.size: store}
        return
    for severity in SEVERITIES:
        yield {size: CorruptedStore(store, name, severity) for size, store in originals.items()}


def _summed(
    tallies: dict[str, _Tally],
    clean: Mapping[str, Tensor],
    labels_N: Tensor,
    temperatures: Mapping[str, float],
    source: str,
) -> tuple[Robustness, ...]:
    reference, first = next(iter(tallies.items()))
    wrong = {name: float((clean[name].argmax(dim=1) != labels_N).double().mean()) for name in tallies}
    first_cells = _cells(first.errors)
    result = []
    for name, tally in tallies.items():
        cells = _cells(tally.errors)
        count = sum(map(len, cells.values()))
        mean_N1, first_N1 = ((t.wrong_N / count)[:, None] for t in (tally, first))
        (error,) = bootstrap_means(mean_N1, seed=SEED, resamples=RESAMPLES)
        (less,) = paired_bootstrap(first_N1, mean_N1, seed=SEED, resamples=RESAMPLES)
        probs_NC = (clean[name].double() / temperatures[name]).softmax(dim=1)
        result.append(
            Robustness(
                name,
                source,
                reference,
                wrong[name],
                ece(probs_NC, labels_N),
                cells,
                _cells(tally.eces),
                error,
                None if name == reference else less,
                mce(cells, first_cells),
                relative_mce(cells, wrong[name], first_cells, wrong[reference]),
            )
        )
    return tuple(result)


def _cells(values: dict[str, list[float]]) -> Cells:
    return {name: tuple(row) for name, row in values.items()}
