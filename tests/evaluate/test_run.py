"""Evaluating and predicting with what was saved, and with networks that others trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from richkd.cli import main
from richkd.config.loading import load_config
from richkd.config.schema import DataConfig, EvaluateConfig
from richkd.core.errors import ClassError, DataError, ModelError
from richkd.data.batches import open_store
from richkd.data.framing import Framing
from richkd.data.sources import open_data
from richkd.evaluate.model_report import ModelReport
from richkd.evaluate.run import EvaluationRun, evaluate_models
from richkd.export.student import load_student, save_student
from richkd.metrics.accuracy import measure
from richkd.metrics.calibration import fit_temperature
from richkd.models.build import build_network
from richkd.teachers.predict import logits_of, outputs_of
from richkd.teachers.vision import VisionTeacher
from richkd.training.run import distill
from tests.fixtures import CLASSES, SIZE, TEST, World, make_clip, make_teacher, refusal

CPU = torch.device("cpu")


def judged(
    model: str | Path, data: str | Path, *, weights: Path | None = None, **changes: Any
) -> ModelReport:
    config = EvaluateConfig(**changes)
    return evaluate_models([str(model)], str(data), config, weights=weights).evaluation.model_reports[0]


def test_a_saved_network_is_measured_as_one_by_one(world: World) -> None:
    result = judged(world.teacher, world.images)
    student = load_student(world.teacher)
    probs, labels = [], []
    for label, name in enumerate(CLASSES):
        for number in range(TEST):
            image = Image.open(world.images / "test" / name / f"{number}.png")
            probs.append(student.probabilities([image])[0])
            labels.append(label)
    expected = measure(torch.stack(probs).log(), torch.tensor(labels)).to_dict()
    assert result.uncalibrated.to_dict() == pytest.approx(expected, abs=1e-5)
    assert result.uncalibrated.n == len(labels)
    assert result.uncalibrated == result.calibrated


def test_the_stored_temperature_is_measured_too(world: World, tmp_path: Path) -> None:
    network = load_student(world.teacher).network
    save_student(tmp_path / "student", network, CLASSES, 2.5, {})
    result = judged(tmp_path / "student", world.images, split="train")
    assert result.temperature == 2.5
    assert result.uncalibrated.top1 == result.calibrated.top1
    assert result.uncalibrated.nll != result.calibrated.nll


def test_weights_by_name(world: World, tmp_path: Path) -> None:
    # The name alone says nothing of 16 pixels, so the network sees its own resolution.
    weights = world.teacher / "model.safetensors"
    assert judged("cifar_resnet8", world.images, weights=weights).uncalibrated.n == len(CLASSES) * TEST
    make_teacher(tmp_path / "four", (*CLASSES, "dog"))
    error = refusal(judged, "cifar_resnet8", world.images, weights=tmp_path / "four" / "model.safetensors")
    assert isinstance(error, ModelError)
    assert "4 outputs" in str(error.got)


def test_networks_with_checkpoints_stand_beside_others(world: World) -> None:
    weights = world.teacher / "model.safetensors"
    result = evaluate_models([str(world.teacher), f"cifar_resnet8={weights}"], str(world.images)).evaluation
    assert [model_report.name for model_report in result.model_reports] == [
        str(world.teacher),
        "cifar_resnet8",
    ]
    alone = judged("cifar_resnet8", world.images, weights=weights)
    assert result.model_reports[1].uncalibrated == alone.uncalibrated
    twice = [f"cifar_resnet8={weights}", f"cifar_resnet8={weights}"]
    assert "must have different names" in str(refusal(evaluate_models, twice, str(world.images)))


def test_two_checkpoints_of_one_network_are_evaluated_together(world: World, tmp_path: Path) -> None:
    files = [world.teacher / "model.safetensors", tmp_path / "other" / "model.safetensors"]
    make_teacher(tmp_path / "other", CLASSES, seed=6)
    models = [f"cifar_resnet8={file}" for file in files]
    result = evaluate_models(models, str(world.images)).evaluation
    assert [one.name for one in result.model_reports] == models
    alone = [judged("cifar_resnet8", world.images, weights=file).uncalibrated for file in files]
    assert [one.uncalibrated for one in result.model_reports] == alone
    assert alone[0] != alone[1]


def test_a_model_without_a_temperature_gets_one_from_calibration_images(world: World, tmp_path: Path) -> None:
    network = load_student(world.teacher).network
    save_student(tmp_path / "kept", network, CLASSES, 2.5, {})
    result = evaluate_models(
        [str(world.teacher), str(tmp_path / "kept")],
        str(world.images),
        EvaluateConfig(test_calibration_fraction=0.5),
    )
    fitted, kept = (model_report.temperature for model_report in result.evaluation.model_reports)
    held_out = open_data(DataConfig(path=str(world.images), test_calibration_fraction=0.5), 0).splits[
        "calibration"
    ]
    logits_NC = logits_of(network, open_store(held_out, Framing(SIZE)), CPU)
    assert fitted == pytest.approx(fit_temperature(logits_NC, held_out.labels_N), rel=1e-4)
    assert kept == 2.5
    assert result.evaluation.model_reports[0].uncalibrated.n == len(CLASSES) * TEST - len(held_out)


def test_no_temperature_is_fitted_on_the_evaluated_images(world: World) -> None:
    result = judged(world.teacher, world.images, test_calibration_fraction=0.5, split="calibration")
    assert result.temperature == 1.0
    assert result.uncalibrated == result.calibrated


def test_mistakes_are_named(world: World, tmp_path: Path) -> None:
    error = refusal(judged, world.teacher, world.images, split="tset")
    assert isinstance(error, DataError)
    assert "'test'" in str(error.fix)
    error = refusal(judged, "cifar_resnet8", world.images)
    assert isinstance(error, ModelError)
    assert "student's folder" in error.rule
    make_teacher(tmp_path / "turned", CLASSES[::-1])
    error = refusal(judged, tmp_path / "turned", world.images)
    assert isinstance(error, ClassError)
    assert str(tmp_path / "turned") in error.rule


def test_logits_do_not_depend_on_how_images_are_stored_and_leave_the_mode_alone(world: World) -> None:
    network = load_student(world.teacher).network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    split = open_data(DataConfig(path=str(world.images)), 0).splits["test"]
    resident, streamed = (
        open_store(split, Framing(SIZE), in_memory_gb=size, workers=0) for size in (1.0, 0.0)
    )
    logits_NC = logits_of(network, resident, CPU)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(logits_NC, logits_of(network, streamed, CPU))
    output = outputs_of(VisionTeacher(network, CPU), resident, CPU)
    # A teacher is evaluated in float32, without the rounding of a cache.
    assert torch.equal(output.logits_BC, logits_NC)
    assert output.feats_BF.shape == (len(split), network.feature_width)


def published(data_dir: Path, name: str, capsys: pytest.CaptureFixture[str]) -> float:
    weights = data_dir / "cifar100-teachers" / f"cifar100_{name}.pth"
    if not weights.is_file():
        pytest.skip(f"published weights not found: {weights}")
    words = ["evaluate", f"cifar_{name}", "--weights", str(weights), "--data", str(data_dir / "cifar100")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--label-column", "fine_label", "--json"])
    assert ended.value.code in (None, 0)
    (model,) = json.loads(capsys.readouterr().out)["models"].values()
    figures = model["uncalibrated"]
    assert figures["n"] == 10_000
    # Superclasses of these classes are known, and its wrong answers mean something.
    assert model["semantics"]["superclass_auroc"]["low"] > 0.7
    top1: float = figures["top1"]
    return round(100 * top1, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "top1"), [("resnet20", 68.83), ("resnet32", 70.16), ("resnet44", 71.63), ("resnet56", 72.63)]
)
def test_published_accuracies_are_met_to_the_last_image(
    data_dir: Path, capsys: pytest.CaptureFixture[str], name: str, top1: float
) -> None:
    assert published(data_dir, name, capsys) == top1


def test_unsplit_data_are_split_as_the_student_was_trained(world: World, tmp_path: Path) -> None:
    unsplit = world.images / "train"
    settings = load_config(
        overrides={"data.path": str(unsplit), "data.test_fraction": 0.5, "student.name": "x", "train.seed": 7}
    )
    student = load_student(world.teacher)
    save_student(tmp_path / "run" / "student", student.network, CLASSES, 1.0, {})
    (tmp_path / "run" / "config.yaml").write_text(settings.to_yaml())
    trained = open_data(settings.data, seed=7).splits["test"]
    network = student.network
    expected = measure(logits_of(network, open_store(trained, network.framing), CPU), trained.labels_N)
    folder = tmp_path / "run"
    for model in (folder, folder / "student", f"local-dir:{folder}", f"local-dir:{folder / 'student'}"):
        assert judged(model, unsplit).uncalibrated == expected
    assert judged(world.teacher, unsplit).uncalibrated.n != expected.n


def test_models_are_judged_side_by_side_with_a_runs_teachers(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", train__epochs=1, fusion__preset="paper")
    summary = distill(config, quiet=True).summary
    tree = tmp_path / "tree.yaml"
    tree.write_text("insect: [ant, bee]\nmammal: [cow]")
    result = evaluate_models(
        [str(tmp_path / "run"), str(world.teacher)],
        str(world.images),
        EvaluateConfig(hierarchy=tree, teachers=True),
    ).evaluation
    names = [model_report.name for model_report in result.model_reports]
    assert names == [
        str(tmp_path / "run"),
        str(world.teacher),
        f"local-dir:{world.teacher}",
        "CLIP outputs",
        "fused",
    ]
    for model_report, name in zip(result.model_reports[2:], ("local-dir", "CLIP", "target"), strict=True):
        figures = next(value for key, value in summary["teachers"]["test"].items() if key.startswith(name))
        assert model_report.uncalibrated.top1 == figures["top1"]
        assert model_report.uncalibrated.nll == pytest.approx(figures["nll"], rel=1e-4)
    assert [pair.b for pair in result.comparisons] == names[1:]
    for pair, other in zip(result.comparisons, result.model_reports[1:], strict=True):
        assert pair.top1.estimate == pytest.approx(
            other.uncalibrated.top1 - result.model_reports[0].uncalibrated.top1
        )
    assert list(result.costs) == names[:2]
    assert all(model_report.semantics is not None for model_report in result.model_reports)
    assert json.loads(json.dumps(result.to_dict()))["models"].keys() == set(names)


@pytest.mark.slow
def test_a_cache_saves_the_teachers_the_work_and_changes_nothing(world: World, tmp_path: Path) -> None:
    def judge_with_teachers(run: Path) -> tuple[EvaluationRun, int]:
        result = evaluate_models([str(run)], str(world.images), EvaluateConfig(teachers=True))
        assert result.parts is not None
        teacher = result.parts.teachers[0]
        assert isinstance(teacher, VisionTeacher)
        return result, teacher.computed

    for name, cache in (("plain", None), ("cached", tmp_path / "cache")):
        distill(world.config(tmp_path / name, train__epochs=1, cache__dir=cache), quiet=True)
    plain, computed = judge_with_teachers(tmp_path / "plain")
    cached, fitting = judge_with_teachers(tmp_path / "cached")
    # What is left is the fit of the fusion on held-out images.
    assert computed - fitting == TEST * len(CLASSES)
    for name, output in list(plain.outputs.items())[1:]:
        assert torch.equal(output.logits_BC, cached.outputs[name].logits_BC)
    # An emptied cache is filled again by judging.
    for folder in (tmp_path / "cache").glob("[!.]*-test-*"):
        shutil.rmtree(folder)
    assert judge_with_teachers(tmp_path / "cached")[1] == computed
    assert judge_with_teachers(tmp_path / "cached")[1] == fitting


def test_settings_that_only_training_reads_do_not_prevent_evaluation(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.images / "test" / "ant", tmp_path / "unlabeled")
    for file in (tmp_path / "unlabeled").iterdir():
        image = Image.open(file).rotate(90)
        image.save(file)
    changes = {
        "cache__dir": tmp_path / "cache",
        "cache__top_k": 2,
        "data__unlabeled": str(tmp_path / "unlabeled"),
        "data__unlabeled_fraction": 0.25,
        "fusion__ood_quantile": 0.2,
        "method__name": "kd",
        "teachers__2__name": f"local-dir:{tmp_path / 'second'}",
    }
    make_teacher(tmp_path / "second", seed=6)
    summary = distill(world.config(tmp_path / "run", train__epochs=1, **changes), quiet=True).summary
    result = evaluate_models([str(tmp_path / "run")], str(world.images), EvaluateConfig(teachers=True))
    names = [model_report.name for model_report in result.evaluation.model_reports]
    teachers = [f"local-dir:{world.teacher}", f"local-dir:{tmp_path / 'second'}"]
    assert names == [str(tmp_path / "run"), *teachers, "fused"]
    assert result.evaluation.model_reports[0].uncalibrated.top1 == summary["splits"]["test"]["top1"]


def test_all_teachers_are_evaluated_on_data_that_moved(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.images, tmp_path / "before")
    config = world.config(
        tmp_path / "run", method__variant="l", train__epochs=1, data__path=str(tmp_path / "before")
    )
    distill(config, quiet=True)
    here = evaluate_models([tmp_path / "run"], tmp_path / "before", EvaluateConfig(teachers=True))
    shutil.copytree(tmp_path / "before", tmp_path / "copy")
    (tmp_path / "before").rename(tmp_path / "moved")
    names = [str(tmp_path / "run"), f"local-dir:{world.teacher}", "CLIP outputs", "fused"]
    for place in ("copy", "moved"):
        there = evaluate_models([tmp_path / "run"], tmp_path / place, EvaluateConfig(teachers=True))
        assert list(there.outputs) == names
        for name in names:
            assert torch.equal(there.outputs[name].logits_BC, here.outputs[name].logits_BC)


@pytest.mark.parametrize(("preset", "fitted"), [("default", True), ("paper", False)])
def test_a_fitted_fusion_gets_no_temperature_from_the_images_of_its_fit(
    world: World, tmp_path: Path, preset: str, fitted: bool
) -> None:
    changes = {"method__variant": "l", "train__epochs": 1, "data__test_calibration_fraction": 0.5}
    distill(world.config(tmp_path / "run", fusion__preset=preset, **changes), quiet=True)
    result = evaluate_models([tmp_path / "run"], world.images, EvaluateConfig(teachers=True))
    _, teacher, clip, fused = result.evaluation.model_reports
    assert 1.0 not in (teacher.temperature, clip.temperature)
    assert (fused.temperature == 1.0) is fitted


def test_what_cannot_be_judged_together_is_refused(world: World) -> None:
    weights = world.teacher / "model.safetensors"
    models = ["cifar_resnet8", "cifar_resnet14"]
    assert "one model" in str(refusal(evaluate_models, models, str(world.images), weights=weights))
    error = refusal(evaluate_models, [str(world.teacher)], str(world.images), EvaluateConfig(teachers=True))
    assert "folder of a run" in str(error)


def test_splits_without_images_of_a_class(world: World, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    shutil.rmtree(images / "test" / "bee")
    (images / "val" / "cow").mkdir(parents=True)
    (images / "test" / "ant" / "0.png").rename(images / "val" / "cow" / "0.png")
    (images / "test" / "cow" / "0.png").rename(images / "val" / "cow" / "1.png")
    make_clip(tmp_path / "clip.npz", images)
    # Fusion and temperature are fitted on images of a single class.
    changes = {"method__variant": "l", "train__epochs": 1, "data__path": str(images)}
    changes["clip__name"] = f"outputs:{tmp_path / 'clip.npz'}"
    distill(world.config(tmp_path / "run", **changes), quiet=True)
    (tmp_path / "tree.yaml").write_text("insect: [ant, bee]\nmammal: [cow]")
    config = EvaluateConfig(hierarchy=tmp_path / "tree.yaml", teachers=True)
    result = evaluate_models([str(tmp_path / "run")], str(images), config)
    assert len(result.evaluation.model_reports) == 4
    for report in result.evaluation.model_reports:
        assert report.uncalibrated.n == 2 * (TEST - 1)
        # A class without images has no accuracy, and it can still be predicted by mistake.
        assert [(name, count) for name, count, _ in report.classes] == [("ant", TEST - 1), ("cow", TEST - 1)]
        assert report.confusion[CLASSES.index("bee")] == (0, 0, 0)
        assert report.uncalibrated.top1 == pytest.approx(sum(share for *_, share in report.classes) / 2)
        assert "bee" not in [confusion.name for confusion in report.confusions]
        assert "NaN" not in json.dumps(report.to_dict())
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path / "run")])
    assert ended.value.code in (None, 0)


STRIPES = 64


def make_stripes(root: Path) -> None:
    """Two classes that differ in the direction of stripes of two pixels, which only large inputs resolve."""
    wave = np.tile(np.array([0, 0, 255, 255], dtype=np.uint8), 30)
    for split, count in (("train", 6), ("val", 5), ("test", 7)):
        for name in ("across", "down"):
            for number in range(count):
                pixels_HW = np.tile(wave[number : number + STRIPES + 20], (STRIPES, 1))
                picture = Image.fromarray(pixels_HW if name == "down" else pixels_HW.T.copy())
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.convert("RGB").save(path)


class StripeDetector(nn.Module):
    """A classifier in timm's form that compares neighbors along both axes."""

    num_features = 2

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(2, num_classes)
        with torch.no_grad():
            self.head.weight.copy_(10 * torch.eye(2))
            self.head.bias.zero_()

    def forward_features(self, x_B3HW: torch.Tensor) -> torch.Tensor:
        steps = [x_B3HW.diff(dim=axis).abs().mean(dim=(1, 2, 3)) for axis in (2, 3)]
        return torch.stack(steps, dim=1)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x if pre_logits else self.head(x)

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


