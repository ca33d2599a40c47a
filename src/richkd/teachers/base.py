"""The contract of a teacher: outputs for a batch of views, and what else it can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from richkd.core.types import UNLABELED, Batch, Output
from richkd.data.augmentations import Clean
from richkd.data.batches import Store
from richkd.data.split import evenly_spaced
from richkd.data.views import Views
from richkd.teachers.cache.row_format import RowFormat

if TYPE_CHECKING:
    from richkd.models.build import Network
    from richkd.teachers.clip.prompt_weights import PromptSet


@dataclass(frozen=True)
class ZeroShot:
    """A teacher that classifies by the text of class names.

    Attributes:
        class_embeddings_CD: the text embedding of each class, unit norm.
        prompts: computes each prompt's own embeddings, or returns None where these are not known.
        reweighted: a new teacher with other class embeddings (C, D) and the same image features.
    """

    class_embeddings_CD: Tensor
    prompts: Callable[[], PromptSet | None]
    reweighted: Callable[[Tensor], Teacher]


@dataclass(frozen=True)
class Sample:
    """Outputs for some training images: positions (n), outputs, and what they are called in messages."""

    index_N: Tensor
    output: Output
    what: str


class Teacher(ABC):
    """Anything that computes outputs for the views of a batch: a network, a CLIP, or stored outputs.

    Subclasses state their abilities by overriding the members below; nothing asks for their types.

    Attributes:
        name: unique among the teachers of a run.
        feature_width: width F of its features; 0 if it has none.
        logit_scale: factor that turns ``logits_BC`` into the logits of its own probabilities: 1 for a
            classifier, about 100 for the cosines of a CLIP.
        computed: number of images that went through its network.
        sees_pixels: outputs are computed from pixels, so any image can be asked about. False for stored
            outputs and for teachers that depend on an image's position in its split.
        network: the network behind it, if there is exactly one; its intermediate maps are then available.
        role: what it is called in messages and tables.
    """

    name: str
    feature_width: int
    logit_scale: float = 1.0
    computed: int = 0
    sees_pixels: bool = False
    network: Network | None = None
    role: str = "teacher"

    @abstractmethod
    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        """Logits and features of each image's view; with ``maps`` also the network's intermediate maps."""

    @property
    def uncached(self) -> Teacher:
        """The teacher that computes: itself, unless it reads from a cache."""
        return self

    @property
    def zero_shot(self) -> ZeroShot | None:
        """What a teacher that reads class names offers; None for all others."""
        return None

    @property
    def row_format(self) -> RowFormat | None:
        """What a cache has to store per output; None if outputs must not be cached."""
        return None

    def restored(self, stored: Output) -> Output:
        """The output that a stored row stands for."""
        return stored

    def ingredients(self) -> dict[str, Any]:
        """Everything that outputs depend on besides image and view, by the name that a person knows it by."""
        return {}

    def flush(self) -> None:  # noqa: B027
        """Write what is not yet on disk."""

    def describe(self) -> str:
        """One line for the plan of ``richkd check``."""
        return f"{self.name}, width {self.feature_width}"

    def sample(self, store: Store, device: torch.device, most: int) -> Sample:
        """Outputs for at most ``most`` labeled images of a split, evenly spread."""
        labeled_N = (store.split.labels_N != UNLABELED).nonzero()[:, 0]
        index_N = labeled_N[evenly_spaced(len(labeled_N), most)]
        (batch,) = store.batches([index_N])
        views = Clean(store.size).draw(0, 0, index_N)
        return Sample(index_N, self.outputs(batch.to(device), views), "training images")
