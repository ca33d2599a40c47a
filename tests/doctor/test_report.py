"""``richkd doctor``: text and JSON say the same, without names and secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from richkd.cli import main
from richkd.doctor.report import examine, lines_of
from richkd.doctor.software import software
from richkd.doctor.surroundings import variables
from tests.fixtures import one_thread

SECRETS = {
    "HF_TOKEN": "hf_secret",
    "HUGGING_FACE_HUB_TOKEN": "hf_secret",
    "WANDB_API_KEY": "wb_secret",
    "HTTPS_PROXY": "http://ada:pw_secret@proxy.example:8080",
    "AWS_SECRET_ACCESS_KEY": "aws_secret",
}


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str]:
    code: object = 0
    try:
        main(["doctor", "--offline", *words])
    except SystemExit as ended:
        code = ended.code or 0
    return code, capsys.readouterr().out


def test_text_and_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out = doctor(capsys, "--json", "--runs", str(tmp_path))
    report = json.loads(out)
    assert code == 0
    assert report["storage"]["runs"]["exists"]
    code, text = doctor(capsys)
    assert code == 0
    for fact in (
        report["software"]["packages"]["torch"],
        report["processor"]["model"],
        sys.version.split()[0],
    ):
        assert str(fact) in text
    sections = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert sections[: len(report) - 1] == [name for name in report if name != "findings"]


def test_names_and_secrets_are_in_no_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "adalovelace"
    home.mkdir()
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "adalovelace")
    monkeypatch.setenv("TMPDIR", "/scratch/adalovelace/tmp")
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    report = examine(offline=True, runs=home / "runs")
    for text in (json.dumps(report), "\n".join(lines_of(report))):
        assert "adalovelace" not in text
        assert "secret" not in text
        assert "~/hf/hub" in text
        assert "proxy.example:8080" in text
    assert report["storage"]["runs"]["folder"] == "~/runs"
    assert report["variables"]["TMPDIR"] == "/scratch/USER/tmp"


def test_variables_that_are_not_set_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("no_proxy", "localhost,me@example")
    values = variables()
    assert "OMP_NUM_THREADS" not in values
    assert values["CUDA_VISIBLE_DEVICES"] == ""
    assert values["NO_PROXY"] == "set"


def test_control_characters_of_variables_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "x\x1b[2J\nfake: line")
    text = "\n".join(lines_of(examine(offline=True)))
    assert "\x1b" not in text
    assert "\nfake" not in text


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [
        "no-such-package>=2",
        "numpy>=99",
        "pillow>=1",
        'scipy>=9; extra == "dev"',
        'x; python_version<"3"',
    ]
    monkeypatch.setattr("richkd.doctor.software.requires", lambda name: needed)
    result = software()
    assert set(result["missing"]) == {"no-such-package>=2", "numpy>=99"}
    assert result["missing"]["no-such-package>=2"] == "not installed"
    assert "scipy" not in result["packages"]


def test_a_broken_pytorch_is_reported_with_status_1(tmp_path: Path) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    environment = one_thread()
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", "richkd", "doctor", "--offline", "--json"]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1, result.stderr
    report = json.loads(result.stdout)
    assert "libcudart.so.12" in report["software"]["broken"]["torch"]
    assert report["findings"][0]["level"] == "error"
    assert "Traceback" not in result.stderr
