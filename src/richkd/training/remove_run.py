"""The files that a run writes; ``--overwrite`` removes these and no others."""

from __future__ import annotations

from pathlib import Path

from richkd.config.resumed import INPUTS, SETTINGS
from richkd.core.checksums import SUMS
from richkd.export.from_checkpoint import DESCRIPTION
from richkd.models.speed import SPEED
from richkd.pipeline.sharpen import FACTORS
from richkd.training.environment import ENVIRONMENT

# They are removed in this order: a kill in between must leave no summary without its checkpoint, and no
# checkpoint without its settings.
RESULTS = ("summary.json", "student/README.md", "student/config.json", "student/model.safetensors")
WRITTEN = (
    *(*RESULTS, f"student/{SUMS}"),
    *("checkpoints/last*.ckpt", "checkpoints/best*.ckpt", f"checkpoints/{DESCRIPTION}"),
    *("events/**/events.out.tfevents.*", "events/**/hparams.yml"),
    *("metrics.jsonl", "timing.jsonl", SPEED, FACTORS, INPUTS, ENVIRONMENT, SUMS, SETTINGS),
)
FOLDERS = ("checkpoints", "student", "events")


def remove_run(path: Path) -> None:
    """Remove the files of a run from its folder, and the folders that are then empty.

    Raises:
        OSError: a file cannot be removed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for file in ("summary.json", "notes.txt"):
        ...         (Path(name) / file).touch()
        ...     remove_run(Path(name))
        ...     [file.name for file in Path(name).iterdir()]
        ['notes.txt']
    """
    # Other files in the folder belong to the user.
    for pattern in WRITTEN:
        for file in path.glob(pattern):
            file.unlink()
    for name in FOLDERS:
        folders = [f for f in (path / name).rglob("*") if f.is_dir() and not f.is_symlink()]
        for folder in sorted(folders, reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
