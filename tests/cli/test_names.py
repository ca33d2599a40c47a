"""Names that mean something to a terminal, a browser, Markdown or a spreadsheet, through every command."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from richkd.cli import main
from richkd.config.loading import load_config
from richkd.core.visible import visible
from richkd.training.run import distill
from tests.fixtures import make_teacher, refusal
from tests.reporting.probe.test_page import Tags

CLASSES = (
    "<img src=x onerror=alert(1)>",
    "a|b",
    "[x](javascript:alert(1))",
    '=HYPERLINK("http://x")',
    "\x1b[2J\x1b]8;;http://x\x1b\\link",
    "$(rm)",
    "`code` *b* _i_",
    "n" * 300,
    "right\u202eleft\u200b",
    "bug 🐞",
    "[bold]red[/] :bug:",
    "+1",
    "@SUM(A1)",
    "c\x9b31m \x7f",
)
# No slash, which would be another folder; a pattern, because it is expanded nowhere.
FOLDER = "[f](x) |<b>\x1b[31m\u202e"
IMAGE = "=1+1 <i>|\x1b[2J\u202e"
WIDTH = 8
TAGS = {
    *("html", "head", "meta", "title", "style", "link", "body", "button", "p", "h1", "h2", "div", "strong"),
    *("table", "thead", "tbody", "tr", "th", "td", "caption", "span", "a", "figure", "figcaption", "details"),
    *("summary", "ul", "li", "code", "pre", "dl", "dt", "dd", "img", "script", "em"),
    *("svg", "text", "rect", "path", "circle"),
}  # fmt: skip
FORMULA = re.compile(r"\s*[=+\-@\t\r]")


class Nasty:
    """A data set, a teacher, a CLIP's outputs and a trained run with such names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data, self.run, self.cache = root / "data" / FOLDER, root / "runs" / FOLDER, root / "cache"
        keys, labels = self.make_images()
        (root / "names.txt").write_text("\n".join(CLASSES), encoding="utf-8")
        make_teacher(root / "teachers" / FOLDER, CLASSES)
        random = np.random.default_rng(1)
        text_CD = random.normal(size=(len(CLASSES), WIDTH)).astype(np.float32)
        image_ND = text_CD[labels] + random.normal(size=(len(labels), WIDTH)).astype(np.float32)
        names = np.array(CLASSES)
        np.savez(
            root / "clip.npz", image_features=image_ND, text_features=text_CD, classnames=names, files=keys
        )
        self.settings = {
            "data.path": str(self.data),
            "data.class_names": str(root / "names.txt"),
            "student.name": "cifar_resnet8",
            "student.size": "16",
            "teachers.1.name": f"local-dir:{root / 'teachers' / FOLDER}",
            "clip.name": f"outputs:{root / 'clip.npz'}",
            "method.variant": "l",
            "cache.dir": str(self.cache),
            "train.epochs": "1",
            "train.workers": "0",
            "train.precision": "fp32",
            "train.teacher_precision": "fp32",
        }
        self.words = [word for name, value in self.settings.items() for word in (f"--{name}", value)]

    def make_images(self) -> tuple[list[str], list[int]]:
        random, keys, labels = np.random.default_rng(0), [], []
        for split, count in (("train", 3), ("val", 2), ("test", 2)):
            for label in range(len(CLASSES)):
                folder = self.data / split / f"c{label:02}"
                folder.mkdir(parents=True)
                for number in range(count):
                    file = folder / f"{IMAGE}{number}.png"
                    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
                    keys.append(file.relative_to(self.data).as_posix())
                    labels.append(label)
        return keys, labels


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Nasty:
    result = Nasty(tmp_path_factory.mktemp("nasty"))
    with pytest.raises(SystemExit) as ended:
        main(["distill", *result.words, "--out", str(result.run)])
    assert ended.value.code in (None, 0)
    return result


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What a command prints, without any hidden character; line breaks are the command's own."""
    ended = 0
    try:
        main(list(words))
    except SystemExit as error:
        ended = error.code if isinstance(error.code, int) else 0
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert ended == code, err
    check_text(out)
    check_text(err)
    return out


def check_text(text: str) -> None:
    for line in text.split("\n"):
        assert visible(line) == line, line


def check_markdown(text: str) -> None:
    check_text(text)
    # The head of a card is YAML.
    text = re.sub(r"(?s)\A---\n.*?\n---\n", "", text)
    # Without what a backslash makes plain, and without code of our own.
    plain = re.sub(r"\\.", "x", re.sub(r"(?s)```.*?```|(?<!\\)`[^`\n]*`", "", text))
    assert not re.search(r"<[a-z]|\]\(|\[bold|https?:|`|(?<!\w)_\w", plain), plain
    rows = [line for line in plain.splitlines() if line.startswith("|")]
    assert len(rows) > 2
    width = 0
    for before, line in zip(["", *plain.splitlines()], plain.splitlines(), strict=False):
        if line.startswith("|"):
            width = width if before.startswith("|") else line.count("|")
            assert line.count("|") == width, line


def check_page(text: str) -> None:
    check_text(text)
    tags = Tags()
    tags.feed(text)
    assert {tag for tag, _ in tags.seen} <= TAGS
    for tag, attributes in tags.seen:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
    assert len(re.findall("Content-Security-Policy", text)) == 1
    for content in re.findall(r'href="data:text/csv;base64,([^"]*)"', text):
        check_csv(base64.b64decode(content).decode())


