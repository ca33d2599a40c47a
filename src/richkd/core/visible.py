"""Text for terminals, logs and errors: characters that a reader cannot see are shown as escape sequences.

Names of classes and files can contain anything: commands for the terminal, line breaks that look like another
message, and characters that reverse the order of the text after them.
"""

from __future__ import annotations

import re
import unicodedata

# Controls, format characters (zero width, direction), halves of pairs, line and paragraph separators.
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# What separates the items of a list in a message.
ITEM = "\n  "
# Every other character is of another category. The expression only preselects, so it may match too much.
_CANDIDATES = re.compile(r"[^\x20-\x7e\xa1-\xac\xae-\u05ff\u3001-\ud7ff]")


def visible(text: object) -> str:
    r"""The text with every hidden character as an escape sequence, such as ``\x1b``, ``\n`` or ``\u202e``.

    Letters, signs and emoji of all scripts stay. Zero-width joiners are hidden characters, too, so an emoji
    that consists of several ones is shown as its parts. A byte of a file name that is not valid UTF-8 is
    shown as this byte. The result cannot be converted back, because a backslash stays as it is; JSON has the
    exact text. Text that was converted before is not changed again.

    Example:
        >>> print(visible("ant\x1b[2J"), visible("a\nb\u202e"), visible("Käfer 🐞"))
        ant\x1b[2J a\nb\u202e Käfer 🐞
    """
    return _CANDIDATES.sub(_escaped, str(text))


def visible_list(text: object) -> str:
    r"""As `visible`, but lines that start with `ITEM`, of our own lists, stay lines.

    Example:
        >>> print(visible_list("left out:" + ITEM + "a\nb"))
        left out:
          a\nb
    """
    return ITEM.join(visible(item) for item in str(text).split(ITEM))


def one_line(error: BaseException) -> str:
    """The message of an exception in one line; its class if it has no message.

    Example:
        >>> one_line(ValueError("no number" + chr(10) + "  in line 3")), one_line(KeyError())
        ('no number in line 3', 'KeyError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if unicodedata.category(character) not in HIDDEN:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python represents a byte that is not valid UTF-8
        return f"\\x{code - 0xDC00:02x}"
    width = "x", 2
    if code > 0xFF:
        width = ("u", 4) if code <= 0xFFFF else ("U", 8)
    return SHORT.get(character, f"\\{width[0]}{code:0{width[1]}x}")


def counted(number: int, noun: str) -> str:
    """A number with its noun, which gets an s unless the number is one.

    Example:
        >>> counted(1, "epoch"), counted(1_200, "image")
        ('1 epoch', '1,200 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
