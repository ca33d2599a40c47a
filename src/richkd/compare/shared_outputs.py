"""Which run of a queue begins next: if possible, none that repeats what another one is just computing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from richkd.compare.worker import Job
from richkd.config.model_name import parse_model_name
from richkd.config.schema import ClipConfig, Config, ModelConfig

# Kinds of models whose outputs were computed elsewhere.
ELSEWHERE = ("cache", "outputs")


class SharedOutputs:
    """Chooses runs so that each teacher output is computed once, and read from the teacher cache afterwards.

    Runs with equal seeds, images and augmentations need the same outputs. Two of them at once would both
    compute them, so the second one waits while other runs can begin. No process is ever left idle.

    Example:
        >>> from pathlib import Path
        >>> shared = {
        ...     "data": {"path": "photos"},
        ...     "student": {"name": "cifar_resnet8"},
        ...     "teachers": [{"name": "cifar_resnet56"}],
        ...     "cache": {"dir": "cache"},
        ... }
        >>> def job(name: str, seed: int) -> Job:
        ...     return Job(name, Config(**shared, train={"seed": seed}), None, Path("log"))
        >>> kd_s0, dkd_s0, kd_s1 = job("kd-s0", 0), job("dkd-s0", 0), job("kd-s1", 1)
        >>> outputs = SharedOutputs()
        >>> outputs.choose([dkd_s0, kd_s1], running=[kd_s0]).name
        'kd-s1'
        >>> outputs.ended(kd_s0)
        >>> outputs.choose([dkd_s0], running=[kd_s1]).name
        'dkd-s0'
    """

    def __init__(self) -> None:
        self._stored: set[str] = set()

    def choose(self, waiting: Sequence[Job], running: Iterable[Job]) -> Job:
        """The first waiting run that repeats nothing which a running one is computing, else the first one."""
        computing = {key for job in running for key in needed_outputs(job.config)} - self._stored
        ready = (job for job in waiting if computing.isdisjoint(needed_outputs(job.config)))
        return next(ready, waiting[0])

    def ended(self, job: Job) -> None:
        """The outputs that this run needed are stored now."""
        self._stored |= needed_outputs(job.config)


def needed_outputs(config: Config) -> set[str]:
    """A key for each teacher whose outputs are read from the teacher cache, or computed if missing there."""
    if config.cache.dir is None:
        return set()
    views = f"{config.data.model_dump_json()}{config.augment.model_dump_json()}{config.train.seed}"
    models: list[ModelConfig | ClipConfig] = list(config.teachers)
    if config.clip is not None:
        models.append(config.clip)
    computed = [model for model in models if parse_model_name(model.name).kind not in ELSEWHERE]
    return {views + model.model_dump_json() for model in computed}
