"""Networks from a name: any timm model, a saved student, or a callable, with weights from a file."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from richkd.config.schema import ModelConfig
from richkd.core.errors import ModelError, nearest
from richkd.core.types import Output
from richkd.data.views import RGB
from richkd.models.cifar_base import CifarNet, checkpoint_filter_fn

# Keys under which training scripts wrap a state dict.
WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "net", "network")
# Prefixes that wrappers of modules leave on every key.
PREFIXES = ("module.", "_orig_mod.", "model.")
CONTRACT = ("forward_features", "forward_head", "get_classifier", "num_features")


class Network(nn.Module):
    """A classifier that follows timm's contract, together with the input it expects.

    Calling it gives an :class:`Output`: class logits and the pooled feature that the classifier reads.

    Attributes:
        model: the timm-like module itself; its state dict carries no wrapper prefix.
        size, mean, std: input resolution in pixels and normalization of values in 0..1.
        class_names: the classes in output order where the weights came with them, else None.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        *,
        size: int,
        mean: RGB,
        std: RGB,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.name, self.size, self.mean, self.std = name, size, mean, std
        self.class_names = class_names
        self.feature_width, self.classes, self._linear_head = _probe_head(model, name, size)

    def forward(self, pixels_B3HW: Tensor) -> Output:
        model = cast(Any, self.model)
        map_BFHW = model.forward_features(pixels_B3HW)
        feats_BF = model.forward_head(map_BFHW, pre_logits=True)
        logits_BC = model.get_classifier()(feats_BF) if self._linear_head else model.forward_head(map_BFHW)
        return Output(logits_BC, feats_BF)

    @property
    def parameters_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def build_network(
    config: ModelConfig, classes: int, *, role: str, default_size: int | None = None
) -> Network:
    """Build a network with ``classes`` outputs and load its weights.

    Args:
        config: name, weights and input of the model.
        classes: outputs that the data need.
        role: "student" or "teacher", for error messages.
        default_size: resolution where neither the settings nor saved weights fix one.

    Raises:
        ModelError: an unknown name (with the nearest), a callable that does not import, weights of
            another architecture or with another number of classes.
    """
    if ":" in config.name and not config.name.startswith(("local-dir:", "hf-hub:", "hf_hub:")):
        model = _from_callable(config.name, classes, role)
    else:
        model = _from_timm(config, classes, role)
    cfg = getattr(model, "pretrained_cfg", None) or {}
    class_names = tuple(cfg["label_names"]) if cfg.get("label_names") else None
    if config.weights is not None:
        load_weights(model, config.weights, role=role)
    fixed = config.pretrained or config.weights is not None or config.name.startswith("local-dir:")
    own_size = cfg.get("input_size", (3, 224, 224))[-1]
    return Network(
        model,
        config.name,
        size=config.size or (own_size if fixed or default_size is None else default_size),
        mean=config.mean or _rgb(cfg.get("mean", timm.data.IMAGENET_DEFAULT_MEAN)),
        std=config.std or _rgb(cfg.get("std", timm.data.IMAGENET_DEFAULT_STD)),
        class_names=class_names,
    )


def load_weights(model: nn.Module, path: Path, *, role: str) -> None:
    """Load a checkpoint into a model, every key accounted for.

    Reads ``.safetensors``, or torch files with ``weights_only=True`` (no code in them is run). Wrapped
    dictionaries such as ``{"model": …}`` and prefixes such as ``module.`` are unwrapped.

    Raises:
        ModelError: no such file, not a checkpoint, or keys and shapes that are not the model's.
    """
    state = _unwrap(_read_weights(path))
    if isinstance(model, CifarNet):
        state = checkpoint_filter_fn(state, model)
    wanted = model.state_dict()
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape]
    head = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if shapes and not missing and not unknown and all(key.rpartition(".")[0] in head for key in shapes):
        key = sorted(shapes)[0]
        raise ModelError(
            f"The {role}'s weights {path} must have one output for each class of the data",
            got=f"{state[key].shape[0]} outputs in '{key}' for {wanted[key].shape[0]} classes",
            fix="use a model that was trained on these classes.",
        )
    if missing or unknown or shapes:
        parts = [
            f"{len(missing)} missing ({', '.join(missing[:3])}, …)" if missing else "",
            f"{len(unknown)} unknown ({', '.join(unknown[:3])}, …)" if unknown else "",
            f"{len(shapes)} of another shape ({', '.join(sorted(shapes)[:3])})" if shapes else "",
        ]
        raise ModelError(
            f"The {role}'s weights {path} are of another architecture than {type(model).__name__}",
            got="; ".join(part for part in parts if part),
            fix=f"name the architecture that the file was saved from with --{role}.",
        )
    model.load_state_dict(state)


