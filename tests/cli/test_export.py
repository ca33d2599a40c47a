"""Export, predict, evaluate and measure an artifact from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from richkd.cli import main
from richkd.config.loading import load_config

pytestmark = pytest.mark.slow


def call(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert int(end.value.code or 0) == status, err
    return out, err


@pytest.fixture(scope="module", params=["onnx", "pt2"])
def artifact(
    request: pytest.FixtureRequest, full_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, object]]:
    pytest.importorskip({"onnx": "onnxruntime", "pt2": "torch"}[request.param])
    from richkd.export.run import ExportSettings, export_student

    out = tmp_path_factory.mktemp("artifact") / f"small.{request.param}"
    return out, export_student(str(full_run), ExportSettings(request.param, out)).to_dict()


def test_the_result_is_printed(full_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small.pt2"
    printed, _ = call(capsys, "export", full_run, "--to", "pt2", "--out", out, "--check-images", 5)
    for text in (
        "same top-1 class",
        "100.00%",
        "5 of 12 images of test",
        "calibration error (ECE)",
        str(out),
    ):
        assert text in " ".join(printed.split())
    printed, _ = call(capsys, "export", full_run, "--to", "pt2", "--out", out, "--json")
    result = json.loads(printed)
    assert result["files"] == [str(out)]
    assert result["comparison"]["images"] == 12


def test_predict_prints_the_same_for_a_student_and_its_artifact(
    full_run: Path, artifact: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    photos = Path(load_config(full_run / "config.yaml").data.path) / "test"
    ours, _ = call(capsys, "predict", full_run, photos, "--json")
    theirs, _ = call(capsys, "predict", artifact[0], photos, "--json")
    assert len(ours.splitlines()) == len(theirs.splitlines()) == 12
    for one, other in zip(ours.splitlines(), theirs.splitlines(), strict=True):
        first, second = json.loads(one), json.loads(other)
        assert first["image"] == second["image"]
        assert list(first["classes"]) == list(second["classes"])
        assert first["classes"] == pytest.approx(second["classes"], abs=1e-5)


def test_a_bad_image_does_not_stop_an_artifact(
    artifact: tuple[Path, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    _, err = call(capsys, "predict", artifact[0], tmp_path / "bad.png", status=1)
    assert "1 of the images cannot be read" in err


def test_evaluate_measures_an_artifact_like_its_student(
    full_run: Path, artifact: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_config(full_run / "config.yaml").data.path
    printed, _ = call(capsys, "evaluate", full_run, artifact[0], "--data", data, "--json")
    result = json.loads(printed)
    ours, theirs = result["models"].values()
    assert ours["uncalibrated"]["top1"] == theirs["uncalibrated"]["top1"]
    assert ours["uncalibrated"]["nll"] == pytest.approx(theirs["uncalibrated"]["nll"], abs=1e-4)
    assert list(result["costs"]) == [str(full_run)]
    printed, _ = call(capsys, "evaluate", artifact[0], "--data", data)
    assert "cost on this machine" not in printed


def test_benchmark_prints_each_batch(
    artifact: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--batch", 1, 2, "--rounds", 2, "--warmup", 1, "--threads", 1)
    printed, _ = call(capsys, "benchmark", artifact[0], *options)
    assert "images per second" in printed
    assert "1 thread," in printed
    printed, _ = call(capsys, "benchmark", artifact[0], *options, "--picture", 20, 30, "--json")
    (result,) = json.loads(printed)
    assert [row["batch"] for row in result["batches"]] == [1, 2]
    assert "20 x 30" in result["input"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("export", "RUN", "--to", "onx"), "Did you mean 'onnx'?"),
        (("export", "RUN", "--to", "pt2", "--max-drop", "1"), "no effect without --int8"),
        (("export", "gone", "--to", "pt2"), "gone"),
        (("export", "RUN", "--to", "pt2", "--out", "x.onnx"), "must end in .pt2"),
        (("predict", "gone.onnx", "a.png"), "The artifact gone.onnx must exist"),
        (("benchmark", "gone.pt2"), "The artifact gone.pt2 must exist"),
        (("evaluate", "gone.pt2", "--data", "DATA"), "gone.pt2"),
        (("evaluate", "gone.pt2", "--data", "DATA", "--checkpoint", "best"), "needs the folder of a run"),
    ],
)
def test_mistakes_end_with_a_message(
    full_run: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], text: str
) -> None:
    names = {"RUN": str(full_run), "DATA": str(load_config(full_run / "config.yaml").data.path)}
    _, err = call(capsys, *(names.get(word, word) for word in words), status=1)
    assert text in " ".join(err.split())
    assert "Traceback" not in err
