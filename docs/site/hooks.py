"""The site has pages that are no files of ``docs/``, and links that lead to them.

``README.md``, ``CONTRIBUTING.md`` and others stay where people and hosts of repositories look for them; here
they become pages. The lists of settings and of Python names are made from the package. Links are written as
they work between the files of the repository, and are changed to lead to pages.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import richkd
from richkd.config.listing import Setting, settings

ROOT = Path(__file__).resolve().parents[2]
# Files of the repository, and the pages that they become.
PAGES = {
    "README.md": "index.md",
    "recipes/README.md": "recipes.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
}
# Files that pages show or link to.
COPIED = ("benchmarks/results/*.svg", "recipes/**/*.yaml", "notebooks/*.ipynb")
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files that are not in ``docs/``."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        content = f"# License\n\n```text\n{text}```\n" if source == "LICENSE" else text
        files.append(File.generated(config, page, content=content))
    files.append(File.generated(config, "settings.md", content=settings_page()))
    files.append(File.generated(config, "api.md", content=python_page()))
    for file in sorted(itertools.chain.from_iterable(ROOT.glob(pattern) for pattern in COPIED)):
        files.append(File.generated(config, file.relative_to(ROOT).as_posix(), abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to pages of the site."""
    made_from = {made: source for source, made in PAGES.items()}
    place = page.file.src_uri
    source = made_from.get(place, f"docs/{place}")

    def changed(link: re.Match[str]) -> str:
        opening, path, anchor, closing = link.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        of_site = PAGES.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(of_site) is None:
            return link[0]
        relative = posixpath.relpath(of_site, posixpath.dirname(place) or ".")
        return f"{opening}{relative}{anchor or ''}{closing}"

    return LINK.sub(changed, markdown)


def settings_page() -> str:
    """All settings, a table for each section."""
    sections: dict[str, list[Setting]] = {}
    for setting in settings():
        sections.setdefault(setting.name.split(".")[0], []).append(setting)
    head = (
        "# Settings\n\nThe names are those of recipes and of options, `--section.name VALUE`. The same list, "
        "for the installed version: `richkd settings`.\n"
    )
    return head + "".join(f"\n## {name}\n\n{_table(rows)}" for name, rows in sections.items())


def _table(rows: list[Setting]) -> str:
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for setting in rows:
        values = "".join(
            f"<br>`{name}`{f': {_cell(about)}' if about else ''}" for name, about in setting.choices
        )
        default = f"`{_cell(setting.default)}`" if setting.default else ""
        lines.append(f"| `{setting.name}` | {default} | {_cell(setting.meaning)}{values} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def python_page() -> str:
    """The public names of the package."""
    homes: dict[str, Any] = richkd._HOMES
    head = "# Python\n\nPublic names of the package, such as `richkd.distill`.\n"
    return head + "".join(f"\n::: richkd.{homes[name]}.{name}\n" for name in richkd.__all__)