def check_csv(text: str) -> None:
    check_text(text)
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) > 1
    assert len({len(row) for row in rows}) == 1
    for row in rows:
        for cell in row:
            assert not FORMULA.match(cell) or re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell), cell


def files_of(folder: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".md", ".html", ".csv", ".txt", ".json", ".jsonl", ".yaml"):
            yield file, file.read_text(encoding="utf-8")


def check_files(folder: Path) -> set[str]:
    """Check all files of a folder by their kinds; returns their names."""
    names = set()
    for file, text in files_of(folder):
        names.add(file.name)
        kinds = {".md": check_markdown, ".html": check_page, ".csv": check_csv}
        kinds.get(file.suffix, check_text)(text)
    return names


def test_a_run_and_its_files(nasty: Nasty) -> None:
    assert check_files(nasty.run) >= {"README.md", "config.yaml", "summary.json", "config.json"}
    # What programs read is exact.
    saved = json.loads((nasty.run / "student" / "config.json").read_text(encoding="utf-8"))
    assert tuple(saved["label_names"]) == CLASSES
    settings = yaml.safe_load((nasty.run / "config.yaml").read_text(encoding="utf-8"))
    assert settings["data"]["path"] == str(nasty.data)
    assert load_config(nasty.run / "config.yaml").data.path == str(nasty.data)
    card = (nasty.run / "student" / "README.md").read_text(encoding="utf-8")
    assert "&lt;img src=x onerror=alert(1)&gt;, a\\|b, \\[x\\]\\(javascript:alert(1))" in card


def test_check_and_the_live_output_of_a_run(
    nasty: Nasty, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, "check", *nasty.words)
    assert visible(FOLDER) in out
    assert "\\x1b[31m\\u202e" in printed(capsys, "distill", *nasty.words, "--out", str(tmp_path / FOLDER))


def test_the_probe(nasty: Nasty, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in nasty.words if word not in ("--train.epochs", "1")]
    out = printed(capsys, "probe", *words, "--out", str(tmp_path / FOLDER))
    assert "page: " in out
    assert check_files(tmp_path) == {"probe.html", "probe.json"}
    figures = json.loads((tmp_path / FOLDER / "probe.json").read_text(encoding="utf-8"))
    assert {gain["name"] for gain in figures["classes"]} == set(CLASSES)


def test_evaluate_and_report(nasty: Nasty, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = str(nasty.run), str(nasty.data)
    out = printed(capsys, "evaluate", run, "--data", data, "--teachers")
    assert "\\x1b[31m" in out
    figures = json.loads(printed(capsys, "evaluate", run, "--data", data, "--json"))
    assert tuple(figures["classes"]) == CLASSES
    assert list(figures["models"]) == [run]
    for name in (CLASSES[1], CLASSES[2]):
        (tmp_path / "shift" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "shift" / name / f"{IMAGE}.png")
    printed(capsys, "report", run, "--out", str(tmp_path), "--shift", f"<b>|\x1b={tmp_path / 'shift'}")
    assert check_files(tmp_path) == {"report.html", "report.md", "summary.json"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


@pytest.mark.parametrize("format", ["text", "csv", "json"])
def test_predict(nasty: Nasty, tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(nasty.run), str(nasty.data / "test" / "c00"), "--top", str(len(CLASSES))]
    out = printed(capsys, *words, *([] if format == "text" else [f"--{format}"]))
    file = tmp_path / f"out.{format}"
    printed(capsys, *words, "--out", str(file))
    assert file.read_text(encoding="utf-8") == out
    if format == "csv":
        check_csv(out)
        assert '\'=HYPERLINK(""http://x"")' in out
        assert "'+1" in out
    elif format == "json":
        lines = [json.loads(line) for line in out.splitlines()]
        assert {name for line in lines for name in line["classes"]} == set(CLASSES)
        assert {Path(line["image"]).name for line in lines} == {f"{IMAGE}0.png", f"{IMAGE}1.png"}
    else:
        assert "  right\\u202eleft\\u200b\n" in out
    (tmp_path / f"{IMAGE}.png").write_bytes(b"no image")
    printed(capsys, *words, str(tmp_path / f"{IMAGE}.png"), code=1)


def test_caches(nasty: Nasty, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word if word != str(nasty.cache) else str(tmp_path / FOLDER) for word in nasty.words]
    printed(capsys, "cache", "fill", *words)
    out = printed(capsys, "cache", "ls", str(tmp_path / FOLDER))
    printed(capsys, "cache", "verify", str(tmp_path / FOLDER), *words)
    check_files(tmp_path)
    name = out.split("\n")[1].split()[0]
    assert visible(FOLDER) in printed(capsys, "cache", "rm", str(tmp_path / FOLDER), name)
    printed(capsys, "cache", "rm", str(tmp_path / FOLDER), "\x1b[2J", code=1)


@pytest.mark.parametrize("words", [("predict", FOLDER, "x"), (FOLDER,), ("distill", "--epochs", FOLDER)])
def test_mistakes(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(list(words))
    check_text(capsys.readouterr().err)


def test_a_name_cannot_add_a_line_to_an_error(nasty: Nasty, tmp_path: Path) -> None:
    settings = nasty.settings | {"data.path": "x\nFix: run this", "out": str(tmp_path / "run")}
    error = refusal(distill, load_config(None, settings), quiet=True)
    assert [line.split(" ")[0] for line in str(error).split("\n")[1:]].count("Fix:") == 1
    assert "x\\nFix: run this" in str(error)
