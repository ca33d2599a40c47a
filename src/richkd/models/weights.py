"""Load a checkpoint file into a model: exactly, or as a start with a new classifier.

Files come from many training scripts. Outer dictionaries, prefixes of wrappers, and entries that hold no
weight are removed; layer names and position embeddings are adapted as timm does it for the model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from timm.models import clean_state_dict
from torch import Tensor, nn

from richkd.core.errors import ModelError
from richkd.core.presence import is_file
from richkd.core.regular_files import kind_of
from richkd.core.tensor_files import read_tensors
from richkd.models.input_conv import to_rgb_input
from richkd.models.pickled import first_words, read_pickled

# Keys under which training scripts store the state dict in a checkpoint. Averaged weights come first, because
# they are the ones that the script evaluates; timm prefers them, too.
AVERAGED = ("state_dict_ema", "model_ema")
WRAPPERS = (*AVERAGED, "state_dict", "model", "model_state_dict", "net", "network")
# Last parts of keys that count something and hold no weight.
COUNTERS = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
# Functions of timm's modules that rename the layers of published files; some also take the model.
FILTERS = {"checkpoint_filter_fn": True, "_filter_fn": False, "_filter_torchvision_pretrained": False}
NAMED = 3
# Number of dictionaries that may be around a state dict.
DEPTH = 10


@dataclass(frozen=True)
class Loaded:
    """What was loaded from a checkpoint.

    Attributes:
        kept: number of tensors that were loaded.
        new: names of tensors that keep their random initialization.
        ignored: names of tensors of the file that the model does not have.
        averaged: the file holds averaged (EMA) weights besides others, and the averaged ones were loaded.
        adapted: names of first convolutions of another number of channels, which were fitted to RGB.
    """

    kept: int
    new: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    averaged: bool = False
    adapted: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for the log.

        Example:
            >>> print(Loaded(60, new=("fc.bias", "fc.weight")))
            60 tensors loaded, 2 new (fc.bias, fc.weight)
        """
        parts = [f"{self.kept} tensors loaded" + (" (averaged weights, EMA)" if self.averaged else "")]
        parts += [f"{len(self.adapted)} adapted to RGB ({_some(self.adapted)})"] if self.adapted else []
        parts += [f"{len(self.new)} new ({_some(self.new)})"] if self.new else []
        parts += [f"{len(self.ignored)} ignored ({_some(self.ignored)})"] if self.ignored else []
        return ", ".join(parts)


def load_weights(model: nn.Module, path: str | Path, *, role: str, new_classifier: bool = False) -> Loaded:
    """Load a checkpoint into a model; its weights are replaced.

    Reads ``.safetensors`` files, and PyTorch files with ``weights_only=True`` (code in the file is not
    executed). Outer dictionaries such as ``{"model": …}`` and prefixes such as ``module.`` are removed.

    Args:
        model: the module.
        path: the checkpoint.
        role: ``"student"`` or ``"teacher"``, for messages.
        new_classifier: whether the model may keep its own classifier if that of the file has another size or
            is missing, and the first convolution may have other input channels, as a start for training.
            Otherwise every tensor must be in the file.

    Returns:
        What was loaded, for the log.

    Raises:
        ModelError: the file does not exist, it is not a checkpoint, it was saved by this package and its
            tensors changed, or it is of another architecture, number of classes or number of input channels.

    Example:
        >>> import tempfile, torch
        >>> trained, model = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": trained.state_dict()}, f"{folder}/model.pth")
        ...     print(load_weights(model, f"{folder}/model.pth", role="teacher"))
        2 tensors loaded
        >>> torch.equal(model.weight, trained.weight)
        True
    """
    content, averaged = _unwrap(_read(Path(path), role))
    whole = model.state_dict()
    expected = {key: tensor for key, tensor in whole.items() if not _is_counter(key)}
    state = adapted(without_prefix(content, expected), model)
    state, rgb = to_rgb_input(state, model)
    classifier = classifier_keys(model)
    missing = sorted(expected.keys() - state.keys())
    shapes = sorted(key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape)
    ignored = sorted(key for key in state.keys() - expected.keys() if not _is_counter(key))
    children = {key.partition(".")[0] for key in expected}
    # A tensor inside a part of the model belongs to another architecture; others are of the training script.
    foreign = [key for key in ignored if key.partition(".")[0] in children]
    new = sorted(key for key in (*missing, *shapes) if key in classifier)
    if foreign or len(new) < len(missing) + len(shapes):
        raise _of_another_architecture(model, path, role, missing, shapes, foreign)
    if new and not new_classifier:
        raise _of_other_classes(path, role, new[0], state, expected)
    if rgb and not new_classifier:
        raise _of_other_channels(path, role, rgb[0])
    kept = {key: t for key, t in state.items() if key in whole and key not in new}
    model.load_state_dict(kept, strict=False)
    return Loaded(len(kept), tuple(new), tuple(ignored), averaged, rgb)


