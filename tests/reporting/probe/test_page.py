"""The probe's page: whole, alone, readable by a browser, and true to the figures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.reporting.probe.test_probe import parts, probed

from richkd.pipeline.assemble import Parts
from richkd.reporting.probe.page import render, write_probe
from richkd.reporting.probe.result import Probe

__all__ = ["parts"]  # a fixture
VOID = {"meta", "br", "img", "link", "hr", "input"}


@pytest.fixture(scope="module")
def result(parts: Parts) -> Probe:
    return probed(parts, 1.5, 1.2)


class Tags(HTMLParser):
    """Every tag with its attributes; fails where one is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_alone(result: Probe) -> None:
    page = render(result, "my <data>")
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "img", "iframe"}
    assert not [tag for tag, attributes in tags.seen if attributes.keys() & {"src", "href"}]
    assert not re.findall(r"https?:", page)
    assert "url(" not in page
    assert "my &lt;data&gt;" in page
    assert "nan" not in re.sub(r"[a-z]*finan[a-z]*|[a-z]*domin[a-z]*", "", page.lower()).split()
    assert len(page) < 200_000


def test_numbers_of_the_figures_are_on_the_page(result: Probe, tmp_path: Path) -> None:
    page = write_probe(result, tmp_path, "data").read_text(encoding="utf-8")
    figures = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    for teacher in (*figures["teachers"].values(), *figures["fusions"].values()):
        for text in (
            f"{teacher['top1']:.1%}",
            f"{teacher['nll']:.3f}",
            f"{teacher['calibrated']['nll']:.3f}",
        ):
            assert f"<td>{text}</td>" in page
    for point in figures["alpha"]:
        assert f"<td>{point['nll']:.4f}</td>" in page
    for gain in figures["classes"]:
        assert f"<td>{gain['name']}</td><td>{gain['images']}</td><td>{gain['teacher']:.1%}</td>" in page
    for row in figures["moves"]["counts"]:
        for count in row:
            assert f">{count:.0f}</td>" in page
    assert figures["verdict"]["headline"] in page


def test_a_no_is_as_plain_as_a_yes(result: Probe) -> None:
    page = render(replace(result, gain=0.0, error=0.1), "data")
    assert "No: do not use CLIP here" in page
    assert 'class="verdict no"' in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the path")
def test_a_browser_opens_it_at_any_width_without_a_word(result: Probe, tmp_path: Path) -> None:
    page = write_probe(result, tmp_path, "data")
    for width in (390, 1200):
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        command += ["--dump-dom", f"--window-size={width},800", f"--user-data-dir={tmp_path / 'profile'}"]
        done = subprocess.run(
            [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        assert "Does CLIP improve the teacher on these classes?" in done.stdout
        assert "CONSOLE" not in done.stderr


def test_the_page_may_load_and_run_nothing(result: Probe) -> None:
    page = render(result, "data")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert policy.startswith("default-src 'none'; ")
    assert "script-src" not in policy
    assert page.index(policy) < page.index("<style>")


def test_colors_say_which_moves_are_improvements(result: Probe) -> None:
    page = render(result, "data")
    table = page[page.index("Number of images by their state") :]
    rows = re.findall(r"<tr><td>([^<]*)</td>(.*?)</tr>", table)[:4]
    colors = {before: re.findall(r"--heat:var\(--(\w+)\)", cells) for before, cells in rows}
    # The columns are in the order of the rows.
    assert colors == {
        "correct, confident": ["other", "wrong", "wrong", "wrong"],
        "correct, not confident": ["fused", "other", "wrong", "wrong"],
        "incorrect, confident": ["fused", "fused", "other", "fused"],
        "incorrect, not confident": ["fused", "fused", "wrong", "other"],
    }
