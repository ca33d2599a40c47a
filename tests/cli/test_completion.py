"""The scripts of ``richkd completion`` are read by their shells and complete commands and options."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from richkd.cli import app, main

SHELLS = ("bash", "zsh", "fish")
BASH = shutil.which("bash")


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The script for a shell, as a file."""
    with pytest.raises(SystemExit) as ended:
        main(["completion", request.param])
    assert not ended.value.code
    file = tmp_path / f"richkd.{request.param}"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    return file


@pytest.mark.parametrize("script", SHELLS, indirect=True)
def test_each_script_names_every_command_and_is_read_by_its_shell(script: Path) -> None:
    text, shell = script.read_text(encoding="utf-8"), script.suffix[1:]
    for name in app:
        assert name.lstrip("-") in text, name
    if shutil.which(shell) is not None:
        result = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, timeout=120)
        assert (result.returncode, result.stderr) == (0, "")


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in ("richkd", *words))
    lines = (
        f"source '{script}'",
        "complete -p richkd >/dev/null || exit 9",
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words)}",
        '"$(complete -p richkd | sed -E "s/.*-F ([^ ]+) .*/\\1/")"',
        "printf '%s\\n' \"${COMPREPLY[@]}\"",
    )
    assert BASH is not None
    result = subprocess.run([BASH, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.skipif(BASH is None, reason="there is no bash")
@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes(script: Path) -> None:
    assert completed(script, "dist") == ["distill"]
    assert set(completed(script, "d")) == {"distill", "demo", "doctor"}
    assert completed(script, "distill", "--teacher-c") == ["--teacher-cache"]
    assert "verify" in completed(script, "cache", "")
    assert completed(script, "evaluate", "runs/x", "--checkpoint", "b") == ["best"]
    assert completed(script, "doctor", "--off") == ["--offline"]


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", "csh"])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert all(shell in err for shell in SHELLS)
