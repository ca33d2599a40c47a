"""The command ``richkd probe``; no logic."""

from __future__ import annotations

from richkd.cli.options import configured
from richkd.config.schema import Config


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
def probe(*, config: Config) -> None:
    """Predict before any training whether CLIP improves the teacher on your classes.

    Compares teacher, CLIP and their fusions on held-out images: the validation split, or --data.calibration
    DIR if the teacher was trained on all images. All presets of fusion are compared, so a recipe's method,
    objective and fusion have no influence, except for the temperature of its logit loss. --out writes a
    page, probe.html, and probe.json.

    For example:

    richkd probe --data photos/ --student mobilenetv3_small_100 --teacher resnet50
    --teacher-weights teacher.pth --clip ViT-B-32:openai --out runs/probe
    """
    from contextlib import nullcontext
    from functools import partial
    from pathlib import Path

    from rich.console import Console

    from richkd.core.device import pick_device
    from richkd.core.folder_lock import folder_lock
    from richkd.core.temporary import remove_abandoned
    from richkd.pipeline.assemble import assemble
    from richkd.pipeline.teacher_check import report_sizes
    from richkd.reporting.probe.page import write_probe
    from richkd.reporting.probe.probe import probe_config, run_probe
    from richkd.reporting.probe.terminal import print_probe

    console = Console(highlight=False)
    device = pick_device(config.train.device)
    log = partial(console.print, markup=False, soft_wrap=True)
    page = None
    written = "out" in config.model_fields_set
    with folder_lock(config.out, f"--out {config.out}") if written else nullcontext():
        parts = assemble(probe_config(config), device, log)
        report_sizes(parts, log)
        result = run_probe(parts)
        parts.flush_caches()
        if written:
            remove_abandoned(config.out)
            page = write_probe(result, config.out, Path(config.data.path).name)
    print_probe(result, console)
    if page is not None:
        console.print(f"page: {page}", markup=False, soft_wrap=True)
