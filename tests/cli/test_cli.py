"""The command line: help that helps, mistakes that are answered, and the way from photos to a prediction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from richkd.cli import main
from richkd.cli.options import config_of
from richkd.config.listing import settings
from richkd.config.loading import load_config
from tests.core.closed import LONG, close
from tests.fixtures import (
    CLASSES,
    STEPS,
    TEST,
    World,
    make_clip,
    make_images,
    make_teacher,
    refusal,
)
from tests.training.test_resume import stop_after

COMMANDS = ("distill", "teach", "check", "probe", "evaluate", "report", "predict", "settings", "demo")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")


def call(capsys: Capture, *words: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of a command."""
    code = 0
    try:
        main(list(words))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def refused(capsys: Capture, *words: str) -> str:
    """What is printed of a mistake; it must be an error, and on standard error."""
    code, _, err = call(capsys, *words)
    assert code in (1, 2)
    assert err
    # Long lines may be folded, in boxes at that.
    return " ".join(err.replace("│", " ").split())


def test_help_lists_every_command(capsys: Capture) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)
    assert call(capsys)[0] == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_an_example(capsys: Capture, name: str) -> None:
    code, out, _ = call(capsys, name, "--help")
    assert code == 0
    assert f"Usage: richkd {name}" in out
    assert f"richkd {name}" in out.split("For example:")[1]