def without_prefix(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of the model in a checkpoint of a module around it, without that module's prefix.

    The prefix is the one with which most keys are those of the model.

    Raises:
        ModelError: several prefixes fit equally well, as in a file with a student and a teacher.

    Example:
        >>> import torch
        >>> state = {"net.fc.weight": torch.zeros(1), "criterion.weight": torch.zeros(1)}
        >>> list(without_prefix(state, ["fc.weight"]))
        ['fc.weight', 'criterion.weight']
    """
    known = set(expected)
    prefixes = {""}
    for key in state:
        parts = key.split(".")
        prefixes |= {".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), 4))}

    def matches(prefix: str) -> int:
        return sum(key.startswith(prefix) and key.removeprefix(prefix) in known for key in state)

    counts = {prefix: matches(prefix) for prefix in sorted(prefixes)}
    most = max(counts.values())
    if most == 0:
        return dict(state)
    best, *others = [prefix for prefix, count in counts.items() if count == most]
    if others:
        raise ModelError(
            "A checkpoint must hold one network of this architecture",
            got=f"networks under {', '.join(repr(prefix) for prefix in (best, *others))}",
            fix="save the state_dict() of the one to load to a file of its own.",
        )
    inside = {key.removeprefix(best): tensor for key, tensor in state.items() if key.startswith(best)}
    return inside | {
        key: tensor for key, tensor in state.items() if key not in inside and not key.startswith(best)
    }


def adapted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state dict with the layer names and sizes of the model, as timm's filter for its family makes it.

    timm renames layers of published files, and resamples position embeddings to the model's resolution. A
    state dict that fits is returned unchanged, except that a classifier with a published name is found.

    Example:
        >>> import timm, torch
        >>> published = {"linear.bias": torch.zeros(10)}
        >>> list(adapted(published, timm.create_model("cifar_resnet8")))
        ['fc.bias']
    """
    expected, classifier = model.state_dict(), classifier_keys(model)
    others = [key for key in expected.keys() - classifier if not _is_counter(key)]

    def fits(tensors: Mapping[str, Tensor]) -> bool:
        return all(key in tensors and tensors[key].shape == expected[key].shape for key in others)

    if fits(state) and classifier <= state.keys():
        return state
    filtered = _filtered(state, model)
    # A filter that expects published names can rename layers that have the names of the model already.
    return state if fits(state) and not (fits(filtered) and classifier <= filtered.keys()) else filtered


def _filtered(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state dict after the filter of the model's family; unchanged if there is none, or if it fails."""
    for kind in type(model).__mro__:
        module = sys.modules.get(kind.__module__)
        for name, takes_model in FILTERS.items():
            convert = getattr(module, name, None)
            if convert is not None:
                try:
                    filtered = convert(dict(state), model) if takes_model else convert(dict(state))
                except Exception:  # filters expect files of their family, and fail for others in many ways
                    return state
                return cast(dict[str, Tensor], filtered)
    return state


def classifier_keys(model: nn.Module) -> set[str]:
    """Names of the tensors of the classifier: of timm's ``get_classifier``, or of a single linear layer.

    Example:
        >>> import timm
        >>> sorted(classifier_keys(timm.create_model("cifar_resnet8")))
        ['fc.bias', 'fc.weight']
    """
    if hasattr(model, "get_classifier"):
        heads = cast(Any, model).get_classifier()
        modules = list(heads) if isinstance(heads, tuple | list) else [heads]
    else:
        modules = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    return {
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        if any(module is head for head in modules)
        for key in module.state_dict()
    }


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] in COUNTERS


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def _of_another_architecture(
    model: nn.Module,
    path: str | Path,
    role: str,
    missing: list[str],
    shapes: list[str],
    foreign: list[str],
) -> ModelError:
    parts = [
        f"{len(missing)} missing ({_some(missing)})" if missing else "",
        f"{len(foreign)} unknown ({_some(foreign)})" if foreign else "",
        f"{len(shapes)} of another shape ({_some(shapes)})" if shapes else "",
    ]
    return ModelError(
        f"The {role}'s weights {path} are of another architecture than {type(model).__name__}",
        got="; ".join(part for part in parts if part),
        fix=f"set --{role} to the architecture that the file was saved from, such as torchvision.models:NAME "
        "for a network of torchvision.",
    )


def _of_other_classes(
    path: str | Path, role: str, key: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> ModelError:
    got = f"{state[key].shape[0]} outputs in '{key}'" if key in state else f"no '{key}'"
    return ModelError(
        f"The {role}'s weights {path} must have one output for each class of the data",
        got=f"{got} for {expected[key].shape[0]} classes",
        fix="use a model that was trained on these classes, or train one from this file: `richkd teach "
        "--model NAME --weights FILE`.",
    )


def _of_other_channels(path: str | Path, role: str, key: str) -> ModelError:
    return ModelError(
        f"The {role}'s weights {path} must be of a network for RGB images",
        got=f"another number of input channels in '{key}'",
        fix="use a model for RGB images, or train one from this file: `richkd teach --model NAME --weights "
        "FILE`.",
    )


def _read(path: Path, role: str) -> Any:
    if not is_file(path):
        got = kind_of(path) or "no such file"
        raise ModelError(f"The weights {path} must be a file", got=got, fix="check the path.")
    if path.suffix != ".safetensors":
        return read_pickled(path, role)
    try:
        return read_tensors(path)[0]
    except ModelError:
        raise
    except Exception as error:  # damaged files raise errors of many types
        got = first_words(error)
    raise ModelError(
        f"The weights {path} must be a checkpoint that holds only tensors",
        got=got,
        fix="save the model's state_dict() again with safetensors.torch.save_file.",
    )


def _unwrap(content: Any) -> tuple[dict[str, Tensor], bool]:
    """The state dict inside a checkpoint, and whether it was chosen as the averaged one of two."""
    averaged = False
    # A file can hold a dictionary that contains itself.
    for _ in range(DEPTH):
        if not isinstance(content, dict):
            break
        # Scripts that average no weights can store an empty dictionary for them.
        keys = [key for key in WRAPPERS if isinstance(content.get(key), dict) and content[key]]
        if not keys:
            break
        averaged = averaged or (keys[0] in AVERAGED and len(keys) > 1)
        content = content[keys[0]]
    items = content.items() if isinstance(content, dict) else ()
    tensors = {key: value for key, value in items if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        raise ModelError(
            "A checkpoint must hold a state dict of tensors",
            got=f"{type(content).__name__} with {', '.join(map(str, list(content)[:5]))}"
            if isinstance(content, dict)
            else type(content).__name__,
            fix=f"save model.state_dict(), directly or under one of the keys {', '.join(WRAPPERS)}.",
        )
    return cast(dict[str, Tensor], clean_state_dict(tensors)), averaged
