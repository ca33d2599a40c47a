"""The settings of a probe, and their checks before anything is opened."""

from __future__ import annotations

from pathlib import Path

from richkd.config.schema import Config, FusionConfig, MethodConfig
from richkd.core.errors import ConfigError, Problems
from richkd.core.files import refuse_unwritable
from richkd.methods.objective import logit_temperature, read_objective
from richkd.pipeline.roles import ADD_CLIP, ADD_TEACHER


def probe_config(config: Config) -> Config:
    """The settings of a run, with the method, objective and fusion of a probe.

    A probe compares all presets of fusion on logits. Of the objective, it keeps only the temperature of the
    first loss on a target's logits; without one, that of RichKD is used.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}, "fusion": {"features": "phi-s"}}
        >>> config = Config.model_validate(base | {"objective": {"kd": {"temperature": 4}}})
        >>> config = probe_config(config)
        >>> config.fusion.features, config.method.variant, config.objective
        ('raw', 'l', {'kd': {'temperature': 4.0}})
    """
    # This preset needs no fit.
    changes = {"method": MethodConfig(variant="l"), "objective": {}, "fusion": FusionConfig(preset="paper")}
    probing = config.model_copy(update=changes)
    temperature = logit_temperature(read_objective(config), logit_temperature(read_objective(probing)))
    return probing.model_copy(update={"objective": {"kd": {"temperature": temperature}}})


def check_probe(config: Config, out: Path | None = None) -> None:
    """Check before anything is opened what a probe compares, and where its page is written.

    Args:
        config: the settings.
        out: folder of the page; None if no page is written.

    Raises:
        ConfigError: no vision teacher or no CLIP is given.
        CheckpointError: ``out`` cannot be written.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}}
        >>> try:
        ...     check_probe(Config.model_validate(base))
        ... except ConfigError as error:
        ...     error.got
        'neither --teacher nor --clip'
    """
    problems = Problems()
    problems.attempt(_check_compared, config)
    if out is not None:
        problems.attempt(refuse_unwritable, out)
    problems.refuse_all()


def _check_compared(config: Config) -> None:
    if config.teachers and config.clip is not None:
        return
    missing = [word for word, given in (("--teacher", config.teachers), ("--clip", config.clip)) if not given]
    advice = {"--teacher": ADD_TEACHER, "--clip": ADD_CLIP}
    alone = (
        "" if config.teachers else "; without teachers, `richkd check --method ce` checks data and student"
    )
    raise ConfigError(
        "A probe compares one or several vision teachers with CLIP on held-out images",
        got=f"no {missing[0]}" if len(missing) == 1 else "neither --teacher nor --clip",
        fix=f"{', and '.join(advice[word] for word in missing)}{'' if config.teachers else alone}.",
    )
