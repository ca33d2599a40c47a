"""Standard output and error that are closed while work goes on: a pipe's reader ends, a terminal closes."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, TextIO, cast

# Name of the rule for characters that an encoding lacks.
ESCAPES = "richkd.escapes"
# Python's own rules, of which the second one is that of the locale C.
_RAISING = ("strict", "surrogateescape")


class LastingStream:
    """A text stream that drops what is written after the stream was closed, instead of raising an error.

    Everything else is passed on to the stream. After an error, its descriptor leads to the null device: so
    what is still in its buffer, and what other libraries write, raises nothing either.

    Args:
        stream: the stream; None, as in a process without a terminal, drops everything.

    Example:
        >>> reader, writer = os.pipe()
        >>> os.close(reader)
        >>> with os.fdopen(writer, "w") as broken:
        ...     stream = LastingStream(broken)
        ...     print("epoch 1", file=stream, flush=True)
        ...     stream.closed_by_reader
        True
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.closed_by_reader = stream is None

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        if self._stream is not None and not self.closed_by_reader:
            try:
                return self._stream.write(text)
            except BlockingIOError:
                pass  # the reader is slow, not gone
            except OSError:
                self._give_up()
            except ValueError:
                # Also raised for characters that the encoding lacks, which is no reason to stop.
                if not self._stream.closed:
                    raise
                self.closed_by_reader = True
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or drop what is in its buffer."""
        if self._stream is not None and not self.closed_by_reader:
            try:
                self._stream.flush()
            except BlockingIOError:
                pass
            except OSError:
                self._give_up()
            except ValueError:
                self.closed_by_reader = True

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        self.closed_by_reader = True
        discard(self._stream)


def discard(stream: TextIO | None) -> None:
    """Let the descriptor of a stream lead to the null device, so that flushing it at the end cannot fail.

    Example:
        >>> reader, writer = os.pipe()
        >>> os.close(reader)
        >>> with os.fdopen(writer, "w") as broken:
        ...     length = broken.write("epoch 1")
        ...     discard(broken)
    """
    # Streams in memory have no descriptor.
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(descriptor, cast(TextIO, stream).fileno())
        finally:
            os.close(descriptor)


def flushed(stream: TextIO | None) -> bool:
    """Flush a stream; False if it is closed. What is left in its buffer is then discarded.

    Example:
        >>> reader, writer = os.pipe()
        >>> os.close(reader)
        >>> with os.fdopen(writer, "w") as broken:
        ...     length = broken.write("epoch 1")
        ...     flushed(broken), flushed(sys.stdout)
        (False, True)
    """
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        discard(stream)
        return False
    return True


def escape_what_is_lacking(*streams: TextIO | None) -> None:
    """Let text streams write characters that their encoding lacks as ``\\uXXXX``, without an error.

    These escapes are those of JSON, so JSON stays exact. Streams that have another rule, such as that of
    ``PYTHONIOENCODING=ascii:replace``, keep it.

    Example:
        >>> import io
        >>> stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        >>> escape_what_is_lacking(stream)
        >>> length = stream.write("Käfer 🐞")
        >>> stream.flush()
        >>> print(stream.buffer.getvalue().decode())
        K\\u00e4fer \\ud83d\\udc1e
    """
    codecs.register_error(ESCAPES, _escapes)
    for stream in streams:
        if isinstance(stream, TextIOWrapper) and stream.errors in _RAISING:
            stream.reconfigure(errors=ESCAPES)


def _escapes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


@contextmanager
def lasting(*names: str) -> Iterator[None]:
    """Context in which printing to ``"stdout"`` or ``"stderr"`` never ends the program.

    Example:
        >>> with lasting("stdout"):
        ...     print("epoch 1")
        epoch 1
    """
    before = {name: getattr(sys, name) for name in names}
    for name, stream in before.items():
        setattr(sys, name, LastingStream(stream))
    try:
        yield
    finally:
        for name, stream in before.items():
            # What is left in the buffer must fail here, if at all, and not when Python ends.
            getattr(sys, name).flush()
            setattr(sys, name, stream)
