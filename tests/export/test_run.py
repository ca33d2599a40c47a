"""An exported file has the probabilities of its student, and is kept only then."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import richkd.export.run
from richkd.config.choices import FORMATS as REGISTERED
from richkd.core.errors import CheckpointError, ClassError, ConfigError, DataError, ModelError
from richkd.data.framing import frame
from richkd.export.artifact import load_artifact, open_classifier
from richkd.export.graph import Graph
from richkd.export.run import Export, ExportSettings, export_student
from richkd.export.student import Student, load_student
from tests.export.students import CLASSES, make_photos, make_student
from tests.fixtures import World, make_images, refusal

pytestmark = pytest.mark.slow

# Formats with their runtime, and the difference of probabilities that rounding explains.
FORMATS = {"onnx": ("onnxruntime", 1e-5), "pt2": ("torch", 1e-5), "openvino": ("openvino", 5e-3)}


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("runs") / "small" / "student")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos") / "photos")


@pytest.fixture(scope="module", params=sorted(FORMATS))
def exported(
    request: pytest.FixtureRequest, student: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Export:
    pytest.importorskip(FORMATS[request.param][0])
    out = tmp_path_factory.mktemp("out") / f"small{REGISTERED[request.param].suffix}"
    return export_student(str(student), ExportSettings(request.param, out, images=str(photos)))


def test_probabilities_are_those_of_the_student(exported: Export, student: Path, photos: Path) -> None:
    model, artifact = load_student(student), load_artifact(exported.files[0])
    files = sorted(photos.iterdir())
    expected = model.probabilities(files)
    # The test would not see an error if all probabilities were equal.
    assert float(expected.max() - expected.min()) > 0.2
    tolerance = FORMATS[exported.format][1]
    assert torch.allclose(artifact.probabilities(files), expected, atol=tolerance)
    assert artifact.class_names == model.class_names == CLASSES
    probabilities, logits = artifact.outputs(files)
    assert torch.allclose((logits / 1.5).softmax(1), probabilities, atol=1e-6)
    assert artifact.probabilities([]).shape == (0, 3)
    assert exported.comparison.images == 5
    assert exported.comparison.agreement == 1.0
    assert exported.comparison.max_difference < tolerance
    assert exported.bytes == sum(file.stat().st_size for file in exported.files)


def test_arrays_images_and_files_are_the_same(exported: Export, photos: Path) -> None:
    artifact, file = load_artifact(exported.files[0]), photos / "2.png"
    picture = Image.open(file)
    same = artifact.probabilities([file, picture, np.asarray(picture)])
    assert torch.allclose(same, same[:1].expand(3, -1), atol=1e-6)


def test_the_description_is_complete_and_has_no_paths(exported: Export, student: Path) -> None:
    about = load_artifact(exported.files[0]).description
    model = load_student(student)
    assert about == exported.description
    assert (about.class_names, about.temperature, about.raw) == (CLASSES, 1.5, False)
    assert (about.framing, about.mean, about.std) == (
        model.network.framing,
        model.network.mean,
        model.network.std,
    )
    assert about.source["name"] == "small"
    assert about.training == {"temperature": 1.5, "method": "kd", "note": "\u202eabc"}
    for file in exported.files:
        content = file.read_bytes()
        for path in (str(student).encode(), str(Path.cwd()).encode(), b"site-packages", b".py"):
            assert path not in content, path


def test_the_hash_of_the_source_is_that_of_its_files(exported: Export, student: Path, tmp_path: Path) -> None:
    import hashlib

    lines = "".join(
        f"{hashlib.sha256((student / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("config.json", "model.safetensors")
    )
    assert exported.description.source["sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_without_images_and_without_a_run_the_proof_says_that_pictures_are_generated(
    student: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    result = export_student(str(student), ExportSettings("pt2", tmp_path / "a.pt2"), lines.append)
    assert result.comparison.source == "8 generated pictures"
    assert "no real pictures" in lines[0]
    assert result.comparison.student is None


def test_a_run_is_compared_on_its_own_held_out_images(full_run: Path, tmp_path: Path) -> None:
    result = export_student(str(full_run), ExportSettings("pt2", tmp_path / "a.pt2", most=7))
    assert result.comparison.source.startswith("7 of 12 images of test in ")
    assert result.comparison.student is not None
    assert result.comparison.artifact is not None
    assert result.comparison.artifact.n == 7
    assert result.comparison.artifact.top1 == result.comparison.student.top1
    assert json.loads(json.dumps(result.to_dict()))["comparison"]["artifact"]["n"] == 7
    # The same data by name are divided in the same way.
    from richkd.config.loading import load_config

    data = load_config(full_run / "config.yaml").data.path
    again = export_student(str(full_run), ExportSettings("pt2", tmp_path / "a.pt2", data=data, most=7))
    assert again.comparison == result.comparison


def test_the_raw_network_has_normalized_pixels_as_input(student: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "raw.onnx"
    export_student(str(student), ExportSettings("onnx", out, raw=True, images=str(photos)))
    artifact, model = load_artifact(out), load_student(student)
    assert artifact.description.raw
    files = sorted(photos.iterdir())
    assert torch.allclose(artifact.probabilities(files), model.probabilities(files), atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(out)
    (pixels,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (pixels.name, pixels.type, pixels.shape) == ("pixels", "tensor(float)", ["batch", 3, 16, 16])
    assert (logits.name, logits.shape) == ("logits", ["batch", 3])
    framed = np.asarray(frame(Image.open(files[0]), model.network.framing), np.float32) / 255
    inputs = (framed - np.float32(model.network.mean)) / np.float32(model.network.std)
    (output,) = session.run(None, {"pixels": inputs.transpose(2, 0, 1)[None].astype(np.float32)})
    assert torch.allclose(torch.from_numpy(output), artifact.outputs(files[:1])[1], atol=1e-5)


class Broken:
    """The format pt2, but with a graph that is not that of the student."""

    suffix, packages, extra, raw_only, tolerance = ".pt2", (), None, False, 0.01

    def __init__(self, change: str) -> None:
        self.change = change

    def write(self, graph: Graph, path: Path, texts: dict[str, str]) -> str:
        from richkd.export.formats.pt2 import Pt2

        module = graph.module
        if self.change == "temperature":
            module.temperature = 1.0  # type: ignore[assignment]
        else:
            framing = module.before.framing  # type: ignore[union-attr]
            framing.framing = replace(framing.framing, interpolation="nearest")  # type: ignore
        return Pt2().write(graph, path, texts)


@pytest.mark.parametrize("change", ["temperature", "interpolation"])
def test_a_file_that_differs_is_refused_and_nothing_is_left(
    student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(richkd.export.run, "format_named", lambda name: Broken(change))
    settings = ExportSettings("pt2", tmp_path / "x" / "a.pt2", images=str(photos))
    error = refusal(export_student, str(student), settings)
    assert isinstance(error, ModelError)
    assert "--tolerance" in error.rule
    assert "nothing was written" in str(error.got)
    assert [file for file in (tmp_path / "x").rglob("*") if file.is_file()] == []
    # An earlier file stays.
    settings.out.write_bytes(b"before")  # type: ignore[union-attr]
    refusal(export_student, str(student), settings)
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["a.pt2"]
    assert (tmp_path / "x" / "a.pt2").read_bytes() == b"before"
    accepted = export_student(str(student), replace(settings, tolerance=1.0))
    assert accepted.comparison.max_difference > 0.01


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"to": "onx"}, ConfigError, "Did you mean 'onnx'?"),
        ({"to": "torchscript"}, ConfigError, "There is no format"),
        ({"out": Path("small.pt2")}, ConfigError, "must end in .onnx"),
        ({"out": Path("small")}, ConfigError, "must end in .onnx"),
        ({"out": Path("/dev/null/x.onnx")}, CheckpointError, "cannot be written"),
        ({"most": 0}, ConfigError, "--check-images"),
        ({"to": "pt2", "out": Path("small.bin")}, ConfigError, "must end in .pt2"),
        ({"tolerance": float("nan")}, ConfigError, "--tolerance"),
        ({"tolerance": -1.0}, ConfigError, "--tolerance"),
        ({"tolerance": 0.0}, ConfigError, "--tolerance"),
        ({"images": "no-such-folder"}, DataError, "no-such-folder"),
        ({"data": "no-such-folder"}, DataError, "no-such-folder"),
        ({"data": "a", "images": "b"}, ConfigError, "--data or from --images"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    kind: type[Exception],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(export_student, str(student), replace(ExportSettings("onnx"), **changes))  # type: ignore[arg-type]
    assert isinstance(error, kind)
    assert text in str(error)
    assert list(tmp_path.iterdir()) == []


def test_data_with_other_classes_are_refused(student: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    error = refusal(
        export_student, str(student), ExportSettings("pt2", tmp_path / "a.pt2", data=str(tmp_path / "images"))
    )
    assert isinstance(error, ClassError)


def test_a_missing_package_is_named_with_its_command(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    error = refusal(export_student, str(student), ExportSettings("onnx", tmp_path / "a.onnx"))
    assert error.fix == "in a clone of richkd: pip install '.[onnx]'"
    assert "onnxscript" in error.rule


def test_the_default_name_is_that_of_the_run(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (str(student.parent), f"local-dir:{student}"):
        assert export_student(name, ExportSettings("pt2")).files == (Path("small.pt2"),)
    assert [file.name for file in tmp_path.iterdir()] == ["small.pt2"]


def test_a_checkpoint_of_a_run_is_exported(world: World, tmp_path: Path) -> None:
    from richkd.training.run import distill

    run = distill(world.config(tmp_path / "run", method__name="ce", train__epochs=1), quiet=True).folder
    if not list((run / "checkpoints").glob("*.ckpt")):
        pytest.skip("the run keeps no checkpoint")
    settings = ExportSettings("pt2", tmp_path / "a.pt2", checkpoint="last")
    result = export_student(str(run), settings)
    assert result.description.temperature == 1.0
    assert result.description.source["files"] == ["last.ckpt"]


def test_students_and_artifacts_are_told_apart_by_the_suffix(
    exported: Export, student: Path, tmp_path: Path
) -> None:
    assert isinstance(open_classifier(str(student)), Student)
    assert not isinstance(open_classifier(str(exported.files[0])), Student)
    folder = tmp_path / "run.onnx" / "student"
    make_student(folder)
    assert isinstance(open_classifier(str(folder.parent)), Student)
    error = refusal(open_classifier, str(exported.files[0]), "best")
    assert "--checkpoint best needs the folder of a run" in error.rule


def test_executorch_has_the_network_alone(student: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    settings = ExportSettings("executorch", tmp_path / "a.pte", images=str(photos))
    assert "--raw" in str(refusal(export_student, str(student), settings).fix)
    result = export_student(str(student), replace(settings, raw=True))
    assert result.comparison.max_difference < 1e-5
    artifact = load_artifact(tmp_path / "a.pte")
    files = sorted(photos.iterdir())
    # More than the batch for which memory is reserved.
    expected = load_student(student).probabilities(files).repeat(4, 1)
    assert torch.allclose(artifact.probabilities(files * 4), expected, atol=1e-5)


def test_damaged_and_foreign_files_are_refused(exported: Export, tmp_path: Path) -> None:
    content = exported.files[0].read_bytes()
    damaged = tmp_path / exported.files[0].name
    for part in (b"", content[: len(content) // 2], b"no artifact"):
        damaged.write_bytes(part)
        error = refusal(load_artifact, damaged)
        assert isinstance(error, ModelError)
        assert str(damaged) in error.rule
    assert isinstance(refusal(load_artifact, tmp_path / f"gone{damaged.suffix}"), ModelError)
    damaged.unlink()
    damaged.mkdir()
    assert isinstance(refusal(load_artifact, damaged), ModelError)
    assert isinstance(refusal(load_artifact, tmp_path / "small.tflite"), ConfigError)


def test_an_exported_program_that_runs_code_is_refused(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pickle
    import zipfile

    out = tmp_path / "a.pt2"
    export_student(str(student), ExportSettings("pt2", out))

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("code ran",)

    for place in ("sample_inputs", "constants", "models"):
        bad = tmp_path / f"{place}.pt2"
        with zipfile.ZipFile(out) as source, zipfile.ZipFile(bad, "w") as target:
            for name in source.namelist():
                data = source.read(name)
                if place == "sample_inputs" and "/sample_inputs/" in name:
                    data = pickle.dumps(Evil())
                if place == "constants" and name.endswith("constants_config.json"):
                    config = json.loads(data)
                    config["config"]["x"] = {"path_name": "x.pt", "is_param": False, "use_pickle": True}
                    data = json.dumps(config).encode()
                if place == "models" and "/models/" in name:
                    code = "exec(bytes((112,114,105,110,116,40,39,99,111,100,101,32,114,97,110,39,41)))"
                    changed = re.sub(r"Symbol\('s\d+', positive=True, integer=True\)", code, data.decode())
                    assert changed != data.decode()
                    data = changed.encode()
                target.writestr(name, data)
            if place == "constants":
                target.writestr(
                    f"{source.namelist()[0].split('/')[0]}/data/constants/x.pt", pickle.dumps(Evil())
                )
        assert isinstance(refusal(load_artifact, bad), ModelError)
    assert "code ran" not in capsys.readouterr().out


def test_a_graph_for_single_pictures_is_refused(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a data set often have different sizes, so the comparison alone would not see it."""
    from richkd.export.formats.pt2 import Pt2Program

    run = Pt2Program.run

    def first_only(self: Pt2Program, inputs: np.ndarray) -> list[np.ndarray]:
        outputs = run(self, inputs)
        return [np.repeat(part[:1], len(part), axis=0) for part in outputs]

    monkeypatch.setattr(Pt2Program, "run", first_only)
    error = refusal(export_student, str(student), ExportSettings("pt2", tmp_path / "a.pt2"))
    assert "in a batch of three" in str(error.got)


def test_two_exports_have_the_same_bytes(
    exported: Export, student: Path, photos: Path, tmp_path: Path
) -> None:
    if exported.format == "openvino":
        pytest.skip("OpenVINO numbers the names of its operations")
    settings = ExportSettings(exported.format, tmp_path / exported.files[0].name, images=str(photos))
    export_student(str(student), settings)
    assert settings.out is not None
    assert settings.out.read_bytes() == exported.files[0].read_bytes()