def test_public_names_exist_and_others_do_not() -> None:
    import richkd

    assert all(getattr(richkd, name).__name__ == name for name in richkd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = richkd.distil


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["distil"], "distill"),
        (["distill", "--studnet", "resnet18", "--data", "x"], "student"),
        (["teach", "--modle", "resnet18", "--data", "x"], "model"),
        (["distill", "--data", "x", "--student", "resnet18", "--optim.lrr", "1"], "optim.lr"),
        (["distill", "--data", "x", "--student", "resnet18", "--lr", "1"], "optim.lr"),
        (["teach", "--model", "resnet18", "--epcohs", "3"], "epochs"),
        (["evaluate", "runs/x", "--data", "x", "--splti", "val"], "--split"),
        (["distill", "--student", "resnet18"], "--data"),
        (["distill", "--data", "x", "--student", "resnet18", "--optim.lr"], "--optim.lr VALUE"),
        (["distill", "--data", "x", "--student", "resnet18", "--epochs", "many"], "epochs"),
        (["distill", "--data", "x", "--student", "resnet18", "--optim.lr", "fast"], "optim.lr"),
        (["distill", "-c", "no-such.yaml"], "no-such.yaml"),
        (["predict", "runs/x"], "IMAGE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_typos_are_answered_with_the_nearest_name(capsys: Capture, words: list[str], nearest: str) -> None:
    assert nearest in refused(capsys, *words)


def test_a_mistyped_method_model_or_file(world: World, tmp_path: Path, capsys: Capture) -> None:
    def answer(**changes: object) -> str:
        return refused(capsys, "distill", *world.options(tmp_path / "run", **changes))

    assert "Did you mean 'richkd'?" in answer(method__name="richkdd")
    assert "cifar_resnet8" in answer(student__name="cifar_resnet88")
    assert "no-such.npz" in answer(clip__name="outputs:no-such.npz")
    near = str(world.images.with_name("imagse"))
    text = answer(data__path=near)
    assert near in text
    assert str(world.images) in text
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_teachers_and_clip_that_do_not_fit(world: World, tmp_path: Path, capsys: Capture) -> None:
    make_teacher(tmp_path / "four", (*CLASSES, "dog"))
    make_teacher(tmp_path / "turned", ("bee", "ant", "cow"))
    make_clip(tmp_path / "clip.npz", world.images, leave_out=1)
    for changes, words in (
        ({"teachers__1__name": f"local-dir:{tmp_path / 'four'}"}, "4 outputs for 3 classes"),
        ({"teachers__1__name": f"local-dir:{tmp_path / 'turned'}"}, "'bee' where 'ant' was expected"),
        ({"clip__name": f"outputs:{tmp_path / 'clip.npz'}"}, "test/ant/0.png"),
    ):
        assert words in refused(capsys, "distill", *world.options(tmp_path / "run", **changes))


def test_hub_names_without_a_network(world: World, tmp_path: Path, capsys: Capture) -> None:
    # conftest.py puts the hub's library offline.
    text = refused(capsys, "distill", *world.options(tmp_path / "run", data__path="someone/photos"))
    assert "'someone/photos'" in text
    options = world.options(tmp_path / "run", student__name="hf-hub:someone/small")
    assert "hf-hub:someone/small" in refused(capsys, "distill", *options)


def test_an_occupied_out_folder(world: World, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    text = refused(capsys, "distill", *world.options(tmp_path))
    assert "notes.txt" in text
    assert "--overwrite" in text
    assert "cannot be written" in refused(capsys, "distill", *world.options(tmp_path / "notes.txt" / "run"))


def test_settings_lists_all_of_them(capsys: Capture) -> None:
    code, out, _ = call(capsys, "settings")
    assert code == 0
    lines = out.splitlines()
    for setting in settings():
        assert any(line.split()[:1] == [setting.name] for line in lines), setting.name
        assert setting.meaning.split()[0] in out
    assert "{superclass: [class, …]}" in out
    code, out, _ = call(capsys, "settings", "optim")
    assert code == 0
    assert "optim.lr" in out
    assert "data.path" not in out
    assert "optim" in refused(capsys, "settings", "optimm")


def test_options_win_over_the_recipe_and_dotted_ones_may_stand_anywhere(
    world: World, tmp_path: Path, capsys: Capture
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(world.config(tmp_path / "run", train__epochs=5, train__seed=4).to_yaml())
    words = ["--train.batch_size", "12", "-c", str(recipe), "--augment.flip=false", "--epochs", "1"]
    assert call(capsys, "distill", *words)[0] == 0
    saved = load_config(tmp_path / "run" / "config.yaml")
    assert (saved.train.epochs, saved.train.seed, saved.train.batch_size) == (1, 4, 12)
    assert not saved.augment.flip
    words = ["distill", "-c", str(tmp_path / "run" / "config.yaml")]
    assert call(capsys, *words, "--resume")[0] == 0
    text = refused(capsys, *words, "--resume", "--seed", "5")
    assert "train.seed 5 where the run has 4" in text
    assert "--resume" in refused(capsys, *words)


def test_from_photos_to_a_prediction(world: World, tmp_path: Path, capsys: Capture) -> None:
    common = ["--data", str(world.images), "--student.size", "16", "--train.batch_size", "8"]
    common += ["--train.precision", "fp32", "--optim.lr", "0.02", "--data.val_fraction", "0.25"]
    teacher, small = tmp_path / "teacher", tmp_path / "small"
    code, out, err = call(
        capsys, "teach", "--model", "cifar_resnet14", "--epochs", "2", "--out", str(teacher), *common
    )
    assert code == 0, err
    assert "36 train, 12 val, 12 test" in out
    assert "epoch 2/2" in out
    assert f"student: {teacher / 'student'}" in out
    code, out, err = call(
        capsys,
        *("distill", "--student", "cifar_resnet8", "--teacher", f"local-dir:{teacher / 'student'}"),
        *("--clip", f"outputs:{world.clip}", "--epochs", "4", "--out", str(small), *common),
        *("--objective.contrastive.num_negatives", "32"),
    )
    assert code == 0, err
    assert "fusion: " in out

    code, out, _ = call(capsys, "evaluate", str(small), "--data", str(world.images), "--json")
    assert code == 0
    figures = json.loads(out)["models"][str(small)]["uncalibrated"]
    assert figures["n"] == len(CLASSES) * TEST
    summary = json.loads((small / "summary.json").read_text())
    assert figures["top1"] == pytest.approx(summary["splits"]["test"]["top1"])
    code, out, _ = call(capsys, "evaluate", str(small / "student"), "--data", str(world.images))
    assert code == 0
    assert "cost on this machine" in out
    assert f"{figures['top1']:.2%}" in out

    photos = [str(world.images / "test" / name / "0.png") for name in CLASSES]
    code, out, _ = call(capsys, "predict", str(small), *photos, "--top", "2")
    assert code == 0
    lines = out.splitlines()
    assert lines[::3] == photos
    assert len(lines) == 9
    shares = [float(line.split("%")[0]) for line in lines[1:3]]
    assert shares[0] >= shares[1]
    assert 50 <= sum(shares) <= 100.1
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert str(broken) in refused(capsys, "predict", str(small), photos[0], str(broken))
    assert str(tmp_path / "gone.png") in refused(capsys, "predict", str(small), str(tmp_path / "gone.png"))


def test_check_through_the_command_line(world: World, tmp_path: Path, capsys: Capture) -> None:
    code, out, err = call(capsys, "check", *world.options(tmp_path / "run"))
    assert code == 0, err
    assert "plan" in out
    assert "no image is in both train and test" in out


def test_null_removes_the_clip_and_the_teachers_of_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "{data: {path: photos}, student: {name: resnet18}, clip: {name: 'local-dir:clip'}, "
        "teachers: [{name: a}, {name: b}]}"
    )
    both = config_of(recipe, {}, [])
    assert (both.clip is None, len(both.teachers)) == (False, 2)
    without_clip = config_of(recipe, {"clip": "null"}, [])
    assert (without_clip.clip, without_clip.teachers) == (None, both.teachers)
    without_teachers = config_of(recipe, {"teacher": ["null"]}, [])
    assert (without_teachers.clip, without_teachers.teachers) == (both.clip, ())


def test_teachers_and_their_weights_are_paired_in_order() -> None:
    data = {"data": "d", "student": "s"}
    paired = {"teacher": ["a", "b"], "teacher_weights": [Path("a.pth"), Path("b.pth")]}
    config = config_of(None, data | paired, [])
    expected = [("a", Path("a.pth")), ("b", Path("b.pth"))]
    assert [(one.name, one.weights) for one in config.teachers] == expected
    plain = config_of(None, data | {"teacher": ["a", "b", "c"]}, [])
    assert [one.name for one in plain.teachers] == ["a", "b", "c"]
    unpaired = {"teacher": ["a", "b"], "teacher_weights": [Path("b.pth")]}
    assert "needs its own --teacher-weights" in str(refusal(config_of, None, data | unpaired, []))


@pytest.mark.parametrize(
    "words",
    [
        ["--epochs", "1.5"],
        ["--seed", "0.5"],
        ["--epochs", "nan"],
        ["--epochs", "1e400"],
        ["--out", ""],
        ["--out", " "],
    ],
    ids=" ".join,
)
def test_numbers_are_not_rounded_and_empty_paths_are_not_this_folder(
    world: World, capsys: Capture, words: list[str]
) -> None:
    given = ["check", "--data", str(world.images), "--student", "cifar_resnet8", "--method", "ce"]
    given = ["teach", *given[1:3], "--model", "cifar_resnet8"] if words[0] == "--out" else given
    assert words[0] in refused(capsys, *given, *words)
    assert "--top" in refused(capsys, "predict", str(world.teacher), "x.png", "--top", "1.5")


def test_memory_that_is_full_is_said_in_words(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*words: object, **options: object) -> None:
        raise MemoryError("4 GB")

    monkeypatch.setattr("richkd.cli.app", fill)
    assert "more memory than there is Got: 4 GB" in refused(capsys, "check")


def test_a_run_is_resumed_predicted_with_and_lengthened_by_its_folder(
    world: World, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, photo = tmp_path / "run", str(world.images / "test" / "ant" / "0.png")
    with monkeypatch.context() as patched:
        stop_after(patched, STEPS + 1)
        options = world.options(run, method__name="ce", train__epochs=3, optim__lr=0.01)
        assert call(capsys, "distill", *options)[0] == 130
    code, out, err = call(capsys, "predict", str(run), photo)
    assert code == 0
    assert photo in out
    assert "last.ckpt, after epoch 1 and 1 of 4 steps (step 5); its temperature is not fitted" in err
    run.rename(tmp_path / "moved")
    run = tmp_path / "moved"
    text = refused(capsys, "distill", "--resume", "--out", str(run), "--optim.lr", "0.5")
    assert "optim.lr 0.5 where the run has 0.01" in text
    assert "--epochs 2" in refused(capsys, "distill", "--resume", "--out", str(run), "--epochs", "1")
    assert call(capsys, "distill", "--resume", "--out", str(run))[0] == 0
    code, out, _ = call(capsys, "distill", "-c", str(run / "config.yaml"), "--resume", "--epochs", "4")
    assert code == 0
    assert "epochs: 3 then 4, from step 12 (3 epochs done)" in out
    code, out, err = call(capsys, "predict", str(run), photo)
    assert (code, err) == (0, "")
    code, out, err = call(capsys, "predict", str(run), photo, "--checkpoint", "best")
    assert code == 0
    assert "best.ckpt, after epoch" in err
    best = str(run / "checkpoints" / "best.ckpt")
    assert call(capsys, "predict", best, photo)[1:] == (out, err)
    code, out, err = call(capsys, "evaluate", str(run), "--data", str(world.images), "--checkpoint", "best")
    assert code == 0
    assert "best.ckpt, after epoch" in err
    assert "Got: 'worst'" in refused(capsys, "predict", str(run), photo, "--checkpoint", "worst")


def test_replaced_images_are_accepted_with_an_option(
    world: World, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(tmp_path / "images")
    options = world.options(tmp_path / "run", method__name="ce", data__path=str(tmp_path / "images"))
    with monkeypatch.context() as patched:
        stop_after(patched, 1)
        assert call(capsys, "distill", *options)[0] == 130
    (tmp_path / "images" / "test" / "ant" / "0.png").write_bytes(
        (tmp_path / "images" / "test" / "bee" / "0.png").read_bytes()
    )
    text = refused(capsys, "distill", *options, "--resume")
    assert "1 of 12 images of test: test/ant/0.png" in text
    assert "--accept-changed-images" in text
    assert call(capsys, "distill", *options, "--resume", "--accept-changed-images")[0] == 0
    assert "--resume" in refused(capsys, "distill", *options, "--accept-changed-images")


@pytest.mark.parametrize(
    ("words", "folds"),
    [
        (["--folds"], 5),
        (["--folds", "3"], 3),
        (["--folds=3"], 3),
        (["--folds", "--optim.lr", "0.1"], 5),
        (["--optim.lr", "0.1", "--folds"], 5),
        ([], None),
    ],
)
def test_the_number_of_folds_may_be_left_out(
    world: World,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    folds: int,
) -> None:
    calls: list[object] = []
    monkeypatch.setattr("richkd.training.run.teach_folds", lambda config, k, **how: calls.append(k))
    monkeypatch.setattr("richkd.training.run.distill", lambda config, **how: calls.append(None))
    options = world.options(tmp_path / "run", method__name="ce")
    assert call(capsys, "teach", *options, *words)[0] == 0
    assert calls == [folds]


@pytest.mark.parametrize("value", ["1.5", "many", "1"])
def test_a_wrong_number_of_folds_is_refused(
    world: World, tmp_path: Path, capsys: Capture, value: str
) -> None:
    options = world.options(tmp_path / "run", method__name="ce")
    assert "folds" in refused(capsys, "teach", *options, "--folds", value)


def test_a_teacher_is_repeated_in_folds_by_one_short_command(
    full_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "folds"
    code, text, _ = call(capsys, "teach", "--from", str(full_run), "--epochs", "1", "--out", str(out))
    assert code == 0
    assert text.startswith("folds: 5 trainings")
    settings = load_config(out / "fold-4" / "config.yaml")
    assert (settings.train.epochs, settings.optim.lr) == (1, 0.07)
    assert "not from both" in refused(capsys, "teach", "--from", str(full_run), "-c", "recipe.yaml")
    assert "finished run" in refused(capsys, "teach", "--from", str(tmp_path), "--out", str(out))
    assert "empty" in refused(capsys, "teach", "--from", "", "--out", str(out))


def test_a_folder_is_no_file_for_predictions(world: World, tmp_path: Path, capsys: Capture) -> None:
    # Refused before the model, which does not exist, is opened.
    text = refused(capsys, "predict", "no-such-model", "no-such-image.png", "--out", str(tmp_path))
    assert f"--out {tmp_path} must be a file Got: a folder" in text
    assert f"such as {tmp_path / 'predictions.csv'}." in text
    assert "--resume" not in text


def test_the_model_comes_before_the_images(world: World, capsys: Capture) -> None:
    photo = str(world.images / "test" / "ant" / "0.png")
    text = refused(capsys, "predict", photo, str(world.teacher))
    assert "Got: a file, no folder" in text
    assert "richkd predict MODEL IMAGE" in text


@pytest.mark.parametrize("words", [["ls"], ["verify"], ["rm"]], ids=" ".join)
def test_a_folder_without_caches_is_named(tmp_path: Path, capsys: Capture, words: list[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "photos").mkdir()
    more = ["x"] if words == ["rm"] else []
    for name, got in (("nowhere", "no such folder"), ("photos", "no cache in it"), ("file", "a file")):
        text = refused(capsys, "cache", *words, str(tmp_path / name), *more)
        assert f"There are no caches in {tmp_path / name} Got: {got} Fix: check the path;" in text
        assert "No name is known" not in text


def test_a_run_to_resume_that_is_not_there_is_named(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = refused(capsys, "distill", "--resume", "--out", "runs/nope")
    assert "--resume: there is no run in runs/nope Got: no such folder Fix: check --out" in text
    assert "there is no run in runs/latest" in refused(capsys, "teach", "--resume")
    (tmp_path / "photos").mkdir()
    text = refused(capsys, "distill", "--resume", "--out", "photos")
    assert "Got: no config.yaml with checkpoints/" in text


def test_a_word_without_settings_has_no_far_hint(capsys: Capture) -> None:
    text = refused(capsys, "settings", "nonsense")
    assert "Did you mean" not in text
    assert "`richkd settings` lists all." in text


@pytest.mark.parametrize("name", ["distill", "teach", "check"])
def test_help_shows_defaults(capsys: Capture, name: str) -> None:
    _, out, _ = call(capsys, name, "--help")
    for option, default in (("epochs", "240"), ("seed", "0"), ("device", "auto"), ("out", "runs/latest")):
        (line,) = (line for line in out.splitlines() if line.startswith(f"│ --{option} "))
        assert f"(default: {default})" in line


def test_help_says_what_an_option_is_for_this_command(capsys: Capture) -> None:
    _, out, _ = call(capsys, "distill", "--help")
    lines = {word: line for line in out.splitlines() for word in line.split() if word.startswith("--")}
    assert "folds:FOLDER or cache:NAME" in lines["--teacher"]
    assert "folds:" not in lines["--student"]
    assert "search the settings first: time for each of this method" in lines["--tune"]
    _, out, _ = call(capsys, "probe", "--help")
    assert "folder of probe.html and probe.json (default: none is written)" in out
    assert "run folder" not in out


def test_folders_that_cannot_be_looked_at_are_said(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    close(monkeypatch, tmp_path / "closed")
    for folder, reason in (
        (tmp_path / LONG, "File name too long"),
        (tmp_path / "closed" / "x", "Permission denied"),
    ):
        for words in (["cache", "ls", str(folder)], ["distill", "--resume", "--out", str(folder)]):
            code, _, err = call(capsys, *words)
            assert code == 1
            assert f"Got: {reason}" in err
