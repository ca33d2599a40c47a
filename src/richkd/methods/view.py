"""What the terms of an objective see of a step: the share of this process, or the images of all processes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from richkd.core.gather import gathered_batch, gathered_output, gathered_target
from richkd.core.types import Batch, Output, Targets
from richkd.data.mixup import Mix
from richkd.data.shares import Share
from richkd.methods.term import Context


@dataclass(frozen=True)
class View:
    """Arguments of terms: what student and teachers computed for some images, and how these were mixed.

    Example:
        >>> import torch
        >>> output = Output(torch.eye(2), torch.eye(2))
        >>> batch = Batch("train", torch.arange(2), torch.zeros(2, 4, 4, 3), torch.tensor([1, 0]))
        >>> View(output, {}, batch, Context()).mix is None
        True
    """

    student: Output
    targets: Targets
    batch: Batch
    context: Context
    mix: Mix | None = None

    def gathered(self, share: Share, targets: Collection[str], maps: bool) -> View:
        """The same for the images of all processes.

        Args:
            share: the share of this process.
            targets: names of the targets that are read.
            maps: whether intermediate maps are read, which are large.
        """
        sizes = share.sizes
        return View(
            gathered_output(self.student, sizes, maps=maps),
            {
                name: gathered_target(target, sizes, maps=maps)
                for name, target in self.targets.items()
                if name in targets
            },
            gathered_batch(self.batch, share.index_P, sizes),
            replace(self.context, first=share.start),
            None if self.mix is None else self.mix.of(len(share.index_P)),
        )
