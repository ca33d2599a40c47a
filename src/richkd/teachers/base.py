"""The interface of all teachers: outputs for a batch of views, and optional abilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from richkd.core.types import UNLABELED, Batch, Output
from richkd.data.batches import CleanStore
from richkd.data.framing import Framing
from richkd.data.split import evenly_spaced
from richkd.data.views import Augmentation, Views
from richkd.teachers.cache.row_format import RowFormat

if TYPE_CHECKING:
    from richkd.models.build import Network
    from richkd.teachers.cache.store import OutputCache
    from richkd.teachers.clip.prompt_weights import PromptSet


@dataclass(frozen=True)
class ZeroShot:
    """The ability of a teacher to classify with text embeddings of class names, as CLIP does.

    Attributes:
        class_embeddings_CD: text embedding of each class, with unit norm.
        prompts: function that returns the embeddings of each prompt template, or None if they are unknown.
        reweighted: function that returns a new teacher with other class embeddings (C, D) and the same image
            features.

    Example:
        >>> from richkd.teachers.precomputed.clip import GivenClip
        >>> clip = GivenClip(torch.eye(2), torch.eye(2), {}, logit_scale=100.0, fingerprint="")
        >>> swapped = clip.zero_shot.reweighted(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        >>> swapped.zero_shot.class_embeddings_CD.tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """

    class_embeddings_CD: Tensor
    prompts: Callable[[], PromptSet | None]
    reweighted: Callable[[Tensor], Teacher]


@dataclass(frozen=True)
class Sample:
    """Outputs of a teacher for some images of a split.

    Attributes:
        index_N: positions of the images in the split.
        output: logits and features of these images, in the same order.
        what: what the outputs are computed from, for messages.

    Example:
        >>> output = Output(torch.eye(2), torch.zeros(2, 0))
        >>> sample = Sample(torch.tensor([3, 5]), output, "training images")
        >>> f"{len(sample.index_N)} {sample.what}"
        '2 training images'
    """

    index_N: Tensor
    output: Output
    what: str


class Teacher(ABC):
    """A source of outputs for the views of a batch: a network, a CLIP model, or stored outputs.

    A subclass must implement `outputs`. It declares optional abilities by overriding the other members;
    callers read these members and never test the type of a teacher.

    Attributes:
        name: name of the teacher, unique within a run.
        feature_width: width F of the features; 0 if there are no features.
        logit_scale: factor that turns ``logits_BC`` into the logits of the teacher's own probabilities: 1 for
            a classifier, about 100 for the cosines of CLIP.
        computed: number of images that were processed by the network of the teacher.
        sees_pixels: True if outputs are computed from pixels, so that any image can be processed. False for
            stored outputs, and for teachers that depend on the position of an image in its split.
        network: the network of the teacher, if there is exactly one; it provides intermediate maps.
        caches: the caches of its outputs, by split and augmentation; empty for a teacher without a cache.
        role: kind of the teacher, for messages and tables.
        framing: the part of a picture that its network sees in evaluation; None for stored outputs.
        only_splits: names of the splits whose outputs it is asked for; None for all.

    Example:
        >>> class Constant(Teacher):
        ...     name, feature_width = "constant", 0
        ...     def outputs(self, batch, views, *, maps=False):
        ...         return Output(torch.zeros(len(batch), 3), torch.zeros(len(batch), 0))
        >>> Constant().describe(), Constant().zero_shot is None
        ('constant, width 0', True)
    """

    name: str
    feature_width: int
    logit_scale: float = 1.0
    computed: int = 0
    sees_pixels: bool = False
    network: Network | None = None
    caches: Mapping[tuple[str, Augmentation], OutputCache] = MappingProxyType({})
    role: str = "teacher"
    framing: Framing | None = None
    only_splits: tuple[str, ...] | None = None

    @abstractmethod
    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        """Logits and features of the view of each image; with ``maps`` also the intermediate maps."""

    @property
    def uncached(self) -> Teacher:
        """The teacher that computes the outputs: the wrapped teacher of a cache, else this teacher."""
        return self

    @property
    def members(self) -> tuple[Teacher, ...]:
        """The teachers whose outputs are stored: those behind a blend, else this teacher."""
        return (self,)

    def with_members(self, change: Callable[[Teacher], Teacher]) -> Teacher:
        """The same teacher whose members were replaced, for example by members with a cache."""
        return change(self)

    @property
    def zero_shot(self) -> ZeroShot | None:
        """The zero-shot ability, or None for a teacher that does not use class names."""
        return None

    @property
    def row_format(self) -> RowFormat | None:
        """The format in which a cache stores an output; None if outputs must not be cached."""
        return None

    def restored(self, stored: Output) -> Output:
        """The output that corresponds to a stored row."""
        return stored

    def ingredients(self, *, trained: bool = True) -> dict[str, Any]:
        """Everything that outputs depend on besides image and view, under names that messages can show.

        Args:
            trained: for outputs of training images, which may be computed in another precision than others.
        """
        return {}

    def lacks(self, split: str, index_B: Tensor, views: Views) -> bool:
        """Whether any of these outputs could be stored, but is not.

        Args:
            split: name of the split.
            index_B: positions of the images.
            views: one view for each image.
        """
        return False

    def flush(self) -> None:  # noqa: B027
        """Write outputs that are not yet on disk."""

    def exchange(self) -> None:  # noqa: B027
        """Write them, and read those of the other processes of the run, all of which must call this."""

    def describe(self) -> str:
        """One line of text for ``richkd check``."""
        return f"{self.name}, width {self.feature_width}"

    def sample(self, store: CleanStore, device: torch.device, most: int) -> Sample:
        """Outputs for at most ``most`` labeled images of a split, evenly spaced over the split."""
        labeled_N = (store.split.labels_N != UNLABELED).nonzero()[:, 0]
        index_N = labeled_N[evenly_spaced(len(labeled_N), most)]
        (batch,) = store.batches([index_N])
        views = store.clean.draw(0, 0, index_N)
        return Sample(index_N, self.outputs(batch.to(device), views), "training images")
