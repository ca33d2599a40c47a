"""The page classifies like the student, in a real browser."""

from __future__ import annotations

import functools
import http.server
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from richkd.export.run import ExportSettings, export_student
from richkd.export.student import load_student
from tests.docs.blocks import ROOT
from tests.export.students import CLASSES, make_photos, make_student

WEB = ROOT / "examples" / "web"
RUNTIME = WEB / "node_modules" / "onnxruntime-web"
ROW = re.compile(r'<li data-probability="([^"]*)" data-name="([^"]*)">')

pytestmark = [
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the path"),
    pytest.mark.skipif(not RUNTIME.is_dir(), reason="needs `npm install` in examples/web"),
]


# Sends the page to the server of the test when it has an answer. Chromium's own output does not wait for
# images that are being decoded.
REPORT = """<script>
new MutationObserver(() => {
  if (/^(Done|Failed)/.test(document.getElementById("status").textContent))
    fetch("/answer", { method: "POST", body: document.documentElement.outerHTML });
}).observe(document, { subtree: true, childList: true, characterData: true });
</script></body>"""
SECONDS = 180


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder, and keeps the pages that are sent."""

    answers: queue.Queue[str] = queue.Queue()

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.answers.put(self.rfile.read(length).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Prints nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of the page, with a model and photos beside it."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "site"
    shutil.copytree(WEB, folder, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(WEB / "node_modules")
    page = (folder / "index.html").read_text(encoding="utf-8")
    (folder / "index.html").write_text(page.replace("</body>", REPORT), encoding="utf-8")
    student, photos = make_student(tmp_path / "small" / "student"), make_photos(folder / "photos")
    export_student(str(student), ExportSettings("onnx", folder / "small.onnx", images=str(photos)))
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/index.html"
        server.shutdown()


def answer_of(address: str, profile: Path) -> str:
    """The page in a browser that reaches nothing but this machine, when it has an answer."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            return Handler.answers.get(timeout=SECONDS)
        finally:
            browser.terminate()


def test_the_page_gives_the_probabilities_of_the_student(site: str, tmp_path: Path) -> None:
    student = load_student(tmp_path / "small" / "student")
    for name in ("2.png", "4.png"):
        page = answer_of(f"{site}?model=small.onnx&image=photos/{name}", tmp_path / "profile")
        assert '<p id="status">Done.</p>' in page
        probabilities = {unescape(label): float(number) for number, label in ROW.findall(page)}
        (expected,) = student.probabilities([tmp_path / "site" / "photos" / name])
        assert probabilities == pytest.approx(dict(zip(CLASSES, expected.tolist(), strict=True)), abs=1e-4)
        assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)


def test_a_wrong_file_is_a_message(site: str, tmp_path: Path) -> None:
    for query in (
        "model=index.html&image=photos/2.png",
        "model=small.onnx&image=index.html",
        "model=x&image=y",
    ):
        page = answer_of(f"{site}?{query}", tmp_path / "profile")
        assert '<p id="status">Failed: ' in page
        assert ROW.findall(page) == []


def test_the_page_loads_nothing_from_other_servers() -> None:
    for file in ("index.html", "classify.js"):
        assert "//" not in re.sub(
            r"^\s*//.*$", "", (WEB / file).read_text(encoding="utf-8"), flags=re.MULTILINE
        )
    version = re.search(r'"onnxruntime-web": "([\d.]+)"', (WEB / "package.json").read_text(encoding="utf-8"))
    assert version is not None