def _from_timm(config: ModelConfig, classes: int, role: str) -> nn.Module:
    name = config.name
    if name.startswith("local-dir:"):
        return _from_folder(Path(name.removeprefix("local-dir:")), classes, role)
    if not name.startswith(("hf-hub:", "hf_hub:")) and not timm.is_model(name.partition(".")[0]):
        raise ModelError(f"No model is called '{name}' (the {role})", fix=nearest(name, timm.list_models()))
    try:
        return cast(nn.Module, timm.create_model(name, pretrained=config.pretrained, num_classes=classes))
    except Exception as error:
        if not config.pretrained and "hub" not in name:
            raise ModelError(
                f"The {role} {name} could not be built", got=f"{type(error).__name__}: {error}"
            ) from error
        raise ModelError(
            f"The pretrained weights of {name} could not be loaded",
            got=f"{type(error).__name__}: {error}"[:300],
            fix=f"connect to the network once, or give a file with --{role}.weights.",
        ) from error


def _from_folder(folder: Path, classes: int, role: str) -> nn.Module:
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        outputs = int(saved["num_classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"The {role}'s folder {folder} must hold a config.json with num_classes and its weights",
            got=f"{type(error).__name__}: {error}",
            fix="give the student/ folder of a run.",
        ) from None
    if outputs != classes:
        raise ModelError(
            f"The {role} in {folder} must have one output for each class of the data",
            got=f"{outputs} outputs for {classes} classes",
            fix="use a model that was trained on these classes.",
        )
    try:
        model = cast(nn.Module, timm.create_model(f"local-dir:{folder}", pretrained=True))
    except Exception as error:
        raise ModelError(
            f"The {role}'s folder {folder} cannot be loaded", got=f"{type(error).__name__}: {error}"
        ) from error
    cast(Any, model).pretrained_cfg["label_names"] = saved.get("label_names")
    return model


def _from_callable(spec: str, classes: int, role: str) -> nn.Module:
    module_name, _, attribute = spec.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"The {role} '{spec}' must be an importable package.module:callable",
            got=f"{type(error).__name__}: {error}",
            fix="install the package, or put its folder on PYTHONPATH.",
        ) from None
    model = factory(num_classes=classes)
    if not isinstance(model, nn.Module):
        raise ModelError(f"The {role} '{spec}' must return a torch module", got=type(model).__name__)
    return model


def _read_weights(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"The weights {path} must be a file", got="no such file", fix="check the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's own errors have no common base short of this, and may say nothing
        got = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    raise ModelError(
        f"The weights {path} are not a checkpoint of tensors alone",
        got=got,
        fix="save the model's state_dict(), best as .safetensors; files that carry code are never loaded.",
    )


def _unwrap(content: Any) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise ModelError(
            "A checkpoint must hold a state dict of tensors",
            got=f"{type(content).__name__} with {', '.join(map(str, list(content)[:5]))}"
            if isinstance(content, dict)
            else type(content).__name__,
            fix=f"save model.state_dict(), alone or under one of {', '.join(WRAPPERS)}.",
        )
    state: dict[str, Tensor] = content
    # Wrappers wrap each other in any order, as in "module._orig_mod.".
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _probe_head(model: nn.Module, name: str, size: int) -> tuple[int, int, bool]:
    """Widths of feature and logits, and whether the classifier alone turns the one into the other."""
    lacking = [part for part in CONTRACT if not hasattr(model, part)]
    if lacking:
        raise ModelError(
            f"Model {name} must follow timm's contract",
            got=f"a {type(model).__name__} without {', '.join(lacking)}",
            fix="add these methods; `timm.models.ResNet` shows what each returns.",
        )
    contract, training = cast(Any, model), model.training
    model.eval()
    with torch.no_grad():
        pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        try:
            map_BFHW = contract.forward_features(pixels)
            feats = contract.forward_head(map_BFHW, pre_logits=True)
            logits = contract.forward_head(map_BFHW)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ModelError(
                f"Model {name} does not take images of {size}×{size} pixels",
                got=str(error).splitlines()[0],
                fix="choose its resolution with --student.size or --teacher.size.",
            ) from error
    model.train(training)
    head = contract.get_classifier()
    linear = isinstance(head, nn.Module) and feats.ndim == 2
    if linear:
        with torch.no_grad():
            try:
                linear = torch.allclose(head(feats), logits, rtol=1e-4, atol=1e-5)
            except RuntimeError:
                linear = False
    return int(feats.shape[-1]), int(logits.shape[-1]), linear


def _rgb(values: Any) -> RGB:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
