"""The models that can be evaluated: saved students, networks with a checkpoint, and a run's teachers.

A predictor computes the outputs of one or several models. Models that share computation belong to one
predictor: the teachers of a run and their fusion do, so that each image passes through each network once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch

from richkd.config.schema import CacheConfig
from richkd.core.finite import refuse_non_finite_rows
from richkd.core.types import Batch, Output
from richkd.core.waiting import waiting
from richkd.data.batches import CleanStore, open_store
from richkd.data.framing import Framing
from richkd.data.order import in_order
from richkd.data.split import Split
from richkd.data.views import Views, render_batch
from richkd.fusion.fusion import Fusion
from richkd.models.build import Network
from richkd.pipeline.roles import FUSED
from richkd.teachers.base import Teacher
from richkd.teachers.cache.cached import with_cache
from richkd.teachers.predict import BATCH

# If images with labels had another fusion than those without, each is evaluated.
FUSED_WITHOUT, FUSED_LABELED = "fused, unlabeled images", "fused, labeled images"
# Images per forward pass on a CPU. The activations of a small batch fit in the processor's cache: ResNet-20
# takes 5 s for 10,000 images of 32 pixels in batches of 64, and 8 s in batches of 250.
CPU_BATCH = 64

BatchAndViews = tuple[Batch, Views]
# The same batch of images as a network with a framing sees them.
Images = Callable[[Framing], BatchAndViews]
# The images of a split as each network sees them.
FramedStores = Mapping[Framing, CleanStore]


def stored(temperature: float) -> float | None:
    """The temperature that is stored with a student; None for 1, which students without held-out images have.

    Example:
        >>> stored(1.5), stored(1.0)
        (1.5, None)
    """
    return None if temperature == 1.0 else temperature


class Predictor(Protocol):
    """Interface of one or several models that are evaluated together.

    Attributes:
        names: name of each model.
        temperatures: temperature that is stored with each model; None if none is stored.
        framings: the parts of a picture that its networks see; source images are needed for each of them.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def temperatures(self) -> tuple[float | None, ...]: ...

    @property
    def framings(self) -> tuple[Framing, ...]: ...

    def predict(self, images: Images) -> Sequence[Output]:
        """Outputs of each model for a batch of images, in the order of ``names``.

        The logits are at the scale of the model's probabilities: softmax(logits) without a further factor.
        """
        ...

    def with_cache_of(self, stores: FramedStores) -> Predictor:
        """A predictor that reads outputs for clean images from a cache, if it has one."""
        ...

    def flush(self) -> None:
        """Write new cached outputs to disk."""
        ...

    def for_any_image(self) -> Predictor | None:
        """A predictor of the models that compute from pixels; None if there is no such model.

        Stored outputs exist for the images of the run only, so they cannot be evaluated on corrupted or
        shifted images.
        """
        ...


@dataclass(frozen=True)
class NetworkPredictor:
    """A single network, evaluated in float32.

    Attributes:
        name: name of the model in the evaluation.
        network: the network, in evaluation mode.
        temperature: temperature that is stored with it; None if none is stored.
        note: which checkpoint of a run it is, if it is one.

    Example:
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8"), 10, role="student", default_size=8)
        >>> predictor = NetworkPredictor("small", network, 1.5)
        >>> predictor.names, predictor.temperatures, predictor.framings[0].size
        (('small',), (1.5,), 8)
    """

    name: str
    network: Network
    temperature: float | None
    note: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def temperatures(self) -> tuple[float | None, ...]:
        return (self.temperature,)

    @property
    def framings(self) -> tuple[Framing, ...]:
        return (self.network.framing,)

    def predict(self, images: Images) -> Sequence[Output]:
        """Logits and features of the network."""
        network = self.network
        pixels = render_batch(*images(network.framing), network.size, network.mean, network.std)
        batch_size = CPU_BATCH if pixels.device.type == "cpu" else len(pixels)
        return [Output.cat([network(part) for part in torch.split(pixels, batch_size)])]

    def with_cache_of(self, stores: FramedStores) -> Predictor:
        """The same predictor, because a network that is evaluated is not cached."""
        return self

    def flush(self) -> None:
        """Does nothing, because a network has no cache."""

    def for_any_image(self) -> Predictor:
        """The same predictor, because a network computes from pixels."""
        return self


