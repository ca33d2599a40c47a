"""Loggers whose messages show names by `visible`, and the type of log functions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from richkd.core.visible import visible, visible_list

# What receives the messages of a long function, one line each.
Log = Callable[[str], None]


class VisibleLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that converts the arguments of its messages; made by `logger_of`."""

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Log a message with its arguments."""
        options["stacklevel"] = options.get("stacklevel", 1) + 1
        shown = (arg if isinstance(arg, int | float) else visible_list(arg) for arg in args)
        self.logger.log(level, visible(msg), *shown, **options)


def logger_of(module: str) -> VisibleLogger:
    """The logger of a module.

    Example:
        >>> logger = logger_of("richkd.example")
        >>> logger.logger.addHandler(logging.NullHandler())
        >>> logger.warning("%s is left out", "a" + chr(27) + "[2J")
    """
    return VisibleLogger(logging.getLogger(module), {})
