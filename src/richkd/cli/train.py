"""The commands that train: ``richkd distill`` and ``richkd teach``; no logic."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from richkd.cli.exit_status import STOPPED
from richkd.cli.options import AcceptChangedImages, Overwrite, Resume, configured, place, wholes
from richkd.cli.usage_errors import reading_words
from richkd.config.folds import FOLDS
from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.core.output import lasting
from richkd.core.quick_imports import quick_imports

NumberOfFolds = Annotated[
    list[int] | None,
    Parameter(
        help=f"train this many teachers (default: {FOLDS}), each without one fold of the images",
        converter=wholes,
        consume_multiple=(0, 1),
    ),
]
Tune = Annotated[
    str | None,
    Parameter(
        help="search the settings first: time for each of this method, plain KD and the control, such as "
        "10m; the best on validation images is trained",
    ),
]
FullTeacher = Annotated[
    Path | None,
    Parameter(
        name="--from",
        help="train teachers of folds with the settings of this finished run, the full teacher",
        converter=place,
    ),
]
RESUME = "the same command and --resume"


@configured(
    "data",
    "student",
    "teacher",
    "teacher_weights",
    "clip",
    "unlabeled",
    "teacher_cache",
    "method",
    "variant",
    "preset",
    "epochs",
    "seed",
    "device",
    "out",
)
def distill(
    *,
    config: Config,
    tune: Tune = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    accept_changed_images: AcceptChangedImages = False,
) -> None:
    """Train a small student from a vision teacher that is fused with CLIP.

    Every other setting is given as --section.name VALUE; `richkd settings` lists them.

    For example:

    richkd distill --data photos/ --student mobilenetv3_small_100 --student.size 128
    --teacher local-dir:runs/teacher/student --clip ViT-B-32:datacomp_xl_s13b_b90k --out runs/small
    """
    _train(config, tune=tune, resume=resume, overwrite=overwrite, accept_changed_images=accept_changed_images)


@configured("data", "model", "weights", "epochs", "seed", "device", "out", method="ce")
def teach(
    *,
    config: Config,
    folds: NumberOfFolds = None,
    full: FullTeacher = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    accept_changed_images: AcceptChangedImages = False,
) -> None:
    """Train a teacher from labels: the same loop with cross-entropy only.

    Use the result as --teacher local-dir:OUT/student. With --folds, use it as --teacher folds:OUT; each
    training image then gets its target from the teacher that was not trained on it. --from RUN repeats a
    finished teacher in this way; --teachers.1.fold_share blends both targets. Settings of the model are
    --student.*.

    For example:

    richkd teach --data photos/ --model resnet50 --student.pretrained true --out runs/teacher

    richkd teach --from runs/teacher --out runs/folds
    """
    count = None if folds is None and full is None else (folds or [FOLDS])[-1]
    _train(
        config,
        folds=count,
        full=full,
        resume=resume,
        overwrite=overwrite,
        accept_changed_images=accept_changed_images,
    )


def _train(
    config: Config, folds: int | None = None, full: Path | None = None, tune: str | None = None, **how: Any
) -> None:
    with quick_imports():
        from richkd.core.interrupt import Interrupted
        from richkd.training.run import distill as run_distill
        from richkd.training.run import teach_folds

    if tune is not None and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            "A search (--tune) starts its own processes",
            got=f"a start of {os.environ['WORLD_SIZE']} processes",
            fix="search with a single process, and train with the recipe that it writes.",
        )
    # The result of a run is its folder, so the run does not end with the reader of its messages.
    with lasting("stdout"):
        again = "the same command" if tune is not None else RESUME
        try:
            if tune is not None:
                config, again = _tuned(config, tune, how["resume"], how["overwrite"]), RESUME
            if folds is None:
                run_distill(config, **how)
            else:
                teach_folds(config, folds, full=full, **how)
        except Interrupted:
            if os.environ.get("RANK", "0") == "0":
                print(f"\nstopped and saved; continue with {again}")
            sys.exit(STOPPED)


def _tuned(config: Config, tune: str, resume: bool, overwrite: bool) -> Config:
    from richkd.tune.before import minutes_of, tuned

    with reading_words():
        minutes = minutes_of(tune)
    return tuned(config, minutes, resume=resume, overwrite=overwrite)
