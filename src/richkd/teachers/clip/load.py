"""Load a CLIP model with open_clip, by its name, from the Hugging Face hub or from a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from richkd.config.model_name import parse_model_name
from richkd.config.schema import ClipConfig
from richkd.core.errors import ClipError
from richkd.core.finite import refuse_non_finite_weights
from richkd.core.home import expanded
from richkd.core.logs import logger_of
from richkd.core.presence import is_dir, is_file
from richkd.core.regular_files import kind_of, special_in
from richkd.core.structured import read_json
from richkd.core.visible import one_line
from richkd.teachers.clip.model import PRECISIONS, Clip, ClipTeacher
from richkd.teachers.clip.named_weights import find_weights
from richkd.teachers.clip.prompt_lengths import check_prompt_lengths
from richkd.teachers.clip.prompt_weights import PromptSet
from richkd.teachers.clip.prompts import build_prompts, load_class_prompts, load_names, templates
from richkd.teachers.clip.tokens import check_tokenizer, vocabulary_size

_LOG = logger_of(__name__)
CONFIG_FILE = "open_clip_config.json"


def open_clip_teacher(
    config: ClipConfig,
    class_names: Sequence[str],
    device: torch.device,
    superclasses: Sequence[str] | None = None,
    *,
    divided: bool = False,
) -> ClipTeacher:
    """Load the CLIP model that the settings name and compute its class embeddings.

    Args:
        config: model, prompts and cache folder.
        class_names: names of the classes, in label order.
        device: device of the model.
        superclasses: superclass of each class, for templates with ``{super}``.
        divided: divide the weights of the image tower among the processes; the text tower is on the CPU.

    Raises:
        ClipError: the model, its tokenizer or its prompts cannot be used; see `check_prompt_lengths`.
        ClassError: two class names differ only in underscores and spaces.

    Example:
        >>> import richkd
        >>> import tempfile
        >>> name = f"local-dir:{Path(richkd.__file__).parent / 'demo' / 'tiny_clip'}"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = ClipConfig(name=name, prompts="simple", cache=folder)
        ...     teacher = open_clip_teacher(config, ["one", "two", "three"], torch.device("cpu"))
        >>> tuple(teacher.class_embeddings_CD.shape)
        (3, 64)
    """
    clip = load_clip(config.name, device="cpu" if divided else device)
    selected = templates(config.prompts)
    class_prompts = load_class_prompts(config.class_prompts, class_names) if config.class_prompts else {}
    renamed = load_names(config.rename_classes, class_names) if config.rename_classes else {}
    prompts = build_prompts(class_names, selected, class_prompts, renamed, superclasses)
    sources = [class_prompts.get(name, selected) for name in class_names]
    check_prompt_lengths(clip.tokenizer, class_names, prompts, sources)

    def prompt_set() -> PromptSet:
        # Class-specific prompts do not correspond to templates; their mean is used for every template.
        embedded = [
            functional.normalize(part.mean(dim=0, keepdim=True), dim=1).expand(len(selected), -1)
            if name in class_prompts
            else part
            for name, part in zip(class_names, clip.embed_each(prompts), strict=True)
        ]
        return PromptSet(selected, torch.stack(embedded, dim=1).cpu())

    embeddings_CD = clip.class_embeddings(class_names, prompts, expanded(config.cache))
    if divided:
        clip.divide_images(device)
    return ClipTeacher(clip, embeddings_CD, prompt_set)


def load_clip(spec: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Clip:
    """Load a CLIP model and its tokenizer with open_clip.

    Args:
        spec: ``NAME:TAG`` (``"ViT-B-32:datacomp_xl_s13b_b90k"``), ``NAME:TAG@FILE`` or ``NAME:FILE`` (see
            `find_weights`), ``hf-hub:OWNER/REPO``, or ``local-dir:FOLDER`` with ``open_clip_config.json``,
            the weights and the files of the tokenizer, if it is not CLIP's own.
        device: device of the model.
        dtype: float32 (default), bfloat16 or float16.

    Raises:
        ClipError: the name or tag is unknown, a file needs a tag, files are missing, a download fails, the
            weights or the tokenizer do not fit the model, or its preprocessing cannot be reproduced.
        NonFiniteError: a weight is NaN or infinite; names the model and the tensor.

    Example:
        >>> import richkd
        >>> clip = load_clip(f"local-dir:{Path(richkd.__file__).parent / 'demo' / 'tiny_clip'}")
        >>> clip.image_size, clip.embed_width
        (16, 64)
    """
    import open_clip

    dtype = dtype or torch.float32
    if dtype not in PRECISIONS:
        known = ", ".join(str(known) for known in PRECISIONS)
        raise ClipError(
            "CLIP needs a floating-point type that open_clip supports", got=str(dtype), fix=f"use {known}."
        )
    source = _source(spec)
    try:
        model = open_clip.create_model(
            source.model,
            source.weights,
            precision=PRECISIONS[dtype],
            force_quick_gelu=source.quick_gelu,
            force_preprocess_cfg=dict(source.preprocessing),
            require_pretrained=True,
            pretrained_text=False,
        )
        config = open_clip.get_model_config(source.model)
        config["quick_gelu"] = source.quick_gelu or bool(config.get("quick_gelu"))
        tokenizer = open_clip.get_tokenizer(source.model)
    # open_clip, the hub and the readers of tokenizers and weights have no common base class but Exception.
    except Exception as error:
        got = one_line(error)
        raise ClipError(f"CLIP '{spec}' could not be loaded", got=got, fix=source.fix) from error
    refuse_non_finite_weights(model, f"The weights of CLIP '{spec}'")
    if source.folder is not None:
        _warn_of_defaults(source.folder)
    check_tokenizer(tokenizer, vocabulary_size(model), spec)
    clip = Clip(model.to(device), tokenizer, name=spec, config=config, dtype=dtype)
    if not 0 < clip.logit_scale < float("inf"):
        raise ClipError(
            f"CLIP '{spec}' must have a finite logit scale",
            got=f"exp(logit_scale) = {clip.logit_scale}",
            fix="use weights of a training that did not diverge.",
        )
    return clip


@dataclass(frozen=True)
class _Source:
    """What open_clip is asked for, and what to do if that fails."""

    model: str
    fix: str
    weights: str | None = None
    quick_gelu: bool = False
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def _source(spec: str) -> _Source:
    parsed = parse_model_name(spec)
    if parsed.kind == "local-dir":
        _check_folder(parsed.path)
        fix = f"check that the files in {parsed.path} belong together."
        return _Source(f"local-dir:{parsed.path}", fix, folder=parsed.path)
    if parsed.kind == "hf-hub":
        return _Source(f"hf-hub:{parsed.value}", _offline_fix(parsed.value))
    named = find_weights(spec)
    fix = (
        f"check that {named.weights} holds the weights of a {named.model}, with open_clip's names of tensors."
    )
    if not named.preprocessing:
        fix = _offline_fix(named.repository)
    return _Source(named.model, fix, named.weights, named.quick_gelu, named.preprocessing)


def _check_folder(folder: Path) -> None:
    fix = "check the path; the folder needs open_clip_config.json and open_clip_model.safetensors."
    config = folder / CONFIG_FILE
    if not is_file(config):
        missing = config if is_dir(folder) else folder
        rule = "The CLIP folder must exist with its configuration"
        raise ClipError(rule, got=f"no {missing}", fix=fix)
    special = special_in(folder)
    if special is not None:
        rule = "The CLIP folder must hold regular files"
        raise ClipError(rule, got=f"{kind_of(special)}: {special}", fix="remove it.")
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
        got = f"no .safetensors, .bin or .pth file in {folder}"
        raise ClipError("The CLIP folder must exist with its weights", got=got, fix=fix)


def _warn_of_defaults(folder: Path) -> None:
    file = folder / CONFIG_FILE
    if not read_json(file).get("preprocess_cfg"):
        _LOG.warning(
            "%s has no preprocess_cfg, so images are normalized as for OpenAI's CLIP; add mean and std of "
            "the training",
            file,
        )


def _offline_fix(repository: str | None) -> str:
    # open_clip lists published weights as OWNER/REPO/ or OWNER/REPO/FILE.
    repo = "/".join((repository or "OWNER/REPO").split("/")[:2])
    return (
        f"without internet access, run 'hf download {repo} --local-dir FOLDER' on a machine with access, "
        "copy FOLDER to this machine, and use the model name local-dir:FOLDER."
    )
