"""How the stages of a network end: by batch normalization and ReLU, and the last one by pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from richkd.models.build import Network
from richkd.models.probe import pixels_for, unchanged

Norm = tuple[Tensor, Tensor]


class StageEnds(NamedTuple):
    """What is known of the maps of a network.

    Attributes:
        norms: for each map, scale and shift of the batch normalization whose output, behind a ReLU, is the
            map; None for a map that is made in another way, such as by the sum of a residual block.
        averaged: whether the pooled feature is the mean over all positions of the last map.
        signed: whether the pooled feature has negative values.
        linear: whether the logits are a linear layer of the pooled feature.
    """

    norms: tuple[Norm | None, ...]
    averaged: bool
    signed: bool
    linear: bool


def find_stage_ends(network: Network) -> StageEnds:
    """Look at one forward pass in evaluation mode; the network is not changed.

    Example:
        >>> import timm, richkd.models
        >>> model, rgb = timm.create_model("cifar_vgg8").eval(), (0.5, 0.5, 0.5)
        >>> ends = find_stage_ends(Network(model, "cifar_vgg8", size=16, mean=rgb, std=rgb))
        >>> [norm is not None for norm in ends.norms], ends.averaged, ends.signed, ends.linear
        ([True, True, True, True, True], True, False, True)
    """
    seen: list[tuple[nn.BatchNorm2d, Tensor]] = []

    def see(module: nn.BatchNorm2d, given: tuple[Tensor, ...], output: Tensor) -> None:
        # A ReLU may write into its input.
        seen.append((module, output.clone()))

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [module.register_forward_hook(see) for module in norms]
    try:
        with unchanged(network), torch.no_grad():
            output = network(pixels_for(network, network.size), maps=True)
    finally:
        for hook in hooks:
            hook.remove()
    feats_BF = output.feats_BF
    return StageEnds(
        tuple(_norm_of(map_BFHW, seen) for map_BFHW in output.maps),
        _is_mean(output.maps[-1], feats_BF),
        bool((feats_BF < 0).any()),
        network.ends_in_classifier and isinstance(classifier_of(network), nn.Linear),
    )


def classifier_of(network: Network) -> nn.Module:
    """The module that makes the logits from the pooled feature.

    Example:
        >>> import timm, richkd.models
        >>> model, rgb = timm.create_model("cifar_resnet8", num_classes=3), (0.5, 0.5, 0.5)
        >>> classifier_of(Network(model, "cifar_resnet8", size=8, mean=rgb, std=rgb))
        Linear(in_features=64, out_features=3, bias=True)
    """
    classifier: nn.Module = network.model.get_classifier()  # type: ignore[operator]
    return classifier


def _norm_of(map_BFHW: Tensor, seen: Sequence[tuple[nn.BatchNorm2d, Tensor]]) -> Norm | None:
    for module, output in seen:
        if output.shape == map_BFHW.shape and module.affine and torch.equal(output.relu(), map_BFHW):
            return module.weight.detach().cpu().clone(), module.bias.detach().cpu().clone()
    return None


def _is_mean(map_BFHW: Tensor, feats_BF: Tensor) -> bool:
    mean_BF = map_BFHW.mean(dim=(2, 3))
    return mean_BF.shape == feats_BF.shape and torch.allclose(mean_BF, feats_BF, rtol=1e-4, atol=1e-5)
