"""Errors on corrupted images in a comparison: right, measured once, and again if anything changed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from richkd.compare import corrupted as module
from richkd.compare.corrupted import FOLDER
from richkd.compare.run import Comparison
from richkd.core.interrupt import Interrupted
from richkd.data.sources import open_data
from richkd.data.split import evenly_spaced
from richkd.evaluate.corruptions.corrupt import corrupt
from richkd.export.student import load_student
from richkd.models.build import Network
from tests.compare.plans import content, run, runs_of, write
from tests.fixtures import CLASSES, TEST, World, make_images, refusal

NAMES, IMAGES = ["fog", "pixelate"], 7
PLAN: dict[str, Any] = {"corruptions": {"images": IMAGES, "names": NAMES}, "controls": False}


def slow_error(world: World, student: Network) -> float:
    """Each image by itself: corrupt, scale to the network's range, and compare with the label."""
    split = open_data(world.config(Path("unused")).data, 0).splits["test"]
    wrong = []
    for index in evenly_spaced(len(split), IMAGES).tolist():
        pixels_HWC = np.asarray(split.read(index))
        for name in NAMES:
            for severity in range(1, 6):
                seen_BHWC = corrupt(torch.from_numpy(pixels_HWC.copy())[None], name, severity)
                mean_3, std_3 = torch.tensor(student.mean), torch.tensor(student.std)
                input_B3HW = ((seen_BHWC.float() / 255 - mean_3) / std_3).permute(0, 3, 1, 2)
                with torch.inference_mode():
                    guess = int(student.eval()(input_B3HW).logits_BC.argmax())
                wrong.append(guess != int(split.labels_N[index]))
    return float(np.mean(wrong))


@pytest.fixture(scope="module")
def compared(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    folder = tmp_path_factory.mktemp("corrupted")
    hierarchy = folder / "superclasses.yaml"
    hierarchy.write_text("{insect: [ant, bee], mammal: [cow]}")
    path = write(folder, content(world, **PLAN, hierarchy=str(hierarchy)))
    return path, run(path, folder / "out")


def test_errors_are_those_of_a_loop_over_images(world: World, compared: tuple[Path, Comparison]) -> None:
    path, comparison = compared
    (cell,) = comparison.cells
    measured = {one.name: one.corrupted_error for method in cell.methods for one in method.runs}
    for planned in runs_of(path):
        student = load_student(path.parent / "out" / "runs" / planned.name / "student").network
        assert measured[planned.name] == pytest.approx(slow_error(world, student))


def test_differences_are_paired_by_seed(compared: tuple[Path, Comparison]) -> None:
    kd, richkd = compared[1].cells[0].methods
    difference = richkd.corrupted_difference
    assert kd.corrupted_difference is None
    assert difference is not None
    pairs = zip(richkd.runs, kd.runs, strict=True)
    expected = [float(a.corrupted_error or 0) - float(b.corrupted_error or 0) for a, b in pairs]
    assert difference.mean == pytest.approx(np.mean(expected))
    assert difference.sd == pytest.approx(np.std(expected, ddof=1))


def test_all_files_show_the_figures(compared: tuple[Path, Comparison]) -> None:
    out = compared[0].parent / "out"
    for name in ("compare.html", "compare.md", "compare.tex"):
        text = (out / name).read_text()
        assert "superclass AUROC" in text, name
        assert "wrong on corrupted images" in text, name
    method = json.loads((out / "compare.json").read_text())["cells"][0]["methods"][1]
    assert method["superclass_auroc"]["n"] == method["corrupted_error"]["n"] == 2
    row = f"{100 * method['corrupted_error']['mean']:.2f} ±"
    assert row in (out / "compare.md").read_text()


def test_nothing_is_measured_again(
    compared: tuple[Path, Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*args: object, **options: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("richkd.compare.corrupted.measure_corrupted", measure)
    path, before = compared
    assert run(path, path.parent / "out").cells == before.cells


@pytest.mark.parametrize("damage", ["weights", "count", "text"])
def test_what_was_measured_otherwise_is_measured_again(
    compared: tuple[Path, Comparison], damage: str
) -> None:
    path, before = compared
    file = sorted((path.parent / "out" / FOLDER).glob("*.json"))[0]
    good = file.read_text()
    wrong = json.loads(good)
    if damage == "text":
        file.write_text(good[:20])
    else:
        wrong |= {damage: "other", "errors": {name: [0.0] * 5 for name in NAMES}}
        file.write_text(json.dumps(wrong))
    assert run(path, path.parent / "out").cells == before.cells
    assert file.read_text() == good


def test_a_stopped_measurement_goes_on(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, content(world, **PLAN, seeds=[0]))
    measure, asked = module.measure_corrupted, []

    def stopping(*args: Any, **options: Any) -> Any:
        asked.append(options["corruptions"])
        if len(asked) == 1:
            signal.raise_signal(signal.SIGINT)
        return measure(*args, **options)

    monkeypatch.setattr(module, "measure_corrupted", stopping)
    with pytest.raises(Interrupted):
        run(path, tmp_path / "out")
    run(path, tmp_path / "out")
    assert asked == [("fog",), ("pixelate",)]


def test_other_images_with_the_same_names_are_not_exchanged(world: World, tmp_path: Path) -> None:
    make_images(tmp_path / "other", seed=1)
    sets = {"first": str(world.images), "second": str(tmp_path / "other")}
    base = content(world)["base"]
    del base["teachers"], base["clip"], base["train"]["teacher_precision"]
    changes = {"base": base, "methods": {"ce": None}, "seeds": [0], "corruptions": {"names": ["brightness"]}}
    measured = []
    for number, names in enumerate((list(sets), list(sets)[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        cells = run(
            write(folder, content(world, **changes, data={n: sets[n] for n in names})), folder / "out"
        ).cells
        measured.append({cell.cell.data: cell.methods[0].corrupted_error for cell in cells})
    assert measured[0] == measured[1]
    assert measured[0]["first"] != measured[0]["second"]


def test_wrong_settings_are_named_before_the_queue_starts(world: World, tmp_path: Path) -> None:
    path = write(tmp_path, content(world, corruptions={"names": ["fgo"]}))
    error = str(refusal(run, path, tmp_path / "out"))
    assert "There is no corruption 'fgo' (plan.yaml, line " in error
    assert "fog" in error
    hierarchy = tmp_path / "superclasses.yaml"
    hierarchy.write_text("{insect: [ant, bee]}")
    path = write(tmp_path, content(world, hierarchy=str(hierarchy)))
    assert "'cow'" in str(refusal(run, path, tmp_path / "out"))
    assert not (tmp_path / "out" / "runs").exists()


def test_more_images_than_there_are_means_all(world: World, tmp_path: Path) -> None:
    plan = content(world, **PLAN | {"corruptions": {"names": ["fog"], "images": 10_000}}, seeds=[0])
    run(write(tmp_path, plan), tmp_path / "out")
    files = sorted((tmp_path / "out" / FOLDER).glob("*.json"))
    assert len(files) == 2
    wrong = [
        len(CLASSES) * TEST * rate for file in files for rate in json.loads(file.read_text())["errors"]["fog"]
    ]
    assert wrong == pytest.approx([round(count) for count in wrong])
