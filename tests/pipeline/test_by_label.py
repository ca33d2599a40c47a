"""Images with labels have another fusion than those without, and the entropy of each is given."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from richkd.config.schema import EvaluateConfig
from richkd.core.errors import CheckpointError, ConfigError, DataError
from richkd.core.interrupt import Interrupted
from richkd.core.types import UNLABELED
from richkd.evaluate.models import open_teachers
from richkd.fusion.alone import measure_target_shift
from richkd.pipeline import fuse, sharpen
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.sharpen import FACTORS, read_factors
from richkd.pipeline.signal import Sample, mean_shift, sampling_of, shifts_of, training_outputs
from richkd.reporting.report.collect import collect
from richkd.reporting.report.page import write_report
from richkd.training.run import distill
from tests.fixtures import World, refusal
from tests.fusion.test_entropy import slow_entropy
from tests.training.test_run import SAME, stop_after, with_more_images

CPU = torch.device("cpu")
L: dict[str, Any] = {"method__variant": "l", "train__epochs": 1}
PAPER: dict[str, Any] = {"fusion__labeled__preset": "paper"}
T = 3.0


@pytest.fixture(scope="module")
def more(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of unlabeled images, in each batch."""
    return with_more_images(world, tmp_path_factory.mktemp("more")) | {"data__unlabeled_fraction": 0.5} | L


def parts_of(world: World, **changes: Any) -> Parts:
    return assemble(world.config(Path("unused"), **L | changes), CPU)


def batch_of(parts: Parts) -> tuple[Tensor, Tensor, Tensor | None]:
    """Target and labels of the first batch, and weights of its images."""
    (batch,) = parts.training_batches(0, [parts.order().epoch(0)[0]])
    target = parts.teach(batch, 0)["fused"]
    return target.logits_BC, batch.labels_B, target.weight_B


