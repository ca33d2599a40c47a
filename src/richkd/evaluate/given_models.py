"""The models that a user names for an evaluation, each with its name on the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from richkd.core.errors import ConfigError
from richkd.core.presence import exists


@dataclass(frozen=True)
class GivenModel:
    """One model of the command.

    Attributes:
        name: its name in the evaluation.
        model: folder of a student or run, checkpoint of a run, or artifact; with ``weights``, the name of a
            network.
        weights: checkpoint of the network; None for all others.
    """

    name: str
    model: str
    weights: Path | None = None


def given_models(models: Sequence[str], weights: str | Path | None = None) -> list[GivenModel]:
    """Read the models of a command. What exists on disk is never read as NAME=CHECKPOINT.

    A network is called NAME; several checkpoints of one network are called NAME=CHECKPOINT.

    Args:
        models: folders, artifacts, and networks as NAME=CHECKPOINT.
        weights: checkpoint of the only model, which is then the name of a network.

    Raises:
        ConfigError: no model, the same model twice, or ``weights`` for several models.

    Example:
        >>> [one.name for one in given_models(["runs/small", "resnet18=a.pth"])]
        ['runs/small', 'resnet18']
        >>> [one.name for one in given_models(["resnet18=a.pth", "resnet18=b.pth"])]
        ['resnet18=a.pth', 'resnet18=b.pth']
    """
    if not models:
        raise ConfigError(
            "At least one model must be evaluated", got="none", fix="richkd evaluate RUN --data DATA"
        )
    if weights is not None and len(models) > 1:
        raise ConfigError(
            "--weights can be given for one model only",
            got=", ".join(models),
            fix="write each network with its checkpoint as NAME=CHECKPOINT.",
        )
    if len(set(models)) < len(models):
        raise ConfigError(
            "Models must have different names", got=", ".join(models), fix="give each model once."
        )
    if weights is not None:
        return [GivenModel(models[0], models[0], Path(weights))]
    pairs = [_network_and_file(model) for model in models]
    counts = Counter(network for network, _ in pairs)
    return [
        GivenModel(network if counts[network] == 1 else model, network, file)
        for model, (network, file) in zip(models, pairs, strict=True)
    ]


def _network_and_file(model: str) -> tuple[str, Path | None]:
    name, equals, file = model.partition("=")
    return (name, Path(file)) if equals and not exists(model) else (model, None)
