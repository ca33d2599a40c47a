"""What is exported: the network alone, or with preprocessing, temperature and softmax around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from richkd.export.framing_graph import FramingGraph
from richkd.export.student import Student

# Names of the inputs and outputs of a graph.
IMAGES, PIXELS, PROBABILITIES, LOGITS = "images", "pixels", "probabilities", "logits"
# An example of each dimension that can vary; PyTorch would take 0 and 1 for constants.
EXAMPLE = (2, 37, 53)


class Raw(nn.Module):
    """The network alone: normalized pixels (B, 3, size, size) become logits (B, C)."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.network = student.network

    def forward(self, pixels: Tensor) -> Tensor:
        logits_BC: Tensor = self.network(pixels).logits_BC
        return logits_BC


class Preprocessing(nn.Module):
    """What is before the network: uint8 pictures (B, H, W, 3) become normalized pixels (B, 3, size, size)."""

    mean: Tensor
    std: Tensor

    def __init__(self, student: Student) -> None:
        super().__init__()
        network = student.network
        self.framing = FramingGraph(network.framing)
        self.register_buffer("mean", torch.tensor(network.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(network.std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        pixels_B3HW: Tensor = (self.framing(images) / 255 - self.mean) / self.std
        return pixels_B3HW


class Deployed(nn.Module):
    """The network with everything around it: uint8 pictures (B, H, W, 3) become probabilities and logits.

    Example:
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8", size=8), 2, role="student").eval()
        >>> images_BHWC = torch.zeros(1, 20, 30, 3, dtype=torch.uint8)
        >>> probabilities_BC, logits_BC = Deployed(Student(network, ("ant", "bee"), 1.5))(images_BHWC)
        >>> bool(torch.allclose(probabilities_BC, (logits_BC / 1.5).softmax(1)))
        True
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.before, self.network, self.temperature = (
            Preprocessing(student),
            student.network,
            student.temperature,
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits_BC: Tensor = self.network(self.before(images)).logits_BC
        return (logits_BC / self.temperature).softmax(dim=1), logits_BC


@dataclass(frozen=True)
class Graph:
    """A module that a format writes, with an example of its input.

    Attributes:
        module: the module, in evaluation mode on the CPU.
        example: an input.
        input_name: name of the input.
        output_names: names of the outputs, in order.
        dynamic: the axes of the input whose length can vary, with their names.
        most: largest length of these axes by name, for runtimes that reserve memory; None without limits.
    """

    module: nn.Module
    example: Tensor
    input_name: str
    output_names: tuple[str, ...]
    dynamic: dict[int, str]
    most: Mapping[str, int] | None = None

    def program(self) -> torch.export.ExportedProgram:
        """The module as PyTorch's graph of operations, without the source lines that made them."""
        shapes = {axis: self._dim(name) for axis, name in self.dynamic.items()}
        with torch.no_grad():
            program = torch.export.export(
                self.module, (self.example,), dynamic_shapes=(shapes,), strict=False
            )
        for module in program.graph_module.modules():
            for node in getattr(module, "graph", torch.fx.Graph()).nodes:
                # They have paths of this machine.
                node.meta.pop("stack_trace", None)
        return program

    def without_branches(self) -> Graph:
        """The graph for a runtime whose branches cannot be trusted; see `FramingGraph`."""
        for module in self.module.modules():
            if isinstance(module, FramingGraph):
                module.branches = False
        return self

    def _dim(self, name: str) -> Any:
        return torch.export.Dim.DYNAMIC if self.most is None else torch.export.Dim(name, max=self.most[name])


def graph_of(student: Student, *, raw: bool) -> Graph:
    """The graph of a student, with preprocessing, temperature and softmax unless it is ``raw``.

    Example:
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8", size=8), 2, role="student").eval()
        >>> graph = graph_of(Student(network, ("ant", "bee"), 1.5), raw=False)
        >>> graph.input_name, graph.output_names, tuple(graph.example.shape)
        ('images', ('probabilities', 'logits'), (2, 37, 53, 3))
    """
    if raw:
        size = student.network.size
        pixels = torch.zeros(EXAMPLE[0], 3, size, size)
        return Graph(Raw(student).eval(), pixels, PIXELS, (LOGITS,), {0: "batch"})
    return _of_pictures(Deployed(student), (PROBABILITIES, LOGITS))


def preprocessing_graph(student: Student) -> Graph:
    """What is before the network of a student, whose graph is written by other means.

    Example:
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8", size=8), 2, role="student").eval()
        >>> preprocessing_graph(Student(network, ("ant", "bee"), 1.5)).output_names
        ('pixels',)
    """
    return _of_pictures(Preprocessing(student), (PIXELS,))


def _of_pictures(module: nn.Module, outputs: tuple[str, ...]) -> Graph:
    images = torch.zeros(*EXAMPLE, 3, dtype=torch.uint8)
    return Graph(module.eval(), images, IMAGES, outputs, {0: "batch", 1: "height", 2: "width"})
