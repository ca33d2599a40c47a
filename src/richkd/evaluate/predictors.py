"""Who is evaluated: saved students, networks with a checkpoint, a run's teachers and their fusion.

Models that share computation are one predictor: a run's teachers and their fusion, for example, so that every
image goes through each network once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from richkd.config.loading import load_config
from richkd.config.schema import CacheConfig, Config, ModelConfig
from richkd.core.errors import ConfigError, DataError
from richkd.core.types import Batch, Output
from richkd.data.batches import Store, in_order
from richkd.data.classes import check_same_classes
from richkd.data.split import Data
from richkd.data.views import Clean, Views, render
from richkd.export.student import load_student
from richkd.fusion.fusion import Fusion
from richkd.models.build import Network, build_network
from richkd.pipeline.assemble import Parts, assemble
from richkd.teachers.cache.cached import CachedTeacher, uncached, with_cache
from richkd.teachers.folds import FoldTeachers
from richkd.teachers.precomputed.vision import PREFIX
from richkd.teachers.predict import BATCH, batch_on
from richkd.teachers.vision import Storable, Teacher

FUSED = "fused"
# On a CPU what a network computes of so many pictures stays near the processor: ResNet-20 takes 5 s for
# 10,000 pictures of 32 pixels, and 8 s where it is given 250 at once.
AT_ONCE = 64


class Predictor(Protocol):
    """Models that answer together, by name, each with the temperature that is stored with it.

    ``size`` is that of the square source images they are shown. Answers are logits of own probabilities.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def temperatures(self) -> tuple[float, ...]: ...

    @property
    def size(self) -> int: ...

    def answer(self, batch: Batch, views: Views) -> Sequence[Output]: ...

    def for_any_image(self) -> Predictor | None:
        """Those of the predictor who look at pixels, and so can judge images that nobody has seen before."""
        ...


@dataclass(frozen=True)
class NetworkPredictor:
    """One network, in float32."""

    name: str
    network: Network
    temperature: float

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def temperatures(self) -> tuple[float, ...]:
        return (self.temperature,)

    @property
    def size(self) -> int:
        return self.network.size

    def answer(self, batch: Batch, views: Views) -> Sequence[Output]:
        network = self.network
        pixels = render(batch.pixels_BHWC, views, network.size, network.mean, network.std)
        at_once = AT_ONCE if pixels.device.type == "cpu" else len(pixels)
        parts = [network(part) for part in torch.split(pixels, at_once)]
        return [Output(_joined([o.logits_BC for o in parts]), _joined([o.feats_BF for o in parts]))]

    def for_any_image(self) -> Predictor:
        return self


@dataclass(frozen=True)
class TeachersPredictor:
    """A run's teachers, each at its own scale, and their fusion where all of them answer.

    What they say of the splits of ``class_names`` is read from ``cache``, and added to it.
    """

    teachers: tuple[Teacher, ...]
    fusion: Fusion | None
    size: int
    cache: CacheConfig | None = None
    class_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        own = tuple(teacher.name for teacher in self.teachers)
        return own if self.fusion is None else (*own, FUSED)

    @property
    def temperatures(self) -> tuple[float, ...]:
        return (1.0,) * len(self.names)

    def answer(self, batch: Batch, views: Views) -> Sequence[Output]:
        raw = [teacher.outputs(batch, views) for teacher in self.teachers]
        own = [
            Output(output.logits_BC * teacher.logit_scale, output.feats_BF)
            for teacher, output in zip(self.teachers, raw, strict=True)
        ]
        if self.fusion is None:
            return own
        fused_BC = self.fusion.logits([output.logits_BC for output in raw]).float()
        # The fused teacher has no features of one space.
        return [*own, Output(fused_BC, fused_BC[:, :0])]

    def beside(self, store: Store) -> TeachersPredictor:
        """The same, reading and filling the cache of a store's clean images."""
        if self.cache is None:
            return self
        name = store.split.name
        return replace(
            self,
            teachers=tuple(
                with_cache(
                    teacher,
                    self.cache,
                    {name: store},
                    {name: Clean(store.size)},
                    self.class_names,
                    seed=0,
                    features=True,
                    log=lambda message: None,
                )
                for teacher in self.teachers
            ),
        )

    def flush(self) -> None:
        for teacher in self.teachers:
            if isinstance(teacher, CachedTeacher):
                teacher.flush()

    def for_any_image(self) -> Predictor | None:
        # Caches, outputs computed elsewhere and out-of-fold teachers go by an image's number in a split.
        computing = (uncached(teacher) for teacher in self.teachers)
        seeing = tuple(t for t in computing if isinstance(t, Storable) and not isinstance(t, FoldTeachers))
        if not seeing:
            return None
        return TeachersPredictor(
            seeing, self.fusion if len(seeing) == len(self.teachers) else None, self.size
        )


