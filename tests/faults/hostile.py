"""Files that nobody should get from a download, each with the command that reads it.

A script of its own can use them: ``hostile_files(Path("faults"))`` writes the files and returns the commands.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults import arrays, images, models, tables, texts
from tests.fixtures import World, make_world

NET = ["--student", "cifar_resnet8", "--student.size", "16"]
# Files whose command may succeed, because their fault does not matter for it.
HARMLESS = frozenset(
    {
        *(f"images/{name}" for name in images.HARMLESS),
        # The reader of features ignores what is no mapping.
        "parquet/info list.parquet",
    }
)


def hostile_files(folder: Path) -> list[tuple[Path, list[str]]]:
    """Write the files, and return each path with the arguments of the command that reads it.

    Args:
        folder: a folder that does not exist yet, or is empty.
    """
    world = make_world(folder / "good")
    check = ["check", "--data", str(world.images), *NET, "--method", "ce", "--train.workers", "0"]
    cases = [*_pictures(folder, world), *_arrays(folder, world, check), *_texts(folder, world, check)]
    data = [*tables.write_parquet(folder / "parquet"), *tables.write_tars(folder / "tar")]
    data += [*tables.write_folders(folder / "folders"), *_lists(folder)]
    cases += [(path, ["check", "--data", str(path), *NET, "--method", "ce"]) for path in data]
    picture = str(next(world.images.rglob("*.png")))
    for path in models.write_students(folder / "students", world.teacher):
        cases.append((path, ["predict", str(path), picture]))
    cases += [(path, ["report", str(path)]) for path in models.write_runs(folder / "runs")]
    cases += [(path, ["cache", "verify", str(path)]) for path in models.write_caches(folder / "caches")]
    return cases


def may_succeed(folder: Path, path: Path) -> bool:
    """Whether the command that reads a file may end without an error."""
    return path.relative_to(folder).as_posix() in HARMLESS


def _pictures(folder: Path, world: World) -> list[tuple[Path, list[str]]]:
    paths = images.write_images(folder / "images")
    return [(path, ["predict", str(world.teacher), str(path)]) for path in paths]


def _arrays(folder: Path, world: World, check: list[str]) -> list[tuple[Path, list[str]]]:
    settings = ["--data", str(world.images), *NET, "--teacher-cache", str(folder / "cache")]
    outputs = arrays.write_outputs(folder / "outputs", world.images)
    weights = arrays.write_weights(folder / "weights")
    clip = ["distill", "--data", str(world.images), *NET, "--method", "kd", "--out", str(folder / "out")]
    clip += ["--objective.kd.target", "clip"]
    return [
        *((path, ["cache", "import", str(path), *settings]) for path in outputs),
        *((path, [*clip, "--clip", f"outputs:{path}"]) for path in outputs[:6]),
        *((path, [*check, "--student.weights", str(path)]) for path in weights),
    ]


def _texts(folder: Path, world: World, check: list[str]) -> list[tuple[Path, list[str]]]:
    evaluate = ["evaluate", str(world.teacher), "--data", str(world.images)]
    recipes = texts.write_texts(folder / "recipes", texts.RECIPES, "pipe.yaml")
    levels = texts.write_texts(folder / "hierarchies", texts.HIERARCHIES, "pipe.json")
    names = texts.write_texts(folder / "names", texts.CLASS_NAMES, "pipe.txt")
    return [
        *((path, ["check", "-c", str(path)]) for path in recipes),
        *((path, [*evaluate, "--hierarchy", str(path)]) for path in levels),
        *((path, [*check, "--data.class_names", str(path)]) for path in names),
    ]


def _lists(folder: Path) -> list[Path]:
    lists = texts.write_texts(folder / "lists", texts.LISTS, "pipe.csv")
    texts.write_texts(folder / "lists", {}, "pipe.png")
    for name in ("a.png", "b.png"):
        (folder / "lists" / name).write_bytes(images.small_png())
    return lists
