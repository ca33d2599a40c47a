"""The Hugging Face hub: where its files are kept, and whether it can be reached."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from richkd.core.home import expanded

SECONDS = 5.0
DEFAULT = "https://huggingface.co"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE = frozenset({"1", "on", "yes", "true"})


def hub(*, offline: bool) -> dict[str, Any]:
    """The hub's address, its folder on this machine, and whether it answers.

    ``reachable`` is None if it was not tried: because of ``offline``, or because the environment says so.

    Args:
        offline: do not use the network.

    Example:
        >>> hub(offline=True)["reachable"] is None
        True
    """
    mode = any(os.environ.get(name, "").strip().lower() in TRUE for name in OFFLINE)
    address = without_password(os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT)
    skipped = offline or mode
    problem = None if skipped else connection_problem(os.environ.get("HF_ENDPOINT", "") or DEFAULT)
    return {
        "address": address,
        "cache": str(hub_cache()),
        "offline_mode": mode,
        "reachable": None if skipped else problem is None,
        "problem": problem,
    }


def hub_cache() -> Path:
    """The folder in which downloads are kept, by the hub's own rules.

    Example:
        >>> hub_cache().is_absolute()
        True
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    home = Path(os.environ.get("HF_HOME") or base)
    folder = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
    return expanded(os.path.expandvars(folder)).absolute()


def connection_problem(address: str, seconds: float = SECONDS) -> str | None:
    """Why an address does not answer; None if it answers, be it with an error of its own.

    It never takes much longer than ``seconds``, although the system may look for a name for minutes.

    Args:
        address: address with its protocol.
        seconds: how long to wait.

    Example:
        >>> connection_problem("http://127.0.0.1:9", seconds=2.0) is None
        False
    """
    answers: list[str | None] = []

    def ask() -> None:
        answers.append(_answer(address, seconds))

    thread = threading.Thread(target=ask, daemon=True)
    began = time.monotonic()
    thread.start()
    thread.join(seconds + 1)
    return answers[0] if answers else f"no answer in {time.monotonic() - began:.0f} s"


def without_password(address: str) -> str:
    """An address without user name and password, and without query and fragment.

    Passwords may have any character as it is, also ``/``, ``#``, ``?`` and ``@``, so everything between the
    protocol and the last ``@`` is left out.

    Example:
        >>> without_password("https://me:secret@mirror.example/hub")
        'https://mirror.example/hub'
    """
    match = re.match(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//", address)
    protocol = match[0] if match else ""
    try:
        parts = urllib.parse.urlsplit(protocol + address[len(protocol) :].rpartition("@")[2])
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    except ValueError:
        return "not an address"


def _answer(address: str, seconds: float) -> str | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds):
            return None
    except urllib.error.HTTPError as error:
        # A proxy that refuses answers, too, but the hub is not reached.
        return f"{error.code} {error.reason}" if error.code in (407, 502, 503, 504) else None
    except urllib.error.URLError as error:
        return f"{type(error.reason).__name__}: {error.reason}"
    except (OSError, ValueError, socket.gaierror) as error:
        return f"{type(error).__name__}: {error}".replace(address, without_password(address))
    except Exception as error:  # http.client raises errors of its own for answers that are none
        return type(error).__name__
