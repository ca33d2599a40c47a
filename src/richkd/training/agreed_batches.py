"""Batches of several processes: if one of them cannot read its images, all stop before that step."""

from __future__ import annotations

from collections.abc import Iterator

from richkd.core.errors import DataError, RichKDError, WorkerError
from richkd.core.processes import gather_objects, raise_first
from richkd.core.types import Batch
from richkd.training.reduction import Flags

# Errors of images that cannot be read. The state between two steps is intact.
UNREADABLE = (DataError, WorkerError)


def agreed_on(batches: Iterator[Batch], flags: Flags) -> Iterator[Batch]:
    """The batches of this process, as long as all processes can read theirs.

    Every batch is read before the step before it, whose exchange tells the other processes of an error.

    Args:
        batches: the batches of the process.
        flags: what the exchange of each step tells; set here and read after the step.

    Raises:
        DataError, WorkerError: images cannot be read, by this process or another one.

    Example:
        >>> list(agreed_on(iter([]), Flags()))
        []
    """
    following = _read(batches)
    raise_first(gather_objects(_error(following)))
    while isinstance(following, Batch):
        batch, following = following, _read(batches)
        flags.unreadable = isinstance(following, RichKDError)
        yield batch
        if flags.unreadable:
            raise_first(gather_objects(_error(following)))


def _read(batches: Iterator[Batch]) -> Batch | RichKDError | None:
    """The next batch, the error that it has, or None after the last one."""
    try:
        return next(batches, None)
    except UNREADABLE as error:
        return error


def _error(read: Batch | RichKDError | None) -> RichKDError | None:
    return read if isinstance(read, RichKDError) else None
