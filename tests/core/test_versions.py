"""Versions of packages, without importing them."""

from __future__ import annotations

import numpy as np

from richkd.core.versions import version_text, versions_of


def test_versions_are_those_of_the_modules_and_missing_packages_are_said() -> None:
    assert versions_of(["numpy", "no-such-package"]) == {
        "numpy": np.__version__,
        "no-such-package": "not installed",
    }


def test_each_line_is_a_name_and_a_version() -> None:
    assert all(len(line.split()) == 2 for line in version_text().splitlines())
