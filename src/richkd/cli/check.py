"""The command ``richkd check``; no logic."""

from __future__ import annotations

from richkd.cli.json_output import Json, json_only
from richkd.cli.options import configured
from richkd.config.schema import Config
from richkd.core.quick_imports import quick_imports


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
def check(*, config: Config, json: Json = False) -> None:
    """Open and test everything that a run needs, and print the plan with the time, memory and disk it needs.

    Decodes every image, compares class names and their order across data, teachers and CLIP, measures up to
    20 steps, and reports images that are in both train and test. The run folder is not touched.

    For example:

    richkd check --data photos/ --student resnet18 --teacher local-dir:runs/teacher/student
    --clip ViT-B-32:datacomp_xl_s13b_b90k
    """
    with quick_imports():
        from richkd.core.terminal import Terminal
        from richkd.training.check import check_run

    with json_only(json) as write:
        plan = check_run(config, Terminal())
        if json:
            write(plan)
