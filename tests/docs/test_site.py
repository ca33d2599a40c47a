"""The documentation as a site: it builds without warnings, is complete, and fits its window."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import richkd
from richkd.config.listing import settings
from tests.docs.blocks import ROOT

pytestmark = pytest.mark.slow

# Chromium lays a page out in frames of these widths, and writes how wide the pages really are.
HARNESS = """<!doctype html><body><script>
const pages = %s, found = {};
for (const [name, width] of pages) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.src = name;
  frame.onload = () => {
    found[name + " " + width] = frame.contentDocument.documentElement.scrollWidth - frame.clientWidth;
    document.title = JSON.stringify(found);
  };
  document.body.append(frame);
}
</script>"""
WINDOWS = (1280, 412)
LOOKED_AT = ("index.html", "howto.html", "settings.html", "api.html", "results.html", "methods/richkd.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_page_of_the_documentation_is_there(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    built = {page.relative_to(site) for page in site.rglob("*.html")}
    assert pages - built == set()
    made = ("index", "recipes", "settings", "api", "contributing", "changelog", "license")
    assert {Path(f"{name}.html") for name in made} - built == set()


def test_all_settings_and_public_names_are_listed(site: Path) -> None:
    listed = text_of(site / "settings.html")
    assert [setting.name for setting in settings() if setting.name not in listed] == []
    headings = re.findall(r'<h3 id="([\w.]+)"', (site / "api.html").read_text(encoding="utf-8"))
    assert {name.rsplit(".", 1)[-1] for name in headings} >= set(richkd.__all__)


def test_examples_of_docstrings_are_code(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    assert page.count('<span class="gp">&gt;&gt;&gt; </span>') > len(richkd.__all__)


def test_links_between_files_lead_to_pages(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="howto.html#images"' in start
    assert 'href="docs/' not in start
    assert 'href="contributing.html"' in (site / "methods.html").read_text(encoding="utf-8")
    assert 'href="../performance.html"' in (site / "methods" / "contrastive.html").read_text(encoding="utf-8")


def test_no_page_loads_anything_from_another_site(site: Path) -> None:
    loads = re.compile(
        r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//|<link[^>]*rel="stylesheet"[^>]*href="https?:'
    )
    assert [
        page.name for page in site.rglob("*.html") if loads.search(page.read_text(encoding="utf-8"))
    ] == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the path")
def test_pages_fit_a_desktop_and_a_phone(site: Path) -> None:
    pages = [(name, width) for name in LOOKED_AT for width in WINDOWS]
    (site / "harness.html").write_text(HARNESS % json.dumps(pages), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += ["--virtual-time-budget=20000", "--dump-dom", (site / "harness.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None, done.stderr
    wider = json.loads(html.unescape(title[1]))
    assert len(wider) == len(pages)
    assert {name: pixels for name, pixels in wider.items() if pixels > 0} == {}
