"""The commands of ``richkd cache``; no logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from richkd.cli.options import (
    Augmentation,
    Clip,
    Data,
    Epochs,
    Method,
    Overrides,
    Seed,
    Student,
    Teacher,
    TeacherCache,
    TeacherWeights,
    config_of,
)

cache = App(
    name="cache", help="Keep teachers' outputs on disk: fill ahead of a run, import, list, verify, remove."
)

Folder = Annotated[Path, Parameter(help="folder of caches")]


@cache.command
def fill(
    *overrides: Overrides,
    teacher_cache: TeacherCache = None,
    data: Data = None,
    student: Student = None,
    teacher: Teacher = None,
    teacher_weights: TeacherWeights = None,
    clip: Clip = None,
    method: Method = None,
    epochs: Epochs = None,
    seed: Seed = None,
    config: Augmentation = None,
) -> None:
    """Compute and store what a run with these settings will ask its teachers.

    What is stored is passed over, so a filling that was stopped goes on with the same command. Several
    processes share the work: accelerate launch --num_processes 4 -m richkd cache fill …

    For example:

    richkd cache fill -c recipe.yaml --teacher-cache cache/
    """
    from richkd.core.interrupt import Interrupted
    from richkd.pipeline.fill_cache import fill_caches

    options = {
        "teacher-cache": teacher_cache,
        "data": data,
        "student": student,
        "teacher": teacher,
        "teacher-weights": teacher_weights,
        "clip": clip,
        "method": method,
        "epochs": epochs,
        "seed": seed,
    }
    try:
        fill_caches(config_of(config, options, overrides))
    except Interrupted:
        print("\nstopped; what was computed is stored. Go on with the same command.")
        sys.exit(130)


@cache.command(name="import")
def import_(
    file: Annotated[Path, Parameter(help="outputs computed elsewhere (.npz, .safetensors)")],
    /,
    *overrides: Overrides,
    teacher_cache: TeacherCache = None,
    name: Annotated[
        str | None, Parameter(help="what the teacher is called (default: the file's name)")
    ] = None,
    data: Data = None,
    student: Student = None,
    seed: Seed = None,
    config: Augmentation = None,
) -> None:
    """Store a vision teacher's outputs that were computed elsewhere; use them as --teacher cache:NAME.

    FILE holds logits (N, C), classnames (C), the images' files (N) and, optionally, features (N, F).
    Rows are of whole images, unless views (N) gives each row the number of its view of the recipe.
    Give the settings of the run: the outputs belong to its data, its views and its image size.

    For example:

    richkd cache import resnet50.npz --teacher-cache cache/ -c recipe.yaml

    richkd distill -c recipe.yaml --teacher cache:resnet50 --teacher-cache cache/
    """
    from richkd.pipeline.import_outputs import import_outputs

    options = {"teacher-cache": teacher_cache, "data": data, "student": student, "seed": seed}
    import_outputs(file, config_of(config, options, overrides), name=name, log=print)


@cache.command
def ls(folder: Folder, /) -> None:
    """List the caches of a folder: how much is in them, and how large they are.

    For example:

    richkd cache ls cache/
    """
    from richkd.pipeline.fill_cache import contents

    caches = contents(folder)
    table = Table(box=None, pad_edge=False)
    # Names are what `rm` takes, so they are never cut.
    table.add_column("cache", min_width=max(len(opened.folder.name) for _, opened in caches))
    for column in ("outputs", "of", "views", "MB", "row"):
        table.add_column(column)
    for manifest, opened in caches:
        kept = manifest.rows
        logits = f"{kept.top} of {kept.classes}" if kept.top else f"{kept.classes or 'no'}"
        table.add_row(
            opened.folder.name,
            f"{len(opened):,}",
            f"{manifest.images * manifest.views:,}",
            f"{manifest.views}",
            f"{opened.bytes_on_disk / 1e6:.1f}",
            f"{logits} logits, {kept.features or 'no'} features",
        )
    Console(highlight=False).print(table)


@cache.command
def verify(
    folder: Folder,
    /,
    *overrides: Overrides,
    config: Augmentation = None,
    sample: Annotated[int, Parameter(help="outputs of each cache to compute again")] = 256,
) -> None:
    """Check every shard's hash and, with a run's settings, compute a sample again.

    Imported outputs cannot be computed; of them, hashes alone are checked.

    For example:

    richkd cache verify cache/

    richkd cache verify cache/ -c runs/small/config.yaml
    """
    from richkd.core.errors import CacheError
    from richkd.pipeline.fill_cache import damaged_shards, verify_caches
    from richkd.teachers.cache.store import list_caches

    damaged = {path.name: damaged_shards(path) for path in list_caches(folder)}
    for name, problems in damaged.items():
        print(f"{name}: {'; '.join(problems) or 'every shard is whole'}")
    if config is not None or overrides:
        for result in verify_caches(config_of(config, {"teacher-cache": folder}, overrides), sample=sample):
            print(
                f"{result.cache.folder.name}: {result.images} outputs computed again, "
                f"largest difference {result.largest:.3g}, {result.agreement:.2%} with the same arg-max"
            )
    if not damaged or any(damaged.values()):
        raise CacheError(
            f"The caches in {folder} must be whole",
            got=f"{sum(map(len, damaged.values()))} damaged shards" if damaged else "no cache",
            fix="the next run removes damaged shards and computes their rows again; for a teacher that was "
            "imported, import its file again.",
        )


@cache.command
def rm(folder: Folder, name: Annotated[str, Parameter(help="the cache, as `ls` calls it")], /) -> None:
    """Remove a cache.

    For example:

    richkd cache rm cache/ resnet50-train-0123456789abcdef
    """
    from richkd.teachers.cache.store import remove_cache

    print(f"removed {remove_cache(folder, name)}")
