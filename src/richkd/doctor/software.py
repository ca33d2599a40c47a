"""Versions of Python and of packages, whether they can be imported, and the C++ compiler."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from richkd.core.versions import versions_of

SECONDS = 10
# Compilers that PyTorch's compiler looks for, besides that of the variable CXX.
COMPILERS = ("g++", "clang++", "cl")
# Packages that fail when they are imported if they were built for other versions of each other.
IMPORTED = ("torch", "torchvision", "timm")
# Not needed, but a bug can depend on them.
OTHERS = ("triton", "nvidia-cudnn-cu12", "pillow-heif", "pillow-jxl-plugin", "wandb", "mlflow", "trackio")


def software() -> dict[str, Any]:
    """Python, installed packages, and what is wrong with them.

    ``missing`` has the requirements of richkd that are not fulfilled, with the installed version; ``broken``
    has the packages that cannot be imported, with the message.

    Example:
        >>> software()["python"] == platform.python_version()
        True
    """
    needed = _requirements()
    packages = versions_of(["richkd", *needed, *OTHERS])
    for name in OTHERS:
        if packages[name] == "not installed":
            del packages[name]
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "packages": packages,
        "missing": {f"{name}{rule}": packages[name] for name, rule in needed.items() if _lacks(name, rule)},
        "broken": {name: message for name in IMPORTED if (message := import_error(name))},
    }


def import_error(name: str) -> str | None:
    """Why a package cannot be imported, in one line; None if it can.

    Example:
        >>> import_error("json") is None, import_error("no_such_package")
        (True, "ModuleNotFoundError: No module named 'no_such_package'")
    """
    try:
        importlib.import_module(name)
    except Exception as error:  # a package that was built for another version can raise anything
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return None


def compiler() -> dict[str, Any]:
    """The C++ compiler that ``train.compile`` needs: its name and version, and Python's header files.

    Example:
        >>> sorted(compiler())
        ['name', 'python_headers', 'triton', 'version']
    """
    name = next(filter(shutil.which, (os.environ.get("CXX") or "g++", *COMPILERS)), None)
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return {
        "name": name,
        "version": _first_line([name, "--version"]) if name and name != "cl" else None,
        "python_headers": header.is_file(),
        "triton": importlib.util.find_spec("triton") is not None,
    }


def _first_line(words: list[str]) -> str | None:
    try:
        result = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(result.stdout.splitlines()), None)


def _requirements() -> dict[str, str]:
    """The packages that richkd always needs, with their ranges of versions."""
    from packaging.requirements import Requirement

    try:
        lines = requires("richkd") or []
    except PackageNotFoundError:
        return {}
    packages = [Requirement(line) for line in lines if "extra ==" not in line]
    return {one.name: str(one.specifier) for one in packages if one.marker is None or one.marker.evaluate()}


def _lacks(name: str, rule: str) -> bool:
    from packaging.specifiers import SpecifierSet

    version = versions_of([name])[name]
    return version == "not installed" or not SpecifierSet(rule).contains(version, prereleases=True)
