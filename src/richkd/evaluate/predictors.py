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

from richkd.config.loading import load_config
from richkd.config.model_name import parse_model_name
from richkd.config.schema import CacheConfig, Config, FusionConfig, ModelConfig
from richkd.core.errors import ConfigError, DataError
from richkd.core.types import Batch, Output
from richkd.data.augmentations import Clean
from richkd.data.batches import Store, in_order
from richkd.data.classes import check_same_classes
from richkd.data.split import Data
from richkd.data.views import Views, render
from richkd.export.student import load_student
from richkd.fusion.fusion import Fusion
from richkd.methods.objective import method_label
from richkd.models.build import Network, build_network
from richkd.pipeline.assemble import Parts, assemble
from richkd.teachers.base import Teacher
from richkd.teachers.cache.cached import with_cache
from richkd.teachers.predict import BATCH

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
        return [Output.cat([network(part) for part in torch.split(pixels, at_once)])]

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
            teacher.flush()

    def for_any_image(self) -> Predictor | None:
        seeing = tuple(teacher.uncached for teacher in self.teachers if teacher.sees_pixels)
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
            batch = batch.to(device)
            views = clean.draw(0, 0, batch.index_B)
            for predictor in predictors:
                for name, output in zip(predictor.names, predictor.answer(batch, views), strict=True):
                    parts[name].append(output.cpu())
    for predictor in predictors:
        if isinstance(predictor, TeachersPredictor):
            predictor.flush()
    return {name: Output.cat(outputs) for name, outputs in parts.items()}


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
            f"The run {run} has no teachers",
            got=f"method {method_label(config)}",
            fix="leave --teachers out.",
        )
    source = parts.main_source
    # Terms may read different targets; a fusion is shown if it is of all teachers.
    fusion = source.fusion if source and len(source.teachers) == len(parts.teachers) > 1 else None
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
    """A run's settings without those that only training needs: images in memory, compiled networks, caches.

    Teachers of a run with a cache stay as they were when it was filled, because compiling changes their last
    bits.
    """
    compiled = config.train.compile_teacher and config.cache.dir is not None
    train = config.train.model_copy(update={"compile": "never", "compile_teacher": compiled})
    if any(parse_model_name(teacher.name).kind == "cache" for teacher in config.teachers):
        # Imported outputs exist in the cache only, and belong to the images as training opened them.
        return config.model_copy(update={"train": train})
    data = config.data.model_copy(update={"unlabeled": None, "unlabeled_fraction": None, "in_memory_gb": 0.0})
    # Without unlabeled images and a cache, settings that belong to them would be refused as unused.
    fusion = config.fusion.model_copy(update={"ood_quantile": FusionConfig().ood_quantile})
    return config.model_copy(update={"data": data, "train": train, "fusion": fusion, "cache": CacheConfig()})
