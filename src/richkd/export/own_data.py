"""The data that a run was trained on, and its settings of them."""

from __future__ import annotations

from pathlib import Path

from richkd.config.evaluation_data import for_evaluation
from richkd.config.loading import load_config
from richkd.config.resumed import recorded_inputs
from richkd.config.schema import Config, DataConfig
from richkd.core.errors import DataError, RichKDError
from richkd.core.home import expanded
from richkd.core.presence import is_file, resolved
from richkd.data.digests import decoded, digests_of
from richkd.data.sources import open_data
from richkd.data.split import Data
from richkd.export.from_checkpoint import FOLDER, SUFFIX
from richkd.export.places import folder_of


def data_of(model: str, data: str | None = None) -> Data:
    """The given data, or those of a run; with the settings of the run if it was trained on them.

    Raises:
        DataError: no data are given and the model is not in the folder of a run, or they cannot be opened.
    """
    run = run_of(folder_of(model))
    if data is not None:
        return open_data(*as_trained(run, data))
    if not is_file(run / "config.yaml"):
        raise DataError(f"{run} has no config.yaml, which names the data", fix="give --data or --images.")
    config = load_config(run / "config.yaml")
    return open_data(for_evaluation(config.data), config.train.seed)


def run_of(model: Path) -> Path:
    """The run folder of a model: the folder itself, or that around ``student/`` or ``checkpoints/NAME.ckpt``.

    Example:
        >>> run_of(Path("runs/small/checkpoints/best.ckpt")).as_posix(), run_of(Path("runs/small")).as_posix()
        ('runs/small', 'runs/small')
    """
    if is_file(model / "config.yaml"):
        return model
    if model.suffix == SUFFIX and model.parent.name == FOLDER:
        return model.parent.parent
    return model.parent if is_file(model.parent / "config.yaml") else model


def as_trained(model: Path, data: str) -> tuple[DataConfig, int]:
    """Data settings and seed of the run that trained a model, if it used the same data; else the defaults.

    With these settings the splits are the same as in training, so no training image is in the test split.
    Data that were moved or copied are recognized by the digests of their test images. Those of more than 4 GB
    are digests of sizes and modification times, which `mv` and `rsync -a` keep.

    Example:
        >>> as_trained(Path("runs/small"), "photos")[0].path
        'photos'
    """
    for folder in (model, run_of(model)):
        if is_file(folder / "config.yaml"):
            config = load_config(folder / "config.yaml")
            if is_data_of(folder, config, data):
                return for_evaluation(config.data, data), config.train.seed
    return DataConfig(path=data), 0


def is_data_of(run: Path, config: Config, data: str) -> bool:
    """Whether data are those of a run: at its path, or with its test images.

    Args:
        run: the folder of the run.
        config: its settings.
        data: the data.

    Example:
        >>> config = load_config(overrides={"data.path": "photos", "student.name": "resnet18"})
        >>> is_data_of(Path("runs/small"), config, "./photos")
        True
    """
    if resolved(expanded(config.data.path)) == resolved(expanded(data)):
        return True
    return _is_moved(run, for_evaluation(config.data, data), config.train.seed)


def _is_moved(run: Path, settings: DataConfig, seed: int) -> bool:
    """Whether the settings of a run give the test images that it recorded, from another path."""
    try:
        recorded = recorded_inputs(run)
        then_N = decoded(recorded["splits"]["test"])
        test = open_data(settings, seed).splits["test"]
        now_N = digests_of(test, hashed=recorded["hashed"])
        return len(now_N) == len(then_N) and bool((now_N == then_N).all())
    except (RichKDError, LookupError, TypeError, ValueError):
        # Other data need not fit the settings of the run.
        return False
