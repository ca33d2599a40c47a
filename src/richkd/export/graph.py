"""What is exported: the network alone, or with preprocessing, temperature and softmax around it."""

from __future__ import annotations

from dataclasses import dataclass

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

    mean: Tensor
    std: Tensor

    def __init__(self, student: Student) -> None:
        super().__init__()
        network = student.network
        self.network, self.temperature = network, student.temperature
        self.framing = FramingGraph(network.framing)
        self.register_buffer("mean", torch.tensor(network.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(network.std)[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels_B3HW = (self.framing(images) / 255 - self.mean) / self.std
        logits_BC: Tensor = self.network(pixels_B3HW).logits_BC
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
    """

    module: nn.Module
    example: Tensor
    input_name: str
    output_names: tuple[str, ...]
    dynamic: dict[int, str]

    def program(self) -> torch.export.ExportedProgram:
        """The module as PyTorch's graph of operations, without the source lines that made them."""
        shapes = dict.fromkeys(self.dynamic, torch.export.Dim.DYNAMIC)
        with torch.no_grad():
            program = torch.export.export(
                self.module, (self.example,), dynamic_shapes=({**shapes},), strict=False
            )
        for module in program.graph_module.modules():
            for node in getattr(module, "graph", torch.fx.Graph()).nodes:
                # They have paths of this machine.
                node.meta.pop("stack_trace", None)
        return program


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
    images = torch.zeros(*EXAMPLE, 3, dtype=torch.uint8)
    axes = {0: "batch", 1: "height", 2: "width"}
    return Graph(Deployed(student).eval(), images, IMAGES, (PROBABILITIES, LOGITS), axes)
