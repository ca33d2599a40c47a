"""SHA-256 of files, kept beside them in a file ``SHA256SUMS``, and checked when they are read.

A changed bit of a stored number usually gives another number and no error. ``SHA256SUMS`` has the format of
the command ``sha256sum``, so ``sha256sum -c SHA256SUMS`` checks a folder, too. To accept a file that was
changed on purpose, remove ``SHA256SUMS`` or write it again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from richkd.core.errors import CheckpointError, RichKDError
from richkd.core.files import write_atomically
from richkd.core.presence import exists, stat_error
from richkd.core.regular_files import open_regular, read_regular

SUMS = "SHA256SUMS"
# The command sha256sum ignores lines that start with "#".
HEAD = b"# SHA-256 of the lines below: "
LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def hash_file(path: str | Path) -> str:
    """SHA-256 (hexadecimal) of the bytes of a file.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     hash_file(file.name)[:12]
        'e3b0c44298fc'
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums_of(hashes: Mapping[str, str]) -> bytes:
    """The content of a ``SHA256SUMS`` for these hashes (hexadecimal) of files.

    Example:
        >>> sums_of({"empty": hashlib.sha256(b"").hexdigest()}).splitlines()[1][-9:]
        b'55  empty'
    """
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items())).encode()
    return HEAD + hashlib.sha256(lines).hexdigest().encode() + b"\n" + lines


def record_hashes(folder: Path, names: Iterable[str]) -> None:
    """Store the hashes of files in ``SHA256SUMS`` of their folder; other entries remain.

    Raises:
        CheckpointError: ``SHA256SUMS`` cannot be read or written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     size = (folder / "a.json").write_text("{}")
        ...     record_hashes(folder, ["a.json"])
        ...     check_hashes(folder, ["a.json"], CheckpointError, fix="")
        True
    """
    _write(folder, _read(folder, CheckpointError, _again(folder)) | {n: hash_file(folder / n) for n in names})


def write_hashes(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write ``SHA256SUMS`` for these contents of files only, which need not be written yet.

    Raises:
        CheckpointError: ``SHA256SUMS`` cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     write_hashes(Path(name), {"empty": b""})
        ...     (Path(name) / SUMS).read_text().splitlines()[1][-9:]
        '55  empty'
    """
    _write(folder, {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})


def forget_hashes(folder: Path, names: Iterable[str]) -> None:
    """Remove entries before their files are replaced, so that a killed process leaves no wrong hash.

    Raises:
        CheckpointError: ``SHA256SUMS`` cannot be read or written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     write_hashes(Path(name), {"a.json": b"{}"})
        ...     forget_hashes(Path(name), ["a.json"])
        ...     len((Path(name) / SUMS).read_text().splitlines())
        1
    """
    sums, dropped = _read(folder, CheckpointError, _again(folder)), set(names)
    if dropped & sums.keys():
        _write(folder, {name: digest for name, digest in sums.items() if name not in dropped})


def check_hashes(
    folder: Path,
    names: Iterable[str],
    refusal: type[RichKDError],
    fix: str,
    *,
    growing: Iterable[str] = (),
) -> bool:
    """Check that files have the content whose hash was recorded.

    Files without a recorded hash, and files that do not exist, are not checked. What the system does not let
    be looked at is refused, because it may exist.

    Args:
        folder: the folder of the files.
        names: the files.
        refusal: class of the error to raise.
        fix: how to fix the problem, for messages.
        growing: more files. They may have one more line than was recorded, because a process can be killed
            between a line and its hash.

    Returns:
        Whether the folder has a ``SHA256SUMS``.

    Raises:
        RichKDError: of class ``refusal``, if a file has another content or cannot be read, or if
            ``SHA256SUMS`` is damaged; the message names the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     write_hashes(Path(name), {"a.json": b"{}"})
        ...     size = (Path(name) / "a.json").write_text("[]")
        ...     try:
        ...         check_hashes(Path(name), ["a.json"], CheckpointError, fix="copy it again.")
        ...     except CheckpointError as error:
        ...         print(error.got)
        a file whose SHA-256 is not that in SHA256SUMS
    """
    if not _may_exist(folder / SUMS):
        return False
    sums = _read(folder, refusal, fix)
    for name in names:
        if name in sums and _may_exist(folder / name):
            _check(folder / name, partial(_same, digest=sums[name]), refusal, fix)
    for name in growing:
        if name in sums and _may_exist(folder / name):
            _check(folder / name, partial(_grown, digest=sums[name]), refusal, fix)
    return True


def _may_exist(path: Path) -> bool:
    return exists(path) or stat_error(path) is not None


def _check(path: Path, is_same: Callable[[Path], bool], refusal: type[RichKDError], fix: str) -> None:
    try:
        same = is_same(path)
    except OSError as error:
        raise refusal(f"{path} must be readable", got=str(error), fix=fix) from error
    if not same:
        got = f"a file whose SHA-256 is not that in {SUMS}"
        raise refusal(f"{path} must be as it was written", got=got, fix=fix)


def _same(path: Path, digest: str) -> bool:
    return hash_file(path) == digest


def _grown(path: Path, digest: str) -> bool:
    """Whether a file, or the file without its last line, has this hash."""
    content = read_regular(path)
    without_last = content[: content[:-1].rfind(b"\n") + 1]
    return any(hashlib.sha256(part).hexdigest() == digest for part in (content, without_last))


def _read(folder: Path, refusal: type[RichKDError], fix: str) -> dict[str, str]:
    path = folder / SUMS
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise refusal(f"{path} must be readable", got=str(error), fix=fix) from error
    head, _, lines = content.partition(b"\n")
    if head.startswith(HEAD) and head != HEAD + hashlib.sha256(lines).hexdigest().encode():
        got = "lines whose SHA-256 is not that of the first line"
        raise refusal(f"{path} must be as it was written", got=got, fix=fix)
    # A file that the command sha256sum wrote has no such first line.
    matches = map(LINE.fullmatch, content.decode(errors="replace").splitlines())
    return {match[2]: match[1] for match in matches if match}


def _write(folder: Path, sums: Mapping[str, str]) -> None:
    write_atomically(folder / SUMS, sums_of(sums))


def _again(folder: Path) -> str:
    return f"remove {folder / SUMS} if the other files of the folder are intact."
