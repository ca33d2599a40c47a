"""What a run reads: digests of its images and of the files that its settings name (``inputs.json``).

A run can be resumed wherever its folder, its data and its models were moved to, as long as they have the same
content. Images that were replaced are refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from richkd.config.resumed import damaged_inputs
from richkd.config.schema import Config
from richkd.core.errors import CheckpointError, ClassError
from richkd.core.home import expanded
from richkd.data.classes import check_same_classes
from richkd.data.contents import Contents
from richkd.data.digests import are_hashed, changed_images, decoded, digests_of, encoded
from richkd.data.split import Data, Split
from richkd.pipeline.named_files import hash_named_files

ACCEPT = "--accept-changed-images"


def read_inputs(config: Config, data: Data, recorded: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record of everything that a run reads.

    Args:
        config: the settings.
        data: the opened data set.
        recorded: the record of the run to resume, which is followed in how images are compared.

    Raises:
        DataError: an image is gone or cannot be read.
    """
    known = (recorded or {}).get("hashed")
    hashed = are_hashed(data.splits.values()) if known is None else bool(known)
    # The fingerprints of the teacher cache have the same hashes, so files are read once.
    contents = Contents(expanded(config.cache.dir) if config.cache.dir else None)
    splits = {
        name: {
            "images": len(split),
            "labels": labels_digest(split),
            **encoded(digests_of(split, hashed=hashed, contents=contents)),
        }
        for name, split in data.splits.items()
    }
    files = hash_named_files(config)
    return {"files": files, "classes": list(data.class_names), "hashed": hashed, "splits": splits}


def note_on_comparison(hashed: bool) -> str:
    """What follows a text about changed images: how they were compared, if not by their bytes.

    Example:
        >>> note_on_comparison(hashed=False)
        ' (compared by size and modification time, because they are many)'
    """
    return "" if hashed else " (compared by size and modification time, because they are many)"


@dataclass(frozen=True)
class ChangedData:
    """How the images of a resumed run differ from those that it was started with.

    Attributes:
        differences: one text for each split.
        acceptable: whether the run can go on with the new images. The order of training images follows from
            their number, so that must be the same.
        hashed: whether the bytes of files are compared, or only size and modification time.
    """

    differences: tuple[str, ...]
    acceptable: bool
    hashed: bool

    @property
    def text(self) -> str:
        """All differences, and how images were compared.

        Example:
            >>> ChangedData(("a split val", "labels of train"), acceptable=True, hashed=True).text
            'a split val; labels of train'
        """
        return "; ".join(self.differences) + note_on_comparison(self.hashed)

    def refuse(self, path: str) -> CheckpointError:
        """The error that says which images differ, and how to accept them."""
        accept = f"; add {ACCEPT} to go on with the new ones" if self.acceptable else ""
        return CheckpointError(
            f"A run must be resumed with the images it was started with ({path})",
            got=self.text,
            fix=f"restore the images{accept}, or start again with --overwrite.",
        )


def find_changed_data(data: Data, then: Mapping[str, Any], now: Mapping[str, Any]) -> ChangedData | None:
    """Compare the images and labels of two records; None if they are the same, or if ``then`` is empty.

    Raises:
        ClassError: the classes differ, or their order does.
        CheckpointError: a record is damaged.
    """
    if "splits" not in then:
        return None
    try:
        return _compared(data, then, now)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged_inputs(f"{type(error).__name__}: {error}") from error


def _compared(data: Data, then: Mapping[str, Any], now: Mapping[str, Any]) -> ChangedData | None:
    try:
        check_same_classes(tuple(then["classes"]), data.class_names, where=data.path, reference="the run")
    except ClassError as error:
        raise ClassError(error.rule, got=error.got, fix="resume the run with its own data.") from None
    differences = []
    for name in then["splits"].keys() | now["splits"].keys():
        before, after = then["splits"].get(name), now["splits"].get(name)
        if before is None or after is None:
            differences.append(f"{'no' if after is None else 'a'} split {name}")
        elif text := changed_images(data.splits[name], decoded(before), decoded(after)):
            differences.append(text)
        elif before["labels"] != after["labels"]:
            differences.append(f"labels of {name}")
    if not differences:
        return None
    counts = [record["splits"].get("train", {}).get("images") for record in (then, now)]
    return ChangedData(tuple(sorted(differences)), counts[0] == counts[1], bool(then["hashed"]))


def labels_digest(split: Split) -> str:
    """The SHA-256 of the labels of a split, in the order of its images."""
    return hashlib.sha256(split.labels_N.numpy().tobytes()).hexdigest()
