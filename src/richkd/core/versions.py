"""Versions of Python and of packages, read without importing the packages."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

# What a bug report has to say first; `richkd --version` prints these.
MAIN_PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "accelerate")


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions by the names under which packages are installed, or ``"not installed"``.

    Example:
        >>> versions_of(["no-such-package"])
        {'no-such-package': 'not installed'}
    """
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def package_version() -> str:
    """The version of this package; ``"not installed"`` if it is run from its source.

    Example:
        >>> package_version()[0].isdigit() or package_version() == "not installed"
        True
    """
    return versions_of(["richkd"])["richkd"]


def version_text() -> str:
    """What ``richkd --version`` prints: a line each for ``richkd``, Python and the main packages.

    Example:
        >>> version_text().split()[0]
        'richkd'
    """
    versions = versions_of(["richkd"]) | {"Python": platform.python_version()} | versions_of(MAIN_PACKAGES)
    return "\n".join(f"{name} {number}" for name, number in versions.items())