@dataclass(frozen=True)
class TeachersPredictor:
    """The teachers of a run, each at its own logit scale, and their fusion as the last model.

    Attributes:
        teachers: the teachers.
        fusion: the fusion of all teachers; None if it is not evaluated.
        labeled: the fusion of images with labels, if it is another one.
        framing: for teachers whose outputs are stored, any source images.
        cache: settings of the teacher cache, which is read and filled; None for no cache.
        class_names: class names of the data, which are part of the key of cached outputs.
    """

    teachers: tuple[Teacher, ...]
    fusion: Fusion | None
    framing: Framing
    cache: CacheConfig | None = None
    class_names: tuple[str, ...] = ()
    labeled: Fusion | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (*(teacher.name for teacher in self.teachers), *self._fusions)

    @property
    def _fusions(self) -> dict[str, Fusion]:
        if self.fusion is None:
            return {}
        if self.labeled is None:
            return {FUSED: self.fusion}
        return {FUSED_WITHOUT: self.fusion, FUSED_LABELED: self.labeled}

    @property
    def temperatures(self) -> tuple[float | None, ...]:
        # A temperature that is fitted on the images of the fit would make the fusion too confident.
        fused = (1.0 if fusion.is_calibrated else None for fusion in self._fusions.values())
        return (*[None] * len(self.teachers), *fused)

    @property
    def framings(self) -> tuple[Framing, ...]:
        return tuple(teacher.framing or self.framing for teacher in self.teachers)

    def predict(self, images: Images) -> Sequence[Output]:
        """Outputs of each teacher, then fused logits without features."""
        pairs = zip(self.teachers, self.framings, strict=True)
        raw = [teacher.outputs(*images(framing)) for teacher, framing in pairs]
        scaled = [
            Output(output.logits_BC * teacher.logit_scale, output.feats_BF)
            for teacher, output in zip(self.teachers, raw, strict=True)
        ]
        logits = [output.logits_BC for output in raw]
        fused = [fusion.logits(logits).float() for fusion in self._fusions.values()]
        # Features of different teachers have no common space, so a fusion has none.
        return [*scaled, *(Output(fused_BC, fused_BC[:, :0]) for fused_BC in fused)]

    def with_cache_of(self, stores: FramedStores) -> TeachersPredictor:
        """A predictor that reads outputs for clean images from the cache and adds missing ones."""
        if self.cache is None:
            return self
        cached = [
            teacher.with_members(partial(self._with_cache, store=stores[framing]))
            for teacher, framing in zip(self.teachers, self.framings, strict=True)
        ]
        return replace(self, teachers=tuple(cached))

    def _with_cache(self, teacher: Teacher, store: CleanStore) -> Teacher:
        name = store.split.name
        if self.cache is None or name not in (teacher.only_splits or [name]):
            return teacher
        return with_cache(
            teacher,
            self.cache,
            {name: store},
            {name: store.clean},
            self.class_names,
            seed=0,
            features=True,
            log=lambda message: None,
        )

    def flush(self) -> None:
        """Write new cached outputs to disk."""
        for teacher in self.teachers:
            teacher.flush()

    def for_any_image(self) -> Predictor | None:
        """The teachers that compute from pixels, and the fusion if all of them do."""
        networks = tuple(teacher.uncached for teacher in self.teachers if teacher.sees_pixels)
        if not networks:
            return None
        fusion = self.fusion if len(networks) == len(self.teachers) else None
        return TeachersPredictor(networks, fusion, self.framing, labeled=self.labeled)


def stores_by_framing(
    predictors: Sequence[Predictor], split: Split, *, in_memory_gb: float = 4.0
) -> FramedStores:
    """The images of a split as each network sees them."""
    framings = dict.fromkeys(framing for predictor in predictors for framing in predictor.framings)
    return {framing: open_store(split, framing, in_memory_gb=in_memory_gb) for framing in framings}


def predict_all(
    predictors: Sequence[Predictor], stores: FramedStores, device: torch.device
) -> dict[str, Output]:
    """Outputs of each model for the clean view of every image of a split.

    Args:
        predictors: the models.
        stores: the same images for each framing of the models.
        device: device on which the networks are.

    Returns:
        Outputs on the CPU by the name of the model, in the order of the images.

    Raises:
        NonFiniteError: a logit is NaN or infinite; names the model and the images.
    """
    predictors = [predictor.with_cache_of(stores) for predictor in predictors]
    needed = dict.fromkeys(framing for predictor in predictors for framing in predictor.framings)
    split = next(iter(stores.values())).split
    groups = in_order(len(split), BATCH)
    parts: dict[str, list[Output]] = {name: [] for predictor in predictors for name in predictor.names}
    every = zip(*(stores[framing].batches(groups) for framing in needed), strict=True)
    what = f"evaluating {len(parts)} models on {split.name}"
    with torch.inference_mode():
        for batches in waiting(what, every, len(split), count=lambda one: len(one[0])):
            by_framing = {framing: batch.to(device) for framing, batch in zip(needed, batches, strict=True)}

            def images(framing: Framing, by_framing: Mapping[Framing, Batch] = by_framing) -> BatchAndViews:
                batch = by_framing[framing]
                return batch, stores[framing].clean.draw(0, 0, batch.index_B)

            for predictor in predictors:
                for name, output in zip(predictor.names, predictor.predict(images), strict=True):
                    parts[name].append(output.cpu())
    outputs = {name: Output.cat(batches) for name, batches in parts.items()}
    for name, output in outputs.items():
        fix = "check the model: its weights are finite, but its outputs are not."
        refuse_non_finite_rows(output.logits_BC, name, split.key, fix)
    for predictor in predictors:
        predictor.flush()
    return outputs
