"""Weights of an open_clip model by name, with the preprocessing and the activation that they need.

A published tag defines both, and a file of weights does not. With another normalization or activation, the
same weights load without an error and give wrong features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg

from richkd.config.model_name import hint_at_path
from richkd.core.errors import ClipError, nearest
from richkd.core.home import expanded
from richkd.core.logs import logger_of
from richkd.core.presence import is_file

_LOG = logger_of(__name__)
# The preprocessing that open_clip's published weights define; the size is that of the model.
KEYS = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class NamedWeights:
    """A model of open_clip and its weights.

    Attributes:
        model: name of the architecture.
        weights: a published tag, or the absolute path of a file.
        preprocessing: mean, std, interpolation and resize mode of a file; empty for a published tag, with
            which open_clip uses the tag's.
        quick_gelu: whether the weights need QuickGELU instead of GELU.
        repository: repository of a published tag on the Hugging Face hub, if it has one.
    """

    model: str
    weights: str
    preprocessing: Mapping[str, Any]
    quick_gelu: bool
    repository: str | None = None


def find_weights(spec: str) -> NamedWeights:
    """Find the weights that ``NAME:TAG``, ``NAME:TAG@FILE`` or ``NAME:FILE`` names.

    ``NAME:TAG@FILE`` has the preprocessing and the activation of the tag. ``NAME:FILE`` is allowed if all
    published tags of the model have the same, or if the model has no published tags. Then the preprocessing
    is open_clip's default, and the activation is that of the model's configuration.

    Raises:
        ClipError: the model or the tag is unknown, the file is missing, or the tag of the file must be named.

    Example:
        >>> find_weights("ViT-B/32:openai").quick_gelu, find_weights("ViT-B-32:laion2b_e16").quick_gelu
        (True, False)
    """
    model, _, rest = spec.partition(":")
    # OpenAI writes ViT-B/32, which open_clip's list of tokenizers does not contain.
    model = model.replace("/", "-")
    models = open_clip.list_models()
    if model not in models:
        hint = hint_at_path(spec, "CLIP") or nearest(model, models, "open_clip.list_models() lists all.")
        raise ClipError("CLIP must be a model of open_clip", got=f"'{model}'", fix=hint)
    tag, at, path = rest.partition("@")
    if _published(model, rest):
        repository = open_clip.get_pretrained_cfg(model, rest).get("hf_hub")
        return NamedWeights(model, rest, {}, _traits(model, rest)["quick_gelu"], repository)
    # The name of a file can contain an @, too.
    if at and (_published(model, tag) or not _is_file(rest)):
        return _tagged_file(model, tag, path)
    if not _is_file(rest):
        raise _no_weights(model, rest)
    return _file_only(model, rest)


def _tagged_file(model: str, tag: str, file: str) -> NamedWeights:
    if not _published(model, tag):
        raise _no_weights(model, tag)
    if not _is_file(file):
        rule = f"The weights file of CLIP '{model}:{tag}@FILE' must exist"
        raise ClipError(rule, got=f"no file '{file}'", fix="check the path behind the @.")
    return _file_like(model, file, _traits(model, tag))


def _file_only(model: str, file: str) -> NamedWeights:
    tags_of: dict[tuple[Any, ...], list[str]] = {}
    for tag in open_clip.list_pretrained_tags_by_model(model):
        tags_of.setdefault(tuple(_traits(model, tag).values()), []).append(tag)
    if len(tags_of) > 1:
        raise _needs_a_tag(model, file, tags_of)
    if tags_of:
        ((first, *_),) = tags_of.values()
        return _file_like(model, file, _traits(model, first))
    traits = _traits(model, None)
    _LOG.warning(
        "%s has no published weights, so %s is used with open_clip's defaults: %s. Weights that were trained "
        "with other values need a folder with open_clip_config.json (local-dir:FOLDER).",
        *(model, file, _described(traits)),
    )
    return _file_like(model, file, traits)


def _file_like(model: str, file: str, traits: Mapping[str, Any]) -> NamedWeights:
    preprocessing = {key: traits[key] for key in KEYS}
    # An absolute path is never a tag.
    path = str(expanded(file).absolute())
    return NamedWeights(model, path, preprocessing, traits["quick_gelu"])


def _is_file(path: str) -> bool:
    # An unknown home folder or a name that is too long is no file.
    with contextlib.suppress(RuntimeError, OSError):
        return is_file(expanded(path))
    return False


def _published(model: str, tag: str) -> bool:
    return bool(open_clip.is_pretrained_cfg(model, tag))


def _traits(model: str, tag: str | None) -> dict[str, Any]:
    """Preprocessing and activation of a published tag, or open_clip's defaults; hashable values."""
    config = open_clip.get_pretrained_cfg(model, tag) if tag else {}
    known = vars(PreprocessCfg()) | {k: v for k, v in config.items() if v is not None}
    # The names of models that end in -quickgelu and a few others have QuickGELU in their configuration.
    quick = bool(config.get("quick_gelu") or open_clip.get_model_config(model).get("quick_gelu"))
    traits = {key: tuple(known[key]) if key in ("mean", "std") else known[key] for key in KEYS}
    return traits | {"quick_gelu": quick}


def _described(traits: Mapping[str, Any]) -> str:
    """The values in words, for messages.

    Example:
        >>> _described({"mean": (0.0, 0.0, 0.0), "interpolation": "bicubic", "quick_gelu": True})
        'mean (0, 0, 0), interpolation bicubic, QuickGELU'
    """
    parts = []
    for key, value in traits.items():
        if key == "quick_gelu":
            parts.append("QuickGELU" if value else "GELU")
        elif isinstance(value, tuple):
            parts.append(f"{key} ({', '.join(f'{number:.4g}' for number in value)})")
        else:
            parts.append(f"{key} {value}")
    return ", ".join(parts)


def _no_weights(model: str, given: str) -> ClipError:
    tags = open_clip.list_pretrained_tags_by_model(model)
    listing = f"open_clip.list_pretrained_tags_by_model('{model}') lists all."
    if not tags:
        fix = f"no weights of {model} are published; write '{model}:FILE'."
    elif given:
        fix = nearest(given, tags, listing)
    else:
        fix = f"write a tag, such as --clip {model}:{tags[0]}; {listing}"
    return ClipError(
        f"CLIP needs weights: '{model}:TAG', '{model}:TAG@FILE' or '{model}:FILE', where TAG is a tag of "
        f"{model} and FILE a weights file",
        got=f"'{given}', which is no tag and no file" if given else "no tag",
        fix=fix,
    )


def _needs_a_tag(model: str, file: str, tags_of: Mapping[tuple[Any, ...], Sequence[str]]) -> ClipError:
    kinds = [dict(zip((*KEYS, "quick_gelu"), values, strict=True)) for values in tags_of]
    differing = [key for key in kinds[0] if len({kind[key] for kind in kinds}) > 1]
    choices = [
        f"{_described({key: kind[key] for key in differing})}: {', '.join(tags)}"
        for kind, tags in zip(kinds, tags_of.values(), strict=True)
    ]
    return ClipError(
        f"CLIP weights in a file need a tag of {model} that was trained with the same preprocessing and "
        f"activation, because the tags of {model} differ in these",
        got=f"'{file}' without a tag",
        fix=f"write '{model}:TAG@{file}' with any tag of the right kind:\n  " + "\n  ".join(choices),
    )
