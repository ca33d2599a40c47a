"""CHANGELOG.md lists every renamed setting and value."""

from __future__ import annotations

import re
import tomllib

from richkd.config.renamed import RENAMED, RENAMED_VALUES
from tests.docs.blocks import CHANGELOG, ROOT

ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)


def test_the_table_of_renamed_settings_is_that_of_the_package() -> None:
    values = {
        f"{setting} {old}": f"{setting} {new}"
        for setting, renamed in RENAMED_VALUES.items()
        for old, new in renamed.items()
    }
    assert dict(ROW.findall(CHANGELOG.read_text(encoding="utf-8"))) == RENAMED | values


def test_the_newest_entry_is_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## (\S+)", CHANGELOG.read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == project["version"]