def views_of(parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
    """Target and labels of the first training views, and logits of the vision teacher."""
    source = parts.main_source
    assert source is not None
    outputs, labels_N = training_outputs(source, parts.stores, parts.augmentation, parts.order(), CPU)
    return source.target(outputs, labels_N).logits_BC, labels_N, outputs[0].logits_BC


def entropy(logits_NC: Tensor) -> float:
    return slow_entropy(logits_NC.tolist(), T)


def test_a_batch_has_the_rows_of_two_runs(world: World, more: dict[str, Any]) -> None:
    paper_BC, _, _ = batch_of(parts_of(world, **more, fusion__preset="paper"))
    fitted_BC, _, weight_B = batch_of(parts_of(world, **more))
    both_BC, labels_B, both_weight_B = batch_of(parts_of(world, **more, **PAPER))
    known_B = labels_B != UNLABELED
    assert 0 < known_B.sum() < len(known_B)
    assert torch.equal(both_BC[known_B], paper_BC[known_B])
    assert torch.equal(both_BC[~known_B], fitted_BC[~known_B])
    assert not torch.equal(paper_BC[~known_B], fitted_BC[~known_B])
    assert weight_B is not None
    assert both_weight_B is not None
    assert torch.equal(both_weight_B, weight_B)
    # The other way round.
    swapped_BC, _, _ = batch_of(
        parts_of(world, **more, fusion__preset="paper", fusion__unlabeled__scale="raw")
    )
    raw_BC, _, _ = batch_of(parts_of(world, **more, fusion__preset="paper", fusion__scale="raw"))
    assert torch.equal(swapped_BC[known_B], paper_BC[known_B])
    assert torch.equal(swapped_BC[~known_B], raw_BC[~known_B])


def test_a_fusion_is_fitted_once(world: World, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, original = [], fuse.fuse

    def counted(*args: Any, **kwargs: Any) -> Any:
        fitted.append(args[0].preset)
        return original(*args, **kwargs)

    monkeypatch.setattr(fuse, "fuse", counted)
    for changes, expected in [
        (more, ["default"]),
        (more | PAPER, ["default", "paper"]),
        (more | {"fusion__labeled__preset": "default"}, ["default"]),
        (more | {"fusion__labeled__entropy": 0.5}, ["default"]),
        # All images have labels, so nothing else is fitted.
        (PAPER | {"data__val_fraction": 0}, ["paper"]),
    ]:
        fitted.clear()
        parts_of(world, **changes)
        assert fitted == expected


def test_a_run_without_unlabeled_images_is_that_of_the_settings_for_labeled_images(world: World) -> None:
    both, paper = parts_of(world, **PAPER), parts_of(world, fusion__preset="paper")
    assert torch.equal(batch_of(both)[0], batch_of(paper)[0])
    assert both.fusion == paper.fusion


def test_the_entropy_is_reached_for_each_kind_of_images(world: World, more: dict[str, Any]) -> None:
    settings = {"fusion__entropy": 0.4, "fusion__labeled__entropy": "match-teacher"}
    target_NC, labels_N, teacher_NC = views_of(parts_of(world, **more, **PAPER, **settings))
    plain_NC, _, _ = views_of(parts_of(world, **more, **PAPER))
    known_N = labels_N != UNLABELED
    assert abs(entropy(target_NC[known_N]) - entropy(teacher_NC[known_N])) < 1e-3
    assert abs(entropy(target_NC[~known_N]) - 0.4) < 1e-3
    assert abs(entropy(plain_NC[known_N]) - entropy(teacher_NC[known_N])) > 1e-2
    # A factor keeps the order of classes and the ratios of log-probabilities.
    for rows_N in (known_N, ~known_N):
        ratio = (target_NC[rows_N, 0] - target_NC[rows_N, 1]) / (plain_NC[rows_N, 0] - plain_NC[rows_N, 1])
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-2, atol=0)


@pytest.mark.parametrize("asked", [0.05, 1.0, "match-teacher"])
def test_one_entropy_of_all_images(world: World, asked: float | str) -> None:
    target_NC, _, teacher_NC = views_of(parts_of(world, fusion__entropy=asked))
    expected = entropy(teacher_NC) if isinstance(asked, str) else asked
    assert abs(entropy(target_NC) - expected) < 1e-3


@pytest.mark.parametrize("control", ["teacher-only", "clip-only"])
@pytest.mark.parametrize("asked", [0.3, "match-teacher"])
def test_the_control_has_the_entropy_of_the_target(
    world: World, more: dict[str, Any], control: str, asked: float | str
) -> None:
    settings = more | PAPER | {"fusion__entropy": asked}
    target_NC, labels_N, _ = views_of(parts_of(world, **settings))
    controlled_NC, _, _ = views_of(parts_of(world, **settings, fusion__control=control))
    for known in (True, False):
        rows_N = (labels_N != UNLABELED) == known
        assert abs(entropy(controlled_NC[rows_N]) - entropy(target_NC[rows_N])) < 1e-3


def test_the_teacher_alone_is_nearest_to_the_fusion_of_each_kind_of_images(
    world: World, more: dict[str, Any]
) -> None:
    target_NC, labels_N, teacher_NC = views_of(parts_of(world, **more, **PAPER))
    source = parts_of(world, **more, **PAPER, fusion__control="teacher-only").main_source
    assert source is not None
    assert source.labeled is not None
    for fusion, rows_N in ((source.labeled, labels_N != UNLABELED), (source.fusion, labels_N == UNLABELED)):
        shift = measure_target_shift(target_NC[rows_N], teacher_NC[rows_N], T)
        if rows_N[0] or not fusion.ood_weights:
            assert fusion.multipliers == pytest.approx((shift.multiplier,), rel=1e-5)
    assert source.labeled.multipliers != source.fusion.multipliers


@pytest.mark.slow
@pytest.mark.parametrize("control", [None, "teacher-only"])
def test_a_resumed_run_has_the_stored_factors(
    world: World,
    more: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    control: str | None,
) -> None:
    entropies = {"fusion__entropy": 0.4, "fusion__labeled__entropy": "match-teacher"}
    changes = more | PAPER | entropies | {"fusion__control": control, "train__epochs": 2}
    whole = distill(world.config(tmp_path / "whole", **changes), quiet=True)
    stop_after(monkeypatch, 3)
    out = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        distill(world.config(out, **changes), quiet=True)
    monkeypatch.undo()
    factors = read_factors(out)
    assert factors.keys() == {"fused"} | ({"fused, control"} if control else set())
    assert all(kinds.keys() == {"labeled", "unlabeled"} for kinds in factors.values())

    def fitted(*args: Any) -> float:
        raise AssertionError("a factor was fitted again")

    monkeypatch.setattr(sharpen, "fit_factor", fitted)
    again = distill(world.config(out, **changes), resume=True, quiet=True)
    for name in (*SAME, FACTORS):
        assert (out / name).read_bytes() == (whole.folder / name).read_bytes(), name
    for key in ("fusion", "fusion_labeled", "target_entropy_nats", "splits", "teachers"):
        assert again.summary[key] == whole.summary[key], key


def test_the_summary_says_which_fusion_is_whose(world: World, more: dict[str, Any], tmp_path: Path) -> None:
    changes = more | PAPER | {"fusion__entropy": "match-teacher"}
    run = distill(world.config(tmp_path / "run", **changes), quiet=True)
    summary = json.loads((run.folder / "summary.json").read_text())
    assert "selected" in summary["fusion"]["origin"] or "fitted" in summary["fusion"]["origin"]
    assert summary["fusion_labeled"]["origin"].startswith("alpha 0.7, scale logit-scale; factor ")
    assert list(summary["teachers"]["test"])[-2:] == ["target", "target_labeled"]
    assert {"agreement_with_target", "agreement_with_target_labeled"} <= summary["splits"]["test"].keys()
    target_NC, labels_N, teacher_NC = views_of(parts_of(world, **changes))
    for kind, known in (("labeled", True), ("unlabeled", False)):
        rows_N, figures = (labels_N != UNLABELED) == known, summary["target_entropy_nats"]["fused"][kind]
        assert figures["views"] == int(rows_N.sum())
        assert figures["temperature"] == T
        assert figures["after"] == pytest.approx(entropy(target_NC[rows_N]), abs=1e-5)
        assert figures["teacher"] == pytest.approx(entropy(teacher_NC[rows_N]), abs=1e-5)
        assert figures["after"] == pytest.approx(figures["teacher"], abs=1e-3)
        assert figures["before"] != pytest.approx(figures["after"], abs=1e-3)
    # The control has the same multiplier.
    for name, fusion in (("control_multiplier_labeled", "labeled"), ("control_multiplier", "fusion")):
        source = parts_of(world, **changes, fusion__control="teacher-only").main_source
        assert getattr(source, fusion).multipliers == pytest.approx((summary[name],), rel=1e-5)
    card = (run.folder / "student" / "README.md").read_text()
    assert "Fusion for images with labels: alpha 0.7" in card
    assert "fused teacher, for images with labels" in card


def test_the_entropy_is_measured_where_it_is_not_set(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", **L)
    summary = distill(config, quiet=True).summary
    target_NC, labels_N, teacher_NC = views_of(assemble(config, CPU))
    assert summary["target_entropy_nats"] == {
        "fused": {
            "all": {
                "temperature": T,
                "views": len(labels_N),
                "before": pytest.approx(entropy(target_NC), abs=1e-6),
                "after": pytest.approx(entropy(target_NC), abs=1e-6),
                "teacher": pytest.approx(entropy(teacher_NC), abs=1e-6),
            }
        }
    }
    assert not (tmp_path / "run" / FACTORS).exists()
    assert "fusion_labeled" not in summary


def test_the_shift_of_two_fusions_is_the_mean_over_views(world: World, more: dict[str, Any]) -> None:
    parts = parts_of(world, **more, **PAPER, fusion__ood_quantile=0.0)
    target_NC, labels_N, teacher_NC = views_of(parts)
    assert parts.main_source is not None
    sample = Sample(
        *training_outputs(parts.main_source, parts.stores, parts.augmentation, parts.order(), CPU)
    )
    shift = mean_shift(shifts_of(parts.main_source, sample, T), sample)
    nats = 0.0
    for rows_N in (labels_N != UNLABELED, labels_N == UNLABELED):
        one = measure_target_shift(target_NC[rows_N], teacher_NC[rows_N], T)
        nats += one.nats * int(rows_N.sum()) / len(labels_N)
    assert shift == pytest.approx(nats, rel=1e-6)


@pytest.mark.slow
def test_an_evaluation_has_both_fusions_of_the_run(
    world: World, more: dict[str, Any], tmp_path: Path
) -> None:
    changes = more | PAPER | {"fusion__unlabeled__weights": (1.0, 40.0), "fusion__labeled__entropy": 0.5}
    changes |= {"fusion__labeled__weights": (0.5, 20.0), "fusion__labeled__preset": None}
    run = distill(world.config(tmp_path / "run", **changes), quiet=True)
    predictor, parts = open_teachers(run.folder, str(world.images), CPU)
    assert predictor.names[-2:] == ("fused, unlabeled images", "fused, labeled images")
    assert parts.main_source is not None
    assert parts.main_source.labeled is not None
    assert parts.main_source.fusion.multipliers == (1.0, 40.0)
    factor = read_factors(run.folder)["fused"]["labeled"]
    assert parts.main_source.labeled.multipliers == pytest.approx((0.5 * factor, 20 * factor))
    page = write_report(collect([run.folder], EvaluateConfig()), tmp_path / "page").read_text()
    assert "fusion of images without labels</dt><dd>given multipliers</dd>" in page
    assert "fusion of images with labels</dt><dd>given multipliers; factor " in page
    assert "entropy of target fused, labeled images</dt><dd>0.500 nats on training views" in page
    assert "fused, labeled images" in page
    plain = distill(world.config(tmp_path / "plain", **L, **PAPER), quiet=True)
    assert open_teachers(plain.folder, str(world.images), CPU)[0].names[-1] == "fused"


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"fusion__entropy": math.log(3)}, ConfigError, "'fusion.entropy' must be between 0 and ln C nats"),
    ({"fusion__labeled__entropy": 50}, ConfigError, "'fusion.labeled.entropy' must be between 0 and ln C"),
    (
        {"fusion__entropy": 0.5, "objective": {"kd2": {"term": "kd", "target": "fused", "temperature": 1}}},
        ConfigError,
        "fusion.entropy needs one temperature at which all terms read target fused",
    ),
    (
        {"fusion__entropy": 0.5, "objective": {"mlkd": {"target": "fused"}}},
        ConfigError,
        "fusion.entropy needs one temperature at which all terms read target fused",
    ),
    (
        {"fusion__entropy": 0.5, "objective": {"ctkd": {"target": "fused"}}},
        ConfigError,
        "fusion.entropy needs a temperature",
    ),
]


