"""Find the classifier of a network that can be applied to the mean of its last map."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from richkd.models.build import Network
from richkd.models.probe import pixels_for, unchanged

# Largest relative difference that rounding explains between two ways to compute the same logits in float32.
TOLERANCE = 1e-3


def map_classifier(network: Network) -> nn.Module | None:
    """The layer that computes a network's logits from the mean over positions of its last map, or None.

    It is found by a forward pass in evaluation mode, which leaves the network unchanged. A network that
    changes its last map before the pooling, such as a wide ResNet, has no such layer.

    Example:
        >>> import timm
        >>> def network(name):
        ...     rgb = (0.5, 0.5, 0.5)
        ...     return Network(timm.create_model(name, num_classes=3), name, size=8, mean=rgb, std=rgb)
        >>> map_classifier(network("cifar_resnet8"))
        Linear(in_features=64, out_features=3, bias=True)
        >>> map_classifier(network("cifar_wrn_16_2")) is None
        True
    """
    classifier = cast(Any, network.model).get_classifier()
    if not isinstance(classifier, nn.Module):
        return None
    try:
        with unchanged(network), torch.no_grad():
            output = network(pixels_for(network, network.size), maps=True)
            logits_BC = classifier(output.maps[-1].mean(dim=(2, 3)))
    except Exception:  # the code of a model can raise any exception class
        return None
    same = isinstance(logits_BC, Tensor) and logits_BC.shape == output.logits_BC.shape
    if not same:
        return None
    scale = float(output.logits_BC.abs().max())
    return classifier if torch.allclose(logits_BC, output.logits_BC, TOLERANCE, TOLERANCE * scale) else None
