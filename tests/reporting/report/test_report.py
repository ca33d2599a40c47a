"""The report of real (small) runs: complete, alone, true to its figures, and alive in a browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.fixtures import CLASSES, TEST, World, make_images, make_world, refusal
from tests.reporting.probe.test_page import Tags

from richkd.cli import main
from richkd.config.schema import EvaluateConfig
from richkd.core.errors import ConfigError, DataError
from richkd.reporting.report.collect import Report, collect, short_name
from richkd.reporting.report.page import MODEL_HEADS, write_report
from richkd.reporting.report.run_facts import read_run
from richkd.reporting.report.verdict import sentences
from richkd.training.run import distill

LIMIT = 5_000_000


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, list[str]]:
    """A fused student and one without teachers."""
    root = tmp_path_factory.mktemp("reported")
    world = make_world(root / "world")
    folders = [root / "small", root / "control"]
    distill(world.config(folders[0], train__epochs=2, optim__lr=1e-4), quiet=True)
    distill(world.config(folders[1], train__epochs=3, method__name="ce"), quiet=True)
    return world, [str(folder) for folder in folders]


@pytest.fixture(scope="module")
def result(runs: tuple[World, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Report:
    world, folders = runs
    tree = tmp_path_factory.mktemp("tree") / "tree.yaml"
    tree.write_text("insect: [ant, bee]\nmammal: [cow]")
    shifts = {"again": str(world.images / "test")}
    return collect(folders, EvaluateConfig(hierarchy=tree, corruptions=True, shift=shifts))


@pytest.fixture(scope="module")
def page(result: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(result, tmp_path_factory.mktemp("page"))


def test_the_page_is_whole_and_asks_nobody(page: Path, result: Report) -> None:
    text = page.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert not re.findall(r"https?:", text)
    assert "url(" not in text
    for _, attributes in tags.seen:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert len(text) < LIMIT
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert len(headings) == 13
    for sentence in sentences(result):
        assert sentence[:60] in text.replace("&#39;", "'")


def test_numbers_on_the_page_are_those_of_the_evaluation(page: Path, result: Report) -> None:
    text = page.read_text(encoding="utf-8")
    figures = json.loads((page.parent / "summary.json").read_text(encoding="utf-8"))
    assert list(figures["models"]) == [model_report.name for model_report in result.evaluation.model_reports]
    files = {
        name: list(csv.reader(io.StringIO(base64.b64decode(content).decode())))
        for name, content in re.findall(r'download="(\S+?)" href="data:text/csv;base64,([^"]*)"', text)
    }
    assert {"models.csv", "classes.csv", "reliability.csv", "risk-coverage.csv", "training.csv"} < set(files)
    assert {"corruptions.csv", "fusion.csv"} < set(files)
    heads, *rows = files["models.csv"]
    assert tuple(heads) == MODEL_HEADS
    for row, model_report in zip(rows, result.evaluation.model_reports, strict=True):
        assert float(row[1]) == pytest.approx(model_report.uncalibrated.top1)
        assert (
            f'<td data-v="{model_report.uncalibrated.top1}">{model_report.uncalibrated.top1:.1%}</td>' in text
        )
    for name, count, *shares in files["classes.csv"][1:]:
        assert (name in CLASSES, int(count), len(shares)) == (True, TEST, 5)
    assert len(files["corruptions.csv"]) == 1 + 3 * 15 * 5
    # Two epochs and three, of two runs.
    assert len(files["training.csv"]) == 1 + 5


def test_mistakes_show_what_everybody_said(result: Report) -> None:
    shipped = result.shipped
    wrong = round((1 - shipped.uncalibrated.top1) * shipped.uncalibrated.n)
    assert len(result.mistakes) == min(wrong, 12)
    for mistake in result.mistakes:
        assert mistake.answers[0].answer != mistake.truth
        assert [one.model for one in mistake.answers] == list(result.names.values())
        assert mistake.picture.address.startswith("data:image/jpeg;base64,")
        assert mistake.truth in mistake.picture.key
    sure = [mistake.answers[0].confidence for mistake in result.mistakes]
    assert sure == sorted(sure, reverse=True)


def test_the_text_has_the_same_figures(page: Path, result: Report) -> None:
    text = (page.parent / "report.md").read_text(encoding="utf-8")
    for model_report in result.evaluation.model_reports:
        assert f"| {result.names[model_report.name]} | {model_report.uncalibrated.top1:.1%} |" in text
    assert "## Robustness to corruptions" in text
    assert result.fingerprint in text
    assert "{{" not in text


def test_names_are_short_and_told_apart() -> None:
    names = {
        "runs/a/small": 0,
        "runs/b/small": 0,
        "runs/b/control": 0,
        "local-dir:runs/t/student": 0,
        "fused": 0,
    }
    assert short_name("runs/b/control", names) == "control"
    assert short_name("runs/a/small", names) == "runs/a/small"
    assert short_name("local-dir:runs/t/student", names) == "teacher (t)"
    assert short_name("fused", names) == "fused"
    assert short_name("local-dir:a/tiny", names, clip="local-dir:a/tiny") == "CLIP (tiny)"
    assert short_name("CLIP outputs", names, clip="CLIP outputs") == "CLIP outputs"


def test_the_current_folder_has_its_own_name(
    runs: tuple[World, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(runs[1][0])
    monkeypatch.chdir(folder)
    assert [short_name(name, []) for name in (".", "./student")] == [folder.name] * 2
    facts = read_run(".")
    assert (facts.name, facts.command) == (folder.name, "richkd distill -c config.yaml")
    assert read_run(folder).command == f"richkd distill -c {folder / 'config.yaml'}"


def test_runs_with_equal_folder_names_are_all_there(runs: tuple[World, list[str]], tmp_path: Path) -> None:
    folders = [tmp_path / str(seed) / "kd" for seed in (0, 1)]
    for folder, run in zip(folders, runs[1], strict=True):
        shutil.copytree(run, folder)
    report = collect(folders, EvaluateConfig())
    summary = json.loads(write_report(report, tmp_path / "page").with_name("summary.json").read_text())
    assert list(summary["runs"]) == list(map(str, folders))
    assert [len(run["epochs"]) for run in summary["runs"].values()] == [2, 3]
    assert [run.name for run in report.runs] == list(map(str, folders))


def test_what_is_no_finished_run_is_named(runs: tuple[World, list[str]], tmp_path: Path) -> None:
    world, folders = runs
    broken = tmp_path / "broken"
    shutil.copytree(folders[1], broken)
    (broken / "metrics.jsonl").unlink()
    error = refusal(collect, [str(broken)])
    assert isinstance(error, DataError)
    assert "no metrics.jsonl" in str(error)
    (broken / "metrics.jsonl").write_text("{not json")
    assert "cannot be read" in str(refusal(collect, [str(broken)]))
    (broken / "metrics.jsonl").write_text('{"epoch": 0}')
    assert f"{broken / 'metrics.jsonl'} must be as it was written" in str(refusal(collect, [str(broken)]))
    make_images(tmp_path / "images")
    distill(
        world.config(
            tmp_path / "else",
            data__path=str(tmp_path / "images"),
            method__name="ce",
            train__epochs=1,
        ),
        quiet=True,
    )
    error = refusal(collect, [folders[0], str(tmp_path / "else")])
    assert isinstance(error, ConfigError)
    assert "same data" in str(error)


def test_the_command_writes_beside_the_run(
    runs: tuple[World, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folders = runs
    with pytest.raises(SystemExit) as ended:
        main(["report", folders[1]])
    assert ended.value.code in (None, 0)
    page = Path(folders[1]) / "report" / "report.html"
    assert page.is_file()
    assert str(page) in capsys.readouterr().out
    assert "Fusion of teacher and CLIP" not in page.read_text(encoding="utf-8")


def test_data_that_moved_are_given_to_the_command(
    runs: tuple[World, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = runs[0]
    then, now, run = tmp_path / "then", tmp_path / "now", tmp_path / "run"
    shutil.copytree(world.images, then)
    distill(world.config(run, data__path=str(then), method__name="ce", train__epochs=1), quiet=True)
    there = collect([run])
    then.rename(now)
    error = str(refusal(collect, [run]))
    assert f"{then} must exist" in error
    assert "if the data are elsewhere now, say where: --data DIR." in error
    assert "--data" not in str(refusal(collect, [run], data=str(then)))
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run), "--data", str(now), "--json"])
    assert ended.value.code in (None, 0)
    here = json.loads(capsys.readouterr().out)
    assert here["fingerprint"] == there.fingerprint
    assert here["models"][str(run)] == json.loads(json.dumps(there.shipped.to_dict()))


def test_the_command_has_no_option_that_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    # The teachers of the first run are evaluated in any case.
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    assert not re.search(r"--teachers", capsys.readouterr().out)


ACTS = """<script>
const rows = () => [...document.querySelectorAll("#classes tbody tr")];
const cells = () => rows().map(row => Number(row.cells[2].dataset.v));
const head = document.querySelectorAll("#classes th")[2];
head.querySelector("button").click();
const rising = cells();
head.querySelector("button").click();
const falling = cells();
const before = getComputedStyle(document.documentElement).backgroundColor;
document.getElementById("theme").click();
const after = getComputedStyle(document.documentElement).backgroundColor;
const asked = performance.getEntriesByType("resource").map(entry => entry.name);
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.setAttribute("data-seen", JSON.stringify({rising, falling, before, after, wide, asked}));
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the path")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_opens_sorts_and_turns_it_dark_and_sends_nothing(
    page: Path, tmp_path: Path, width: int
) -> None:
    acted = tmp_path / "acted.html"
    acted.write_text(page.read_text(encoding="utf-8").replace("</body>", ACTS), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--dump-dom", f"--window-size={width},800", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, acted.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    result = re.search(r'data-seen="(.*?)"', done.stdout)
    assert result is not None
    seen = json.loads(result[1].replace("&quot;", '"'))
    assert seen["rising"] == sorted(seen["rising"])
    assert seen["falling"] == seen["rising"][::-1] or seen["falling"] == sorted(seen["falling"], reverse=True)
    assert seen["before"] != seen["after"]
    # A phone scrolls tables, never the page.
    assert seen["wide"] <= 0
    # Whatever the page asked of anybody; what is not allowed would have been a word on the console.
    assert not [name for name in seen["asked"] if not name.startswith("data:")]
    assert "default-src 'none'" in page.read_text(encoding="utf-8")
