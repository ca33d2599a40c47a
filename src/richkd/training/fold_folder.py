"""The folder of all folds: what is checked, recorded and printed before the first teacher is trained."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from richkd.config.schema import Config
from richkd.config.teacher_run import recipe_of
from richkd.core.checksums import forget_hashes
from richkd.core.errors import CheckpointError, ConfigError
from richkd.core.home import expanded
from richkd.core.presence import resolved
from richkd.core.progress import Progress
from richkd.data.sources import open_data
from richkd.data.split import Data
from richkd.teachers.fold_record import RECORD, record_of
from richkd.training.fold_cost import cost_of
from richkd.training.fold_start import refuse_leaking_start, refuse_other_data
from richkd.training.remove_run import FOLDERS, remove_run
from richkd.training.run_folder import RunFolder

FOLD = re.compile(r"fold-(\d+)")


def prepare_folds(
    config: Config, folds: int, full: Path | None, *, resume: bool, overwrite: bool, quiet: bool
) -> None:
    """Check everything that concerns all folds, record the full teacher, and print the cost.

    Raises:
        ConfigError: a fold is already left out, ``full`` is the folder of the folds, or starting weights
            were trained on the images of a fold.
        CheckpointError: the folder has teachers of more folds, or ``full`` is no finished run.
        RichKDError: the data cannot be opened, or ``full`` was trained on other data.
    """
    progress = Progress(quiet=quiet)
    data = _open_whole(config, folds)
    _refuse_full_in_out(config, full)
    full_run = None if full is None else (expanded(full), recipe_of(full))
    if full_run is not None:
        refuse_other_data(data, full_run[0], progress.log)
    refuse_leaking_start(config, data, full_run and full_run[0])
    _clear_other_folds(config.out, folds, overwrite=overwrite and not resume)
    if not quiet:
        for line in cost_of(config, folds, data, full_run, resume=resume).lines():
            progress.log(line)
    if full_run is not None:
        # Paths that are relative to this folder are found again when it is moved.
        RunFolder(config.out).write_json(RECORD, record_of(full_run[0], config.out))


def _open_whole(config: Config, folds: int) -> Data:
    """The data without a fold that is left out; folds that cannot be left out are refused."""
    if config.data.exclude_fold is not None:
        fold, count = config.data.exclude_fold
        raise ConfigError(
            "Setting 'data.exclude_fold' has no effect with --folds, which leaves out each fold once",
            got=f"data.exclude_fold {fold} {count}",
            fix="remove data.exclude_fold, or --folds.",
        )
    open_data(config.data.model_copy(update={"exclude_fold": (0, folds)}), config.train.seed)
    return open_data(config.data, config.train.seed)


def _refuse_full_in_out(config: Config, full: Path | None) -> None:
    if full is not None and resolved(expanded(full)) == resolved(expanded(config.out)):
        raise ConfigError(
            "The teachers of folds need a folder of their own",
            got=f"--out {config.out}, the run of the full teacher",
            fix=f"use --out {config.out}-folds.",
        )


def _clear_other_folds(out: Path, folds: int, *, overwrite: bool) -> None:
    """Remove teachers of folds that this command does not train, which would be used with the new ones.

    Raises:
        CheckpointError: there are some, and ``overwrite`` is not set.
    """
    if not out.is_dir():
        return
    matches = ((FOLD.fullmatch(entry.name), entry) for entry in sorted(out.iterdir()) if entry.is_dir())
    others = [entry for match, entry in matches if match and int(match[1]) >= folds]
    if others and not overwrite:
        raise CheckpointError(
            f"--out {out} must not have teachers of more than {folds} folds",
            got=", ".join(entry.name for entry in others[:5]),
            fix="use the same --folds, replace all teachers with --overwrite, or choose another --out.",
        )
    for entry in others:
        remove_run(entry)
        for folder in (*(entry / name for name in FOLDERS), entry):
            with suppress(OSError):  # files of the user remain
                folder.rmdir()
    if overwrite:
        forget_hashes(out, [RECORD])
        (out / RECORD).unlink(missing_ok=True)
