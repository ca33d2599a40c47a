"""Open data sets of the Hugging Face hub."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import datasets
import huggingface_hub

from richkd.core.errors import DataError
from richkd.core.home import expanded
from richkd.core.logs import logger_of
from richkd.core.presence import is_dir, resolved
from richkd.data.formats.hub_parquet import open_downloaded, open_remote
from richkd.data.formats.listing_files import LISTING_SUFFIXES
from richkd.data.formats.outside import is_inside, named_files
from richkd.data.formats.scan import SPLIT_NAMES, WHOLE, contents, first_few
from richkd.data.remote import is_remote
from richkd.data.slices import refuse_slices

DATA_SUFFIXES = frozenset({".parquet", ".tar", *LISTING_SUFFIXES})

logger = logger_of(__name__)


def open_hub(path: str) -> dict[str, datasets.Dataset]:
    """Open the train, validation and test splits of a data set of the Hugging Face hub.

    Args:
        path: name of the data set, or ``hf://datasets/`` and its name: then nothing is stored on disk.

    Returns:
        Tables by split, or one table named `WHOLE` if the only split has another name.

    Raises:
        DataError: as `load_hub`; or two splits mean the same one, or none has a known name.

    Example:
        >>> try:
        ...     open_hub("./no-such-folder")
        ... except DataError as error:
        ...     error.got
        'no such folder'
    """
    result = load_hub(path)
    if len(result) == 1 and not SPLIT_NAMES.get(next(iter(result)).lower()):
        return {WHOLE: next(iter(result.values()))}
    splits: dict[str, datasets.Dataset] = {}
    names: dict[str, str] = {}
    for name, table in result.items():
        split = SPLIT_NAMES.get(name.lower())
        if split in names:
            rule = f"The data set {path} must have one split for each of train, validation and test"
            fix = "download it, and give a folder of the splits that you want."
            raise DataError(rule, got=f"{names[split]} and {name}", fix=fix)
        if split is not None:
            names[split], splits[split] = name, table
    if not splits:
        rule = f"The data set {path} must have a train, validation or test split, or only one split"
        fix = "download it, and give a folder of the splits that you want, named train and test."
        raise DataError(rule, got=", ".join(result), fix=fix)
    if len(splits) < len(result):
        logger.warning(
            "%s: only the train, validation and test splits are used, not all of %s", path, ", ".join(result)
        )
    return splits


def _names_in(folder: Path) -> list[str]:
    """Names of the folders and of the files that may be data."""
    entries = contents(folder)
    files = (file for file in entries.files if file.suffix.lower() in DATA_SUFFIXES)
    return [path.name for path in (*entries.folders, *files)]


def load_hub(path: str) -> dict[str, datasets.Dataset]:
    """Open all splits of a data set of the Hugging Face hub.

    Args:
        path: name of the data set with its owner, such as ``"uoft-cs/cifar100"``; or ``hf://datasets/`` and
            this name: then images are read over the network, and not stored on disk.

    Returns:
        Tables by the names of the splits on the hub.

    Raises:
        DataError: no such data set, no network, or ``path`` is written like a local folder, which does not
            exist, or has no owner. The message lists local folders and files with similar names.

    Example:
        >>> try:
        ...     load_hub("./no-such-folder")
        ... except DataError as error:
        ...     error.rule
        'The data folder ./no-such-folder must exist'
    """
    if is_remote(path):
        return open_remote(path)
    parent = expanded(path).parent
    near = _names_in(parent) if is_dir(parent) else []
    close = difflib.get_close_matches(Path(path).name, near, n=3, cutoff=0.5)
    hint = f" Similar names: {', '.join(str(parent / name) for name in close)}." if close else ""
    is_file = Path(path).suffix.lower() in DATA_SUFFIXES
    local = re.match(r"[/~.]", path) or path.count("/") > 1 or ("/" in path and is_dir(parent))
    local = local or "\\" in path
    # A mistyped folder would wait for the network.
    if is_file or local or "/" not in path:
        form = "" if is_file or local else " A data set of the hub is OWNER/NAME."
        raise DataError(
            f"The data {'file' if is_file else 'folder'} {path} must exist",
            got=f"no such {'file' if is_file else 'folder'}",
            fix=f"check the path.{hint}{form}",
        )
    try:
        result = open_downloaded(path)
        if result is None:
            result = dict(datasets.load_dataset(path))
            _refuse_other_files(path, result)
        return result
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"'{path}' is no local folder and cannot be opened as a data set of the Hugging Face hub",
            got=str(error).splitlines()[0],
            fix=f"check the name and the network, or set the path of a local folder.{hint}",
        ) from error


def _refuse_other_files(path: str, tables: Mapping[str, datasets.Dataset]) -> None:
    """Images without bytes must be files that were downloaded, and no others of this machine."""
    constants = huggingface_hub.constants
    places = (constants.HF_HOME, constants.HF_HUB_CACHE, str(datasets.config.HF_DATASETS_CACHE))
    roots, known = [resolved(place) for place in places], dict[str, str]()
    for rows in tables.values():
        refuse_slices(rows, f"The data set {path}")
        for name in rows.column_names:
            named = named_files(rows, name).values()
            outside = [file for file in named if not is_inside(Path(file), roots, known)]
            if outside:
                raise DataError(
                    f"The images of '{path}' must be part of the data set",
                    got=f"{len(outside)} other files of this machine: {first_few(outside)}",
                    fix="use another data set, and tell the owner of this one.",
                )


@contextmanager
def quiet() -> Iterator[None]:
    """Disable the progress bars of the ``datasets`` library, which are a setting of the whole process.

    Example:
        >>> with quiet():
        ...     datasets.are_progress_bars_disabled()
        True
    """
    was_silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not was_silent:
            datasets.enable_progress_bars()
