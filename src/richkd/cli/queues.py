"""What `richkd compare` and `richkd tune` share: many runs, several at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.exit_status import STOPPED
from richkd.cli.options import whole
from richkd.core.errors import ConfigError
from richkd.core.interrupt import Interrupted
from richkd.core.output import lasting
from richkd.core.terminal import Terminal

Jobs = Annotated[int | None, Parameter(help="number of runs at once", converter=whole)]
# Width of tables where the output is no terminal, so that they are not wrapped.
WIDE = 250


@contextmanager
def queue_console(jobs: int | None) -> Iterator[Terminal]:
    """The console of a queue of runs, which a signal stops with exit status 130.

    Args:
        jobs: the option ``--jobs``.

    Raises:
        ConfigError: ``jobs`` is less than 1.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError("Option --jobs must be at least 1", got=str(jobs), fix="use --jobs 1.")
    # The result is a folder, so the queue does not end with the reader of its messages.
    with lasting("stdout"):
        try:
            yield Terminal(width=None if sys.stdout.isatty() else WIDE)
        except Interrupted:
            print("\nstopped and saved; repeat the command to go on")
            sys.exit(STOPPED)