@pytest.mark.parametrize("policy", ["crop-flip", "random-resized-crop"])
@pytest.mark.parametrize("student", [8, 16])
def test_a_teacher_is_as_accurate_in_a_run_as_alone(tmp_path: Path, student: int, policy: str) -> None:
    """Source images follow from the teacher's input, whatever the student's resolution and the precision."""
    make_stripes(tmp_path / "images")
    torch.save(StripeDetector(2).state_dict(), tmp_path / "teacher.pth")
    name = f"{__name__}:StripeDetector"
    settings = {
        "data.path": str(tmp_path / "images"),
        "student.name": "cifar_resnet8",
        "student.size": student,
        "teachers.1.name": name,
        "teachers.1.weights": str(tmp_path / "teacher.pth"),
        "teachers.1.size": STRIPES,
        "method.name": "kd",
        "augment.policy": policy,
        "train.epochs": 1,
        "train.batch_size": 4,
        "train.workers": 0,
        "train.teacher_precision": "bf16",
        "out": str(tmp_path / "run"),
    }
    figures = distill(load_config(None, settings), quiet=True).summary["teachers"]["test"][name]
    assert figures["top1"] == 1.0
    network = build_network(load_config(None, settings).teachers[0], 2, role="teacher")
    test = open_data(DataConfig(path=str(tmp_path / "images"))).splits["test"]
    alone = measure(logits_of(network, open_store(test, network.framing), CPU), test.labels_N)
    assert (figures["top1"], figures["nll"]) == (alone.top1, alone.nll)


