"""Mistakes that people make on the command line: wrong paths, types, numbers, names, and odd folders."""

from __future__ import annotations

import os
from pathlib import Path

from tests.faults.images import small_png
from tests.fixtures import World, make_world

NET = ["--student", "cifar_resnet8", "--student.size", "16"]


def clumsy_inputs(folder: Path) -> list[list[str]]:
    """Write the odd folders, and return the arguments of each command. All of them must be refused.

    Args:
        folder: a folder that does not exist yet, or is empty.
    """
    world = make_world(folder / "good")
    odd = _odd_folders(folder / "odd")
    return [*_paths(folder, world), *_values(world), *_words(world), *_outs(folder, world), *odd]


def _check(data: str | Path, *more: str) -> list[str]:
    return ["check", "--data", str(data), *NET, "--method", "ce", *more]


def _paths(folder: Path, world: World) -> list[list[str]]:
    """Paths that are missing, of another kind, or of a system that has other paths."""
    picture = str(next(world.images.rglob("*.png")))
    student = str(world.teacher)
    bytes_name = os.fsdecode(os.fsencode(folder) + b"/caf\xe9")
    places = ("no-such-folder", "/no/such/folder", "", " ", ".", "/dev/null", "/dev/zero", "~nobody/photos")
    more = (
        "C:\\photos",
        "http://127.0.0.1/photos",
        "a" * 5000,
        "a/" * 3000,
        "фото",
        bytes_name,
        "-",
        "*.tar",
    )
    return [
        *(_check(place) for place in (*places, *more, picture, student)),
        _check("{0..3}.tar"),
        _check("a-{0..999999999999}.tar"),
        _check(world.images, "--data.class_names", str(folder)),
        _check(world.images, "--data.class_names", "/dev/null"),
        _check(world.images, "--data.calibration", "no-such-folder"),
        _check(world.images, "--unlabeled", "no-such-folder"),
        _check(world.images, "--unlabeled", picture),
        _check(world.images, "--student.weights", str(folder)),
        _check(world.images, "--student.weights", "/dev/zero"),
        *(["check", "-c", path] for path in (str(folder), "/dev/null", "/dev/zero", "", "no-such.yaml")),
        *(["predict", model, picture] for model in ("no-such-run", picture, str(folder), "/dev/null", "")),
        *(["predict", student, image] for image in ("gone.png", "/dev/zero", "", "*.gone", bytes_name)),
        ["predict", student],
        ["predict", student, str(folder / "odd" / "nothing")],
        ["report", "no-such-run"],
        ["report", picture],
        ["report"],
        ["evaluate", "--data", str(world.images)],
        ["evaluate", student, "--data", "no-such-folder"],
        ["evaluate", "no-such-run", "--data", str(world.images)],
        ["evaluate", student, "--data", str(world.images), "--hierarchy", str(folder)],
        ["evaluate", student, "--data", str(world.images), "--shift", "night"],
        ["evaluate", student, "--data", str(world.images), "--cifar-c", str(world.images)],
        ["cache", "ls", "no-such-folder"],
        ["cache", "verify", picture],
        ["cache", "rm", str(folder), "../good"],
        ["cache", "import", "no-such.npz", "--data", str(world.images), *NET, "--teacher-cache", str(folder)],
    ]


def _values(world: World) -> list[list[str]]:
    """Values of a wrong type or outside of the range."""
    values = {
        "--epochs": ("0", "-1", "1.5", "many", "nan", "inf", "1e400", "9" * 5000, "", "三"),
        "--seed": ("-1", "x", "0.5"),
        "--optim.lr": ("0", "-0.1", "nan", "inf", ".nan", ".inf", "fast", "[1]", "{", "0,1"),
        "--train.batch_size": ("0", "-8", "2.5", "nan"),
        "--train.workers": ("-1", "many"),
        "--train.precision": ("fp8", "16"),
        "--device": ("gpu9", "cuda:99", "tpu", ""),
        "--student.size": ("0", "-16", "3", "large", "1e3.5"),
        "--student.args": ("{", "[1]", "{a: 1, a: 2}", "{no_such: 1}", "{num_classes: 5}"),
        "--student.std": ("[0, 0, 0]", "[.nan, 1, 1]", "[1]", "1"),
        "--data.val_fraction": ("1", "-0.1", "2", "nan"),
        "--data.exclude_fold": ("5", "[3, 2]", "[0, 0]"),
        "--augment.policy": ("strong",),
        "--objective": ("[[[]]]", "5", "{kd: 1}"),
    }
    return [_check(world.images, option, value) for option, listed in values.items() for value in listed]


