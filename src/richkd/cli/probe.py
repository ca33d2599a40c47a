"""The command ``richkd probe``; no logic."""

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
    "teacher_cache",
    "unlabeled",
    "seed",
    "device",
    "out",
)
def probe(*, config: Config, json: Json = False) -> None:
    """Predict before any training whether CLIP improves the teacher on your classes.

    Compares teacher, CLIP and their fusions on held-out images: the validation split, or --data.calibration
    DIR if the teacher was trained on all images. All presets of fusion are compared, so a recipe's method,
    objective and fusion have no influence, except for the temperature of its logit loss. --out writes a
    page, probe.html, and probe.json; --json prints the same figures.

    For example:

    richkd probe --data photos/ --student mobilenetv3_small_100 --teacher resnet50
    --teacher-weights teacher.pth --clip ViT-B-32:openai --out runs/probe
    """
    from contextlib import nullcontext
    from functools import partial
    from pathlib import Path

    with quick_imports():
        from richkd.core.device import pick_device
        from richkd.core.folder_lock import folder_lock
        from richkd.core.temporary import remove_abandoned
        from richkd.core.terminal import Terminal
        from richkd.pipeline.assemble import assemble
        from richkd.pipeline.teacher_check import report_sizes
        from richkd.reporting.probe.page import numbers, write_probe
        from richkd.reporting.probe.probe import run_probe
        from richkd.reporting.probe.settings import check_probe, probe_config
        from richkd.reporting.probe.terminal import print_probe

    console = Terminal()
    out = config.out if "out" in config.model_fields_set else None
    check_probe(config, out)
    device = pick_device(config.train.device)
    log, page = partial(console.print, soft_wrap=True), None
    lock = folder_lock(out, f"--out {out}") if out is not None else nullcontext()
    with json_only(json) as write, lock:
        parts = assemble(probe_config(config), device, log)
        report_sizes(parts, log)
        result = run_probe(parts)
        parts.flush_caches()
        if out is not None:
            remove_abandoned(out)
            page = write_probe(result, out, Path(config.data.path).name)
        if json:
            write(numbers(result))
        else:
            print_probe(result, console)
        if page is not None:
            log(f"page: {page}")
