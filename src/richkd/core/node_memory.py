"""Memory that all processes of a machine share, so that images in it exist once and not once per process."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from richkd.core.processes import gather_in_place, gather_objects, meet, on_first_of_node, world


@dataclass(frozen=True)
class NodeMemory:
    """Bytes that the processes of a run fill together, each one a part, and that all can read then.

    On Linux, the processes of a machine share the memory: it is anonymous, so it needs neither space on a
    disk nor a name, and the system frees it with the last process. Elsewhere, each process has its own.

    Attributes:
        bytes_N: the bytes, uint8 on the CPU.
        shared: whether all processes of each machine share them.

    Example:
        >>> memory = NodeMemory.of(3)
        >>> memory.bytes_N.fill_(7).tolist(), memory.shared
        ([7, 7, 7], False)
    """

    bytes_N: Tensor
    shared: bool = False

    @classmethod
    def of(cls, count: int) -> NodeMemory:
        """Reserve ``count`` bytes. All processes of the run must call this."""
        if world() == 1 or not count:
            return cls(torch.empty(count, dtype=torch.uint8))
        descriptor = None

        def create() -> str:
            nonlocal descriptor
            with suppress(AttributeError, OSError):
                descriptor = os.memfd_create("richkd")
                os.truncate(descriptor, count)
                return f"/proc/{os.getpid()}/fd/{descriptor}"
            return ""

        mapped = _mapped(on_first_of_node(create), count)
        shared = all(gather_objects(mapped is not None))
        if descriptor is not None:
            # The memory stays as long as it is mapped.
            os.close(descriptor)
        if not shared or mapped is None:
            return cls(torch.empty(count, dtype=torch.uint8))
        return cls(torch.frombuffer(mapped, dtype=torch.uint8), shared=True)

    def exchange(self, sizes: Sequence[int]) -> None:
        """Give all processes the bytes of each: process r has filled ``sizes[r]`` bytes, in order."""
        if self.shared and os.environ.get("LOCAL_WORLD_SIZE") == str(world()):
            meet()
        else:
            # Processes of a machine receive what another one has just written there: the same bytes.
            gather_in_place(self.bytes_N, sizes)


def _mapped(path: str, count: int) -> mmap.mmap | None:
    """The memory behind a path; None if there is none, or it cannot be opened here."""
    if not path:
        return None
    with suppress(OSError), Path(path).open("r+b") as file:
        return mmap.mmap(file.fileno(), count)
    return None
