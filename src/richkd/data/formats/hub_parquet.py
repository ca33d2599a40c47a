"""Data sets of the Hugging Face hub in parquet files: downloaded without a second copy, or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import datasets

from richkd.core.errors import DataError
from richkd.core.visible import one_line
from richkd.core.waiting import still
from richkd.data.formats.parquet import open_parquet
from richkd.data.formats.parquet_rows import GROUP, column_of_images, open_in_place
from richkd.data.remote import SCHEME

DATASETS = f"{SCHEME}datasets/"
# As the library `datasets` names the files of a split that it uploads.
SHARD = re.compile(r"(?P<split>\w+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet")
URI = re.compile(re.escape(DATASETS) + r"(?P<name>[\w.-]+/[\w.-]+)")


@dataclass(frozen=True)
class HubFiles:
    """The parquet files of a data set of the hub.

    Attributes:
        name: its name.
        revision: the version.
        splits: names of the files, by split.
    """

    name: str
    revision: str
    splits: dict[str, list[str]]

    def uris(self, split: str) -> list[str]:
        """The names of the files of a split, with which they can be read over the network.

        Example:
            >>> HubFiles("jane/birds", "1a2b", {"train": ["train-00000-of-00001.parquet"]}).uris("train")
            ['hf://datasets/jane/birds@1a2b/train-00000-of-00001.parquet']
        """
        return [f"{DATASETS}{self.name}@{self.revision}/{file}" for file in self.splits[split]]


def list_files(name: str) -> HubFiles | None:
    """The parquet files of a data set of the hub; None if its splits do not follow from their names.

    Raises:
        OSError, ValueError, RuntimeError: no such data set, or no network.

    Example:
        >>> try:
        ...     list_files("not a name")
        ... except ValueError as error:
        ...     print(type(error).__name__)
        HFValidationError
    """
    import huggingface_hub

    info = huggingface_hub.HfApi().dataset_info(name)
    splits = splits_of([file.rfilename for file in info.siblings or ()])
    return None if splits is None else HubFiles(name, str(info.sha), splits)


def splits_of(files: Sequence[str]) -> dict[str, list[str]] | None:
    """The parquet files of each split, in order; None if their names do not tell, or some are missing.

    Example:
        >>> splits_of(["data/train-00000-of-00002.parquet", "README.md"]) is None  # the second one is missing
        True
        >>> splits_of(["test-00000-of-00001.parquet"])
        {'test': ['test-00000-of-00001.parquet']}
    """
    parquet = [PurePosixPath(file) for file in sorted(files) if file.endswith(".parquet")]
    # Other folders are other versions of the data, one of which the user would have to choose.
    if len({file.parent for file in parquet}) != 1:
        return None
    splits: dict[str, list[str]] = {}
    for file in parquet:
        match = SHARD.fullmatch(file.name)
        if match is None:
            return None
        shards = splits.setdefault(match["split"], [])
        if int(match["number"]) != len(shards):
            return None
        shards.append(str(file))
    complete = all(names[-1].endswith(f"-of-{len(names):05}.parquet") for names in splits.values())
    return splits if complete else None


def open_downloaded(name: str) -> dict[str, datasets.Dataset] | None:
    """The splits of a data set whose files are downloaded, and whose images are read where they are.

    Args:
        name: name of the data set on the hub.

    Returns:
        Tables by split; None if its images have to be copied, or if it cannot be listed.

    Raises:
        DataError: a file cannot be read.

    Example:
        >>> open_downloaded("not a name") is None
        True
    """
    files = _download(name)
    if not files or any(column_of_images(paths) is None for paths in files.values()):
        return None
    return {split: open_parquet(paths) for split, paths in files.items()}


def _download(name: str) -> dict[str, list[Path]] | None:
    """The files of each split, which are downloaded unless they were before; None if there are none."""
    import huggingface_hub

    try:
        hub_files = list_files(name)
        if hub_files is None:
            return None
        names = [file for files in hub_files.splits.values() for file in files]
        folder = huggingface_hub.snapshot_download(name, repo_type="dataset", allow_patterns=names)
        return {split: [Path(folder, file) for file in files] for split, files in hub_files.splits.items()}
    # Errors of the network are those of an HTTP library. Without files, the caller asks again and says why.
    except Exception:
        return _kept(name)


def _kept(name: str) -> dict[str, list[Path]] | None:
    """The files that were downloaded before; None if some are missing."""
    import huggingface_hub

    try:
        find = huggingface_hub.snapshot_download
        how: dict[str, Any] = {"repo_type": "dataset", "allow_patterns": "*.parquet"}
        folder = Path(find(name, local_files_only=True, **how))
    except (OSError, ValueError):
        return None
    files = [file.relative_to(folder).as_posix() for file in folder.rglob("*.parquet")]
    splits = splits_of(files) or {}
    return {split: [folder / file for file in names] for split, names in splits.items()} or None


def open_remote(uri: str) -> dict[str, datasets.Dataset]:
    """The splits of a data set whose images are read from the hub, and not stored on disk.

    Args:
        uri: ``hf://datasets/OWNER/NAME``.

    Returns:
        Tables by the names of the splits on the hub.

    Raises:
        DataError: no such data set, no network, or files of which single images cannot be read.

    Example:
        >>> try:
        ...     open_remote("hf://birds")
        ... except DataError as error:
        ...     print(error.rule)
        A data set that is read from the hub is named hf://datasets/OWNER/NAME
    """
    named = URI.fullmatch(uri)
    if named is None:
        raise DataError(
            f"A data set that is read from the hub is named {DATASETS}OWNER/NAME", got=uri, fix="check it."
        )
    name, fix = named["name"], f"give --data {named['name']}, which downloads it."
    try:
        with still(f"listing the images of {uri}"):
            files = list_files(name)
            splits = {} if files is None else {split: _open(files, split) for split in files.splits}
    except DataError:
        raise
    # Errors of the network are those of an HTTP library.
    except Exception as error:
        raise DataError(
            f"{uri} must be a data set of the Hugging Face hub",
            got=one_line(error),
            fix="check the name and the network.",
        ) from error
    if not splits:
        got = "no such files"
        raise DataError(f"{uri} must have parquet files named SPLIT-00000-of-00001.parquet", got=got, fix=fix)
    return splits


def _open(files: HubFiles, split: str) -> datasets.Dataset:
    uris = files.uris(split)
    image = column_of_images(uris)
    if image is None:
        raise DataError(
            f"Images of {DATASETS}{files.name} must be one column of bytes in row groups of at most "
            f"{GROUP >> 20} MB to be read from the hub",
            got=f"others in {split}",
            fix=f"give --data {files.name}, which downloads it.",
        )
    return open_in_place(uris, image, files.revision)
