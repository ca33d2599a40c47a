"""The commands of ``richkd cache``; no logic."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from rich.table import Table

from richkd.cli.exit_status import STOPPED
from richkd.cli.json_output import Json, json_only
from richkd.cli.options import config_of, configured, place, whole
from richkd.config.schema import Config
from richkd.core.output import lasting
from richkd.core.quick_imports import quick_imports
from richkd.core.terminal import Terminal
from richkd.core.visible import counted

if TYPE_CHECKING:
    from richkd.pipeline.fill_cache import Verified
    from richkd.teachers.cache.manifest import Manifest
    from richkd.teachers.cache.store import OutputCache

cache = App(
    name="cache",
    help="Store teacher outputs on disk: fill ahead of a run, import, list, verify, remove.",
    help_epilogue="",
)

Folder = Annotated[Path, Parameter(help="folder of the teacher cache", converter=place)]


@cache.command
@configured(
    "teacher_cache",
    "data",
    "student",
    "teacher",
    "teacher_weights",
    "clip",
    "unlabeled",
    "method",
    "variant",
    "preset",
    "epochs",
    "seed",
    "device",
)
def fill(*, config: Config) -> None:
    """Compute and store the teacher outputs that a run with these settings needs.

    Stored outputs are skipped, so an interrupted command continues when it is repeated. Several processes
    share the work: torchrun --nproc_per_node 4 -m richkd cache fill …

    For example:

    richkd cache fill -c recipe.yaml --teacher-cache cache/
    """
    with quick_imports():
        from richkd.core.interrupt import Interrupted
        from richkd.pipeline.fill_cache import fill_caches

    with lasting("stdout"):
        try:
            fill_caches(config)
        except Interrupted:
            print("\nstopped; what was computed is stored. Continue with the same command.")
            sys.exit(STOPPED)


@cache.command(name="import")
@configured("teacher_cache", "data", "student", "seed")
def import_(
    file: Annotated[Path, Parameter(help="outputs computed elsewhere (.npz, .safetensors)", converter=place)],
    /,
    *,
    config: Config,
    name: Annotated[str | None, Parameter(help="name of the teacher (default: the file's name)")] = None,
) -> None:
    """Store a vision teacher's outputs that were computed elsewhere; use them as --teacher cache:NAME.

    FILE holds logits (N, C), classnames (C), the images' files (N) and, optionally, features (N, F). Rows
    are of whole images, unless views (N) gives each row the number of its view. Give the settings of the
    run: the outputs belong to its data, its augmentation and its image size.

    For example:

    richkd cache import resnet50.npz --teacher-cache cache/ -c recipe.yaml

    richkd distill -c recipe.yaml --teacher cache:resnet50 --teacher-cache cache/
    """
    with quick_imports():
        from richkd.pipeline.import_outputs import import_outputs

    with lasting("stdout"):
        import_outputs(file, config, name=name, log=_log)


@cache.command
def ls(folder: Folder, /, *, json: Json = False) -> None:
    """List the caches of a folder: how much is in them, and how large they are.

    For example:

    richkd cache ls cache/
    """
    with quick_imports():
        from richkd.pipeline.fill_cache import open_caches

    _refuse_none(folder)
    caches = open_caches(folder)
    if json:
        with json_only(json) as write:
            write([_cache_json(manifest, opened) for manifest, opened in caches])
        return
    table = Table(box=None, pad_edge=False)
    # Names are what `rm` takes, so they are never cut.
    table.add_column("cache", min_width=max(len(opened.folder.name) for _, opened in caches))
    for column in ("outputs", "of", "views", "MB", "row"):
        table.add_column(column)
    for manifest, opened in caches:
        kept = manifest.row_format
        logits = f"{kept.top_k} of {kept.classes}" if kept.top_k else f"{kept.classes or 'no'}"
        table.add_row(
            opened.folder.name,
            f"{len(opened):,}",
            f"{manifest.images * manifest.views:,}",
            f"{manifest.views}",
            f"{opened.bytes_on_disk / 1e6:.1f}",
            f"{logits} logits, {kept.features or 'no'} features",
        )
    Terminal().print(table)


def _refuse_none(folder: Path) -> None:
    """Refuse a folder without caches, which may be a mistyped path."""
    from richkd.core.errors import CacheError
    from richkd.core.presence import exists, is_dir, stat_error
    from richkd.teachers.cache.manifest import list_caches

    reason = stat_error(folder / "any")
    if reason is None and list_caches(folder):
        return
    got = "no cache in it" if is_dir(folder) else "a file" if exists(folder) else "no such folder"
    raise CacheError(
        f"There are no caches in {folder}",
        got=reason or got,
        fix="check the path; `richkd cache fill … --teacher-cache DIR` fills one.",
    )


def _cache_json(manifest: Manifest, opened: OutputCache) -> dict[str, Any]:
    """What is in a cache."""
    return {
        "cache": opened.folder.name,
        "outputs": len(opened),
        "of": manifest.images * manifest.views,
        "views": manifest.views,
        "bytes": opened.bytes_on_disk,
        "row": asdict(manifest.row_format),
    }


@cache.command
def verify(
    folder: Folder,
    /,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    recipe: Annotated[
        Path | None, Parameter(name=["--config", "-c"], help="recipe of a run", converter=place)
    ] = None,
    sample: Annotated[
        int, Parameter(help="outputs per cache to compute again", show_default=True, converter=whole)
    ] = 256,
    json: Json = False,
) -> None:
    """Check every shard's hash and, with a run's settings, compute a sample of the outputs again.

    Imported outputs cannot be computed; only their hashes are checked.

    For example:

    richkd cache verify cache/

    richkd cache verify cache/ -c runs/small/config.yaml
    """
    with quick_imports():
        from richkd.core.errors import CacheError
        from richkd.pipeline.fill_cache import damaged_shards, verify_caches
        from richkd.teachers.cache.manifest import list_caches

    config: Config | None = None
    if recipe is not None or overrides:
        config = config_of(recipe, {"teacher_cache": folder}, overrides, others=("sample", "json"))
    _refuse_none(folder)
    with json_only(json) as write:
        damaged = {path.name: damaged_shards(path) for path in list_caches(folder)}
        for name, problems in damaged.items():
            _log(f"{name}: {'; '.join(problems) or 'every shard is intact'}")
        results: Sequence[Verified] = ()
        if config is not None:
            results = verify_caches(config, sample=sample)
            _log_verified(results)
        if json:
            write({"damaged": damaged, "computed_again": [_verified_json(one) for one in results]})
    if any(damaged.values()):
        raise CacheError(
            f"The teacher caches in {folder} must be intact",
            got=counted(sum(map(len, damaged.values())), "damaged shard"),
            fix="the next run removes damaged shards and computes their rows again; for an imported "
            "teacher, import its file again.",
        )


def _log(message: str) -> None:
    Terminal().print(message, soft_wrap=True)


def _log_verified(results: Sequence[Verified]) -> None:
    if not results:
        _log("no outputs were computed again: none of these teachers has stored outputs to compare")
    for result in results:
        _log(
            f"{result.cache.folder.name}: {result.images} outputs computed again, "
            f"largest difference {result.largest:.3g}, {result.agreement:.2%} with the same arg-max"
        )


def _verified_json(result: Verified) -> dict[str, Any]:
    """The figures of a cache whose outputs were computed again."""
    return {
        "cache": result.cache.folder.name,
        "outputs": result.images,
        "largest_difference": result.largest,
        "agreement": result.agreement,
    }


@cache.command
def rm(folder: Folder, name: Annotated[str, Parameter(help="the cache, as `ls` calls it")], /) -> None:
    """Remove a cache.

    For example:

    richkd cache rm cache/ resnet50-train-0123456789abcdef
    """
    with quick_imports():
        from richkd.teachers.cache.removal import remove_cache

    _refuse_none(folder)
    Terminal().print(f"removed {remove_cache(folder, name)}", soft_wrap=True)
