"""The exit statuses that docs/commands.md names, each of a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from richkd.cli import main
from richkd.cli.exit_status import FAILED, MEANINGS, OK, STOPPED, TERMINATED, USAGE, about_status
from richkd.core.interrupt import Interrupted
from tests.docs.blocks import ROOT
from tests.fixtures import World, command, one_thread, without_waits

SECONDS = 300


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    process = subprocess.run(
        command(*words),
        env=one_thread() | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
    )
    assert "Traceback" not in process.stderr
    return process


@pytest.mark.slow
def test_fine_failed_and_wrong_usage(world: World, tmp_path: Path) -> None:
    student, photo = str(world.teacher), str(world.images / "test" / "ant" / "0.png")
    fine = run("predict", student, photo)
    assert (fine.returncode, without_waits(fine.stderr)) == (OK, "")
    # One of two images cannot be read: the other one has its result.
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    some = run("predict", student, photo, str(broken))
    assert some.returncode == FAILED
    assert some.stdout == fine.stdout
    assert str(broken) in some.stderr
    assert run("settings", "no-such-setting").returncode == FAILED
    for words in (["settings", "--no-such-option"], ["no-such-command"], ["predict"]):
        wrong = run(*words)
        assert (wrong.returncode, wrong.stdout) == (USAGE, "")
        assert wrong.stderr


# Waits where a command works for long, and says so.
WAITING = """
import signal, sys, time
# Processes in the background of a shell ignore SIGINT, and hand that on.
signal.signal(signal.SIGINT, signal.default_int_handler)
import richkd.cli.settings
from richkd.cli import main
def listed(word):
    print("working", file=sys.stderr, flush=True)
    time.sleep(600)
import richkd.config.listing
richkd.config.listing.settings = listed
main(["settings"])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_with_nothing_to_save(number: signal.Signals) -> None:
    words = [sys.executable, "-c", WAITING]
    with subprocess.Popen(
        words, env=one_thread(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "working\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
    assert out == ""
    if number == signal.SIGINT:
        assert (process.returncode, err) == (STOPPED, "stopped.\n")
    else:
        # A shell adds 128 to the number of the signal.
        assert 128 - process.returncode == TERMINATED
        assert err == ""


def test_every_status_is_documented() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for status in MEANINGS:
        assert f"\n| {status} |" in page
        assert f" {status}: " in about_status()
    assert (OK, FAILED, USAGE, STOPPED, TERMINATED) == (0, 1, 2, 130, 143)


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=lambda one: next(iter(one)) + one.get("PYTHONIOENCODING", ""),
)
def test_letters_that_the_terminal_lacks_are_escaped(environment: dict[str, str]) -> None:
    listed = run("settings", "mixup", **environment)
    assert (listed.returncode, without_waits(listed.stderr)) == (OK, "")
    assert "augment.mixup_alpha" in listed.stdout
    assert run("--help", **environment).returncode == OK


@pytest.mark.slow
def test_json_is_exact_where_the_terminal_lacks_letters(world: World, tmp_path: Path) -> None:
    photo = tmp_path / "Käfer 🐞.png"
    photo.write_bytes((world.images / "test" / "ant" / "0.png").read_bytes())
    result = run("predict", str(world.teacher), str(photo), "--json", PYTHONIOENCODING="ascii")
    assert result.returncode == OK, result.stderr
    assert json.loads(result.stdout)["image"] == str(photo)


@pytest.mark.parametrize("color", ["", "1"])
def test_no_color(color: str) -> None:
    script = "import sys; from richkd.core.terminal import Terminal; Terminal().print('x', style='red')"
    environment = one_thread() | {"FORCE_COLOR": "1", "NO_COLOR": color}
    out = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=SECONDS
    ).stdout
    # An empty variable counts as one that is not set.
    assert ("\x1b[31m" in out) == (color == "")


def test_a_demo_that_is_stopped_while_it_trains_has_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*arguments: object) -> None:
        raise Interrupted

    monkeypatch.setattr("richkd.demo.run.run_demo", stopped)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(tmp_path / "demo")])
    assert ended.value.code == STOPPED
    assert capsys.readouterr().err.strip() == "stopped."