def _words(world: World) -> list[list[str]]:
    """Names, options and quotes that are wrong."""
    student = str(world.teacher)
    return [
        ["distil"],
        ["train", "--data", "x"],
        ["--data", "x"],
        ["check", "photos"],
        ["check", "--data"],
        ["check", "--data", "x"],
        ["check", "--student", "resnet18"],
        ["check", "--data", "my", "photos", "--student", "resnet18"],
        ["check", "--data=", "--student="],
        ["check", "—data", "x"],
        ["check", "--", "--data", "x"],
        [*_check(world.images), "--no-such", "1"],
        [*_check(world.images), "--optim.lr"],
        [*_check(world.images), "--teacher", ""],
        [*_check(world.images), "--student", "resnet19"],
        [*_check(world.images), "--student", "os:system"],
        [*_check(world.images), "--student", "a:b:c"],
        [*_check(world.images), "--student", "local-dir:"],
        [*_check(world.images), "--method", "magic"],
        [*_check(world.images), "--clip", "ViT"],
        ["predict", student, "--top", "0", "x.png"],
        ["predict", student, "--top", "x", "x.png"],
        ["predict", student, "--json", "--csv", "x.png"],
        ["evaluate", student, "--data", str(world.images), "--split", "nowhere"],
        ["settings", "no such setting", "at all"],
        ["demo", "--digits", "3"],
    ]


def _outs(folder: Path, world: World) -> list[list[str]]:
    """Places where nothing can be written."""
    (folder / "file").write_text("mine", encoding="utf-8")
    (folder / "occupied").mkdir()
    (folder / "occupied" / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "link").symlink_to("nowhere/at/all")
    picture = str(next(world.images.rglob("*.png")))
    train = ["teach", "--data", str(world.images), "--model", "cifar_resnet8", "--student.size", "16"]
    # A link, because a fault here would replace the device itself.
    device, pipe = folder / "device.csv", folder / "pipe.csv"
    device.symlink_to("/dev/full")
    os.mkfifo(pipe)
    # The superuser may write everywhere but into the tables of the kernel.
    places = ("file", "file/run", "occupied", "device.csv", "pipe.csv", "a" * 300)
    return [
        *([*train, "--out", str(folder / place)] for place in places),
        *([*train, "--out", place] for place in ("/proc/run", "/dev/full/run", "")),
        [*train, "--out", str(folder / "no run"), "--resume"],
        [*train, "--out", str(folder / "no run"), "--resume", "--overwrite"],
        [*train, "--out", str(folder / "folds"), "--folds", "1"],
        [*train, "--out", str(folder / "folds"), "--folds", "99999"],
        *(
            ["predict", str(world.teacher), picture, "--out", place]
            for place in ("/proc/a.csv", *map(str, (folder, folder / "file" / "a.csv", device, pipe)))
        ),
    ]


def _odd_folders(folder: Path) -> list[list[str]]:
    """Data sets that lack something, or have strange names."""
    folder.mkdir()
    latin = os.fsdecode(b"caf\xe9")

    def put(*paths: str) -> None:
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(small_png())

    put("one class/ant/0.png", "one class/ant/1.png", "one image/ant/0.png")
    put("a picture each/ant/0.png", "a picture each/bee/0.png", f"latin/{latin}/0.png", "latin/bee/0.png")
    put("test only/test/ant/0.png", "test only/test/bee/0.png", "no class/train/0.png", "no class/test/1.png")
    put(
        "equal/sea_lion/0.png",
        "equal/sea lion/0.png",
        f"latin names/ant/{latin}.png",
        "latin names/bee/0.png",
    )
    put("two/train/ant/0.png", "two/training/bee/0.png", "deep/a/b/c/0.png", "deep/a/d/0.png")
    put("more/train/ant/0.png", "more/train/bee/0.png", "more/test/cow/0.png")
    (folder / "one image" / "bee").mkdir()
    (folder / "nothing").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "ant").symlink_to("gone")
    (folder / "texts" / "ant").mkdir(parents=True)
    (folder / "texts" / "ant" / "a.docx").write_bytes(b"PK")
    names = ("one class", "one image", "latin", "no class", "equal", "latin names", "two", "deep", "more")
    return [_check(folder / name) for name in (*names, "nothing", "broken", "texts")]
