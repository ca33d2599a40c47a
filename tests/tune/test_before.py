"""A search before a run: its candidates, its choice, and what a repeated command does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from richkd.cli import main
from richkd.cli.exit_status import STOPPED
from richkd.compare.layers import read_layers
from richkd.config.loading import load_config
from richkd.config.schema import Config
from richkd.core.errors import CheckpointError, ConfigError
from richkd.core.interrupt import Interrupted
from richkd.core.terminal import Terminal
from richkd.fusion.presets import scale_and_mixing
from richkd.training.run import distill
from richkd.training.run_folder import RunFolder
from richkd.tune import before, budget
from richkd.tune.before import candidates, minutes_of, tuned
from richkd.tune.plan import Budget, TunePlan, of_plan
from richkd.tune.trials import Trials
from tests.fixtures import STEPS, World, refusal
from tests.training.test_resume import stop_after


def trials_of(config: Config) -> Trials:
    plan = TunePlan(
        base=before._shared(config), methods=candidates(config), epochs=9, budget=Budget(epochs=9), seed=3
    )
    source = of_plan(plan, "search", {})
    return Trials(source, read_layers(source.source), Path("out"))


def plan_of(config: Config) -> dict[str, Any]:
    return {method.name: method for method in trials_of(config).methods()}


def test_the_first_trial_of_the_runs_method_is_the_run_itself(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", train__seed=3, train__epochs=9, objective__kd__weight=2.5)
    methods = plan_of(config)
    assert list(methods) == ["kd", "control", "richkd"]
    method = methods["richkd"]
    named = config.method.model_copy(update={"name": "richkd"})
    assert method.config.model_copy(update={"out": config.out}) == config.model_copy(update={"method": named})
    assert set(method.first) == {entry.name for entry in method.entries}
    assert methods["control"].config.fusion.control == "teacher-only"
    assert methods["kd"].config.clip is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "fusion",
    [
        {"preset": "paper"},
        {"preset": "paper", "alpha": 0.4},
        {"preset": "paper", "alpha": 0.5},
        {"preset": "as-released"},
        {"preset": "default", "alpha": 0.6},
        {"entropy": 1.2},
        {"labeled": {"preset": "paper"}},
        {"mixing": "gate"},
    ],
)
def test_the_first_trial_has_the_fusion_of_the_run(
    world: World, tmp_path: Path, fusion: dict[str, Any]
) -> None:
    config = world.config(tmp_path / "run", train__seed=3, train__epochs=9, fusion=fusion)
    method = plan_of(config)["richkd"]
    assert method.outside == ()
    assert method.first_trial == "the settings of the plan"
    trials = trials_of(config)
    first = trials.config("richkd", method.entries, method.first).fusion
    assert scale_and_mixing(first) == scale_and_mixing(config.fusion)
    assert (first.alpha or 0.7) == (config.fusion.alpha or 0.7)
    assert first.model_copy(update={"alpha": None}) == config.fusion.model_copy(update={"alpha": None})


def test_plain_kd_is_a_candidate_beside_a_kd_of_the_fused_target(world: World, tmp_path: Path) -> None:
    settings = {"method__name": "kd", "objective__kd__target": "fused"}
    config = world.config(tmp_path / "run", clip__name=f"outputs:{world.clip}", **settings)
    methods = plan_of(config)
    assert list(methods) == ["kd", "control", "own"]
    assert methods["kd"].config.clip is None
    assert methods["own"].config.clip is not None


def test_a_list_of_terms_is_a_candidate_of_its_own(world: World, tmp_path: Path) -> None:
    objective = [{"ce": {}}, {"kd": {"target": "clip", "weight": 2}}]
    config = world.config(
        tmp_path / "run",
        train__seed=3,
        train__epochs=9,
        objective=objective,
        clip__name=f"outputs:{world.clip}",
    )
    assert list(candidates(config)) == ["own"]
    assert plan_of(config)["own"].config.objective == objective


@pytest.mark.parametrize("name", ["ce", "kd"])
def test_baselines_are_their_only_candidate(world: World, tmp_path: Path, name: str) -> None:
    assert list(candidates(world.config(tmp_path / "run", method__name=name))) == [name]


@pytest.mark.parametrize("text", ["", "0", "0m", "-1m", "10 min", "1e3", "nan", "10mm", "m", "1" * 9])
def test_other_times_are_refused(text: str) -> None:
    assert isinstance(refusal(minutes_of, text), ConfigError)


@pytest.mark.slow
def test_the_best_candidate_is_trained_and_the_command_can_be_repeated(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "total_seconds", lambda folder: 1.0)
    out = tmp_path / "run"
    options = world.options(out, train__epochs=2, method__variant="l", train__seed=1)
    with pytest.raises(SystemExit) as ended:
        main(["distill", *options, "--tune", "4s"])
    assert not ended.value.code
    text = capsys.readouterr().out
    summary = RunFolder(out).summary()
    assert summary is not None
    assert summary["epochs"] == 2
    assert (tmp_path / "run-tune" / "tune.html").exists()
    assert "the run trains " in text
    # Trials are judged by validation images alone; only the run itself evaluates test images.
    trials = [
        RunFolder(file.parent).summary() for file in (tmp_path / "run-tune").glob("runs/*/summary.json")
    ]
    assert trials
    assert all(trial is not None and trial["splits"].keys() == {"val"} for trial in trials)
    assert "test" in summary["splits"]
    with pytest.raises(SystemExit):
        main(["distill", *options, "--tune", "4s"])
    assert "not empty" in capsys.readouterr().err


def test_a_run_that_has_begun_goes_on_with_its_settings_and_not_those_of_the_command(
    world: World, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = world.config(out, train__epochs=3, method__name="kd", optim__lr=0.011)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, STEPS + 1)
        with pytest.raises(Interrupted):
            distill(config, quiet=True)
    options = world.options(out, train__epochs=3, method__variant="l")
    with pytest.raises(SystemExit) as ended:
        main(["distill", *options, "--tune", "1m", "--resume"])
    assert not ended.value.code
    assert load_config(out / "config.yaml").optim.lr == 0.011
    assert RunFolder(out).summary() is not None
    assert not (tmp_path / "run-tune").exists()


def test_nothing_to_resume_is_said_before_the_search(world: World, tmp_path: Path) -> None:
    error = refusal(tuned, world.config(tmp_path / "run"), 1.0, resume=True, console=Terminal(quiet=True))
    assert "no checkpoint" in error.rule
    assert not (tmp_path / "run-tune").exists()


def test_a_full_folder_is_refused_before_the_search(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").touch()
    error = refusal(tuned, world.config(out), 1.0, console=Terminal(quiet=True))
    assert isinstance(error, CheckpointError)
    assert not (tmp_path / "run-tune").exists()


@pytest.mark.parametrize("stopped", ["search", "run"])
def test_a_stopped_command_says_how_to_go_on(
    world: World,
    tmp_path: Path,
    stopped: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(config: Config, *args: Any, **how: Any) -> Config:
        raise Interrupted

    def unchanged(config: Config, *args: Any, **how: Any) -> Config:
        return config

    monkeypatch.setattr("richkd.tune.before.tuned", interrupted if stopped == "search" else unchanged)
    monkeypatch.setattr("richkd.training.run.distill", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["distill", *world.options(tmp_path / "run"), "--tune", "1m"])
    assert ended.value.code == STOPPED
    # The command of the search is repeated as it was; a run that has begun needs one option more.
    advice = {"search": "the same command", "run": "the same command and --resume"}
    assert capsys.readouterr().out.endswith(f"stopped and saved; continue with {advice[stopped]}\n")
