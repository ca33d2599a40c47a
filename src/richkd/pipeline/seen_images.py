"""Refuse models that were trained on the images on which they, or a student of theirs, are tested.

Where a data set has no test split of its own, the seed of a run divides it. A run with another seed has other
test images, and most of them are training images of the first run. Each run records a digest of every image,
so its images are found wherever they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richkd.config.resumed import is_run, recorded_inputs
from richkd.config.schema import Config
from richkd.core.errors import DataError
from richkd.core.home import expanded
from richkd.core.logs import Log
from richkd.core.presence import resolved
from richkd.core.visible import counted
from richkd.data.digests import decoded, digests_of
from richkd.data.split import Data, Split
from richkd.pipeline.named_files import files_of_models
from richkd.teachers.cache.manifest import MANIFEST

# Depth of a file of weights in its run folder, at most.
DEPTH = 3


@dataclass(frozen=True)
class Seen:
    """The images of a run, as digests of their files; made by `seen_by`.

    Attributes:
        run: the run folder.
        splits: a digest of each image (N,) by split.
    """

    run: Path
    splits: dict[str, NDArray[np.uint64]]

    def other_than(self, split: Split) -> NDArray[np.intp]:
        """Positions of the images of a split that are in a split of another name in the run.

        Copies that the data of the run have in both of its splits are not counted.

        Raises:
            DataError: a file of the split is gone or cannot be read.
        """
        names = [name for name in self.splits if name != split.name]
        return np.flatnonzero(self.holds(digests_of(split, hashed=True), split.name, names))

    def holds(self, digest_N: NDArray[np.uint64], split: str, names: Sequence[str]) -> NDArray[np.bool_]:
        """Whether images (N) are in the named splits of the run, and not in its split named ``split``."""
        none = np.zeros(0, np.uint64)
        others = np.concatenate([none, *(self.splits[name] for name in names if name in self.splits)])
        return np.isin(digest_N, others) & ~np.isin(digest_N, self.splits.get(split, none))


def run_around(file: Path) -> Path | None:
    """The run folder that a file of weights lies in, for example in ``student/`` or ``checkpoints/``.

    Example:
        >>> run_around(Path("nowhere/student/model.safetensors")) is None
        True
    """
    path = resolved(expanded(file))
    return next((folder for folder in (path, *path.parents[:DEPTH]) if is_run(folder)), None)


def seen_by(file: Path) -> Seen | None:
    """The images of the run that a model comes from.

    Args:
        file: a run folder, or a file or folder of weights in it.

    Returns:
        None if the model is in no run folder, or if the run has no digests of the content of its images, as
        with very large data sets.

    Example:
        >>> seen_by(Path("nowhere")) is None
        True
    """
    run = run_around(file)
    if run is None:
        return None
    recorded = recorded_inputs(run)
    try:
        splits = {name: decoded(split) for name, split in recorded["splits"].items()}
        return Seen(run, splits) if recorded["hashed"] else None
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def refuse_leaking_models(config: Config, data: Data, log: Log) -> None:
    """Check that no teacher, and no student to start from, was trained on images that this run holds out.

    Args:
        config: the settings, which name the models.
        data: the images of the run.
        log: receives a warning for a model that was trained on images on which this run fits.

    Raises:
        DataError: a model was trained on test images of the run; the message names both.
    """
    models: dict[Path, tuple[str, Seen]] = {}
    for setting, files in files_of_models(config):
        # A teacher cache can lie in the folder of any run, which says nothing about imported outputs in it.
        weights = [file for file in files if file.name != MANIFEST]
        for seen in filter(None, map(seen_by, weights)):
            models.setdefault(seen.run, (setting, seen))
    held_out = [split for name, split in data.splits.items() if name != "train"]
    # Without such a model, no file is read.
    for split in held_out if models else ():
        digest_N = digests_of(split, hashed=True)
        for setting, seen in models.values():
            learned_N = seen.holds(digest_N, split.name, ["train"])
            if learned_N.any() and "train" in data.splits:
                # Copies that the data have in train, too, are no leak.
                learned_N &= ~np.isin(digest_N, digests_of(data.splits["train"], hashed=True))
            if learned_N.any():
                _report(setting, seen, split, np.flatnonzero(learned_N), log)


def _report(setting: str, seen: Seen, split: Split, positions: NDArray[np.intp], log: Log) -> None:
    images = f"{len(positions):,} of {counted(len(split), 'image')} of {split.name}"
    fix = "train it with the --seed and the settings of the data of this run, which divide them"
    if split.name == "test":
        raise DataError(
            f"{setting} must not be trained on test images of this run",
            got=f"{images}, first {split.key(int(positions[0]))}, are training images of {seen.run}",
            fix=f"{fix}, or give data with a test split of their own.",
        )
    log(f"warning: {setting} was trained on {images}, on which this run fits ({seen.run}): {fix}")