@pytest.mark.parametrize(("changes", "kind", "rule"), REFUSED)
def test_what_cannot_be_reached_or_is_ambiguous_is_refused(
    world: World, changes: dict[str, Any], kind: type[Exception], rule: str
) -> None:
    error = refusal(parts_of, world, **changes)
    assert isinstance(error, kind)
    assert rule in error.rule
    assert error.fix


@pytest.mark.slow
def test_an_entropy_of_images_that_are_in_no_view_is_refused(
    world: World, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("richkd.pipeline.signal.SAMPLE", 1)
    changes = more | PAPER | {"fusion__unlabeled__entropy": 0.5, "data__unlabeled_fraction": None}
    for seed in range(40):
        error = None
        parts = assemble(world.config(Path("unused"), **more, **PAPER, train__seed=seed), CPU)
        if not bool((batch_of(parts)[1] == UNLABELED).any()):
            error = refusal(assemble, world.config(Path("unused"), **changes, train__seed=seed), CPU)
            break
    if error is not None:
        assert isinstance(error, DataError)
        assert "'fusion.unlabeled.entropy' is fitted on the first" in error.rule


def test_training_views_need_training_images(world: World) -> None:
    parts = parts_of(world)
    stores: Any = SimpleNamespace(training=None, names=("test",))
    sampling = sampling_of(stores, parts.augmentation, parts.order, CPU)
    error = refusal(sampling, parts.main_source)
    assert (error.rule, error.got) == ("There is no training split", "test")


def test_multipliers_of_another_number_name_their_setting(world: World, more: dict[str, Any]) -> None:
    for changes, name in [
        ({"fusion__weights": (1.0,)}, "fusion.weights"),
        ({"fusion__labeled__weights": (1.0,)}, "fusion.labeled.weights"),
        (more | {"fusion__labeled__weights": (1.0,)}, "fusion.labeled.weights"),
        (more | {"fusion__unlabeled__weights": (1.0,)}, "fusion.unlabeled.weights"),
    ]:
        assert refusal(parts_of, world, **changes).rule.startswith(f"{name} must hold one multiplier"), name


@pytest.mark.parametrize("text", ["[]", '{"fused": {"all": -1}}', '{"fused": 3}', "{"])
def test_a_damaged_record_of_factors_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FACTORS).write_text(text)
    error = refusal(read_factors, tmp_path)
    assert isinstance(error, CheckpointError)
    assert "must hold the factors of the fused targets" in error.rule