def predict_all(predictors: Sequence[Predictor], store: Store, device: torch.device) -> dict[str, Output]:
    """What each model of some predictors says of every image of a store: clean view, in the store's order."""
    predictors = [
        predictor.beside(store) if isinstance(predictor, TeachersPredictor) else predictor
        for predictor in predictors
    ]
    clean = Clean(store.size)
    parts: dict[str, list[Output]] = {name: [] for predictor in predictors for name in predictor.names}
    with torch.inference_mode():
        for batch in store.batches(in_order(len(store.split), BATCH)):
            batch = batch_on(batch, device)
            views = clean.draw(0, 0, batch.index_B)
            for predictor in predictors:
                for name, output in zip(predictor.names, predictor.answer(batch, views), strict=True):
                    parts[name].append(Output(output.logits_BC.float().cpu(), output.feats_BF.float().cpu()))
    for predictor in predictors:
        if isinstance(predictor, TeachersPredictor):
            predictor.flush()
    return {
        name: Output(_joined([o.logits_BC for o in outputs]), _joined([o.feats_BF for o in outputs]))
        for name, outputs in parts.items()
    }


def open_network(
    model: str, weights: Path | None, data: Data, where: str, device: torch.device
) -> NetworkPredictor:
    """A saved student or run, or a network's name with a checkpoint.

    Raises:
        RichKDError: no such folder, network or weights, or classes that are not the data's.
    """
    if weights is not None:
        config = ModelConfig(name=model, weights=weights)
        network, temperature = build_network(config, len(data.class_names), role="student"), 1.0
    else:
        student = load_student(model)
        check_same_classes(data.class_names, student.class_names, where=f"student {model}", reference=where)
        network, temperature = student.network, student.temperature
    network = network.to(device).to(memory_format=torch.channels_last).eval()
    return NetworkPredictor(model, network, temperature)


def open_teachers(run: Path, data: str, device: torch.device) -> tuple[Predictor, Parts]:
    """A run's teachers and their fusion, for its own data or any others that they see; and its parts.

    Raises:
        DataError: no run folder, or teachers that are stored outputs of other images.
        ConfigError: a run without teachers.
    """
    if not (run / "config.yaml").is_file():
        raise DataError(
            f"--teachers needs the folder of a run, whose settings name its teachers: {run} is none",
            got="no config.yaml",
            fix="give a run folder as the first model.",
        )
    config = load_config(run / "config.yaml")
    parts = assemble(_for_judging(config), device)
    if parts.fusion is None:
        raise ConfigError(
            f"The run {run} has no teachers", got=f"method {config.method.name}", fix="leave --teachers out."
        )
    fusion = parts.fusion if len(parts.teachers) > 1 else None
    predictor = TeachersPredictor(parts.teachers, fusion, parts.stores["train"].size)
    if Path(config.data.path).resolve() == Path(data).resolve():
        # Rows of the largest logits alone are not what a teacher says.
        whole = config.cache.dir is not None and config.cache.top_k is None
        return (
            replace(predictor, cache=config.cache, class_names=parts.data.class_names) if whole else predictor
        ), parts
    elsewhere = predictor.for_any_image()
    if elsewhere is None:
        raise DataError(
            f"The teachers of {run} are outputs that were stored for {config.data.path}",
            got=f"images of {data}",
            fix="leave --teachers out, or evaluate on the run's own data.",
        )
    return elsewhere, parts


def _for_judging(config: Config) -> Config:
    """A run's settings without what only training repays: images in memory, compiled networks, all caches.

    Teachers of a run with a cache stay as they were when it was filled: compiling changes their last bits.
    """
    teachers = [config.teacher, *config.more_teachers]
    imported = any(teacher is not None and teacher.name.startswith(PREFIX) for teacher in teachers)
    data = config.data.model_copy(update={"unlabeled": None} | ({} if imported else {"in_memory_gb": 0.0}))
    compiled = config.train.compile_teacher and config.cache.dir is not None
    train = config.train.model_copy(update={"compile": "never", "compile_teacher": compiled})
    # Teachers that were imported into caches are nowhere else, and belong to images as training opened them.
    cache = config.cache if imported else config.cache.model_copy(update={"dir": None})
    return config.model_copy(update={"data": data, "train": train, "cache": cache})


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))