def test_checkpoints_of_a_run_are_evaluated(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    distill(world.config(run, method__name="ce", train__epochs=2), quiet=True)
    plain = judged(run, world.images)
    shutil.rmtree(run / "student")
    logged: list[str] = []
    result = evaluate_models([run], world.images, log=logged.append).evaluation.model_reports[0]
    assert any("last.ckpt, after epoch 2 (step 8); its temperature is not fitted" in line for line in logged)
    assert result.uncalibrated.top1 == plain.uncalibrated.top1
    best = evaluate_models([run], world.images, checkpoint="best").evaluation.model_reports[0]
    path = run / "checkpoints" / "best.ckpt"
    student = load_student(path)
    # The settings of the run are known, so the images are those that the run has not seen.
    validation = evaluate_models([path], world.images, EvaluateConfig(split="val"), log=logged.append)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    top1 = max(line["val/top1"] for line in lines)
    assert validation.evaluation.model_reports[0].uncalibrated.top1 == pytest.approx(top1)
    assert validation.evaluation.model_reports[0].name == str(path)
    error = refusal(evaluate_models, ["resnet18=x.pth"], world.images, checkpoint="best")
    assert "--checkpoint best needs the folder of a run" in error.rule
    images = [Image.open(world.images / "test" / name / f"{n}.png") for name in CLASSES for n in range(TEST)]
    labels_N = torch.arange(len(CLASSES)).repeat_interleave(TEST)
    expected = (student.probabilities(images).argmax(1) == labels_N).float().mean()
    assert best.uncalibrated.top1 == pytest.approx(float(expected))


def test_the_teachers_of_a_run_are_evaluated_beside_its_checkpoint(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    distill(world.config(run, method__name="kd", train__epochs=1), quiet=True)
    config = EvaluateConfig(teachers=True)
    for model in (run / "checkpoints" / "best.ckpt", run / "student", run):
        result = evaluate_models([model], world.images, config).evaluation
        assert len(result.model_reports) == 2
