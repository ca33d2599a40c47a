"""The exit statuses of all commands."""

from __future__ import annotations

# USAGE: the words of the command line cannot be read. Most programs use 2 for it.
OK, FAILED, USAGE = 0, 1, 2
# 128 + SIGINT, as in shells. A run that saved its state has this status after any signal: it can be resumed.
STOPPED = 130
# 128 + SIGTERM: what a shell shows for a command that had nothing to save.
TERMINATED = 143

MEANINGS = {
    OK: "everything was done",
    FAILED: "the input is wrong, or some of several items failed; the message says what and how to fix it",
    USAGE: "the words of the command line cannot be read",
    STOPPED: "stopped by Ctrl-C, or by another signal after the state was saved",
    TERMINATED: "ended by SIGTERM with nothing to save (seen from a shell)",
}


def about_status() -> str:
    """One paragraph about the exit statuses, for ``richkd --help``.

    Example:
        >>> about_status()[:38]
        'Exit status: 0: everything was done; 1'
    """
    return "Exit status: " + "; ".join(f"{status}: {meaning}" for status, meaning in MEANINGS.items()) + "."
