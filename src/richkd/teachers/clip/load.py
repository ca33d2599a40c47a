"""Load a CLIP model with open_clip, by its name, from the Hugging Face hub or from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional

from richkd.config.model_name import parse_model_name
from richkd.config.schema import ClipConfig
from richkd.core.errors import ClipError, nearest
from richkd.core.regular_files import kind_of, special_in
from richkd.teachers.clip.model import PRECISIONS, Clip, ClipTeacher
from richkd.teachers.clip.prompt_weights import PromptSet
from richkd.teachers.clip.prompts import build_prompts, load_class_prompts, load_names, templates
from richkd.teachers.clip.tokens import check_tokenizer, vocabulary_size


def clip_teacher(
    config: ClipConfig,
    class_names: Sequence[str],
    device: torch.device,
    superclasses: Sequence[str] | None = None,
) -> ClipTeacher:
    """Load the CLIP model that the settings name and compute its class embeddings.

    Args:
        config: model, prompts and cache folder.
        class_names: names of the classes, in label order.
        device: device of the model.
        superclasses: superclass of each class, for templates with ``{super}``.

    Raises:
        ClipError: the model, its tokenizer or its prompts cannot be used.
        ClassError: two class names differ only in underscores and spaces.

    Example:
        >>> import richkd
        >>> import tempfile
        >>> name = f"local-dir:{Path(richkd.__file__).parent / 'demo' / 'tiny_clip'}"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = ClipConfig(name=name, prompts="simple", cache=folder)
        ...     teacher = clip_teacher(config, ["one", "two", "three"], torch.device("cpu"))
        >>> tuple(teacher.class_embeddings_CD.shape)
        (3, 64)
    """
    clip, selected = load_clip(config.name, device=device), templates(config.prompts)
    class_prompts = load_class_prompts(config.class_prompts, class_names) if config.class_prompts else {}
    renamed = load_names(config.rename_classes, class_names) if config.rename_classes else {}
    prompts = build_prompts(class_names, selected, class_prompts, renamed, superclasses)

    def prompt_set() -> PromptSet:
        # Class-specific prompts do not correspond to templates; their mean is used for every template.
        embedded = [
            functional.normalize(part.mean(dim=0, keepdim=True), dim=1).expand(len(selected), -1)
            if name in class_prompts
            else part
            for name, part in zip(class_names, clip.embed_each(prompts), strict=True)
        ]
        return PromptSet(selected, torch.stack(embedded, dim=1).cpu())

    cache = config.cache.expanduser()
    return ClipTeacher(clip, clip.class_embeddings(class_names, prompts, cache), prompt_set)


def load_clip(spec: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Clip:
    """Load a CLIP model and its tokenizer with open_clip.

    Args:
        spec: ``NAME:TAG`` (``"ViT-B-32:datacomp_xl_s13b_b90k"``; TAG may be a weights file),
            ``hf-hub:OWNER/REPO``, or ``local-dir:FOLDER`` with ``open_clip_config.json``, the weights and
            the files of the tokenizer, if it is not CLIP's own.
        device: device of the model.
        dtype: float32 (default), bfloat16 or float16.

    Raises:
        ClipError: the name or tag is unknown, files are missing, a download fails, or the weights or the
            tokenizer do not fit the model.

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
    parsed = parse_model_name(spec)
    if parsed.kind == "local-dir":
        folder = parsed.path
        _check_folder(folder)
        name, tag, fix = f"local-dir:{folder}", None, f"check that the files in {folder} belong together."
    elif parsed.kind == "hf-hub":
        name, tag, fix = spec, None, _offline_fix(parsed.value)
    else:
        name, tag = _name_and_tag(spec)
        fix = _offline_fix(open_clip.get_pretrained_cfg(name, tag).get("hf_hub"))
    # Weights trained with QuickGELU give wrong features with GELU; open_clip only logs a warning.
    quick = tag is not None and bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu"))
    try:
        model = open_clip.create_model(
            name,
            tag,
            precision=PRECISIONS[dtype],
            force_quick_gelu=quick,
            require_pretrained=True,
            pretrained_text=False,
        )
        config = open_clip.get_model_config(name) | {"quick_gelu_forced": quick}
        tokenizer = open_clip.get_tokenizer(name)
    # open_clip, the hub and the readers of tokenizers and weights have no common base class but Exception.
    except Exception as error:
        raise ClipError(
            f"CLIP '{spec}' could not be loaded", got=str(error) or repr(error), fix=fix
        ) from error
    check_tokenizer(tokenizer, vocabulary_size(model), spec)
    return Clip(model.to(device), tokenizer, name=spec, config=config, dtype=dtype)


def _check_folder(folder: Path) -> None:
    fix = "check the path; the folder needs open_clip_config.json and open_clip_model.safetensors."
    config = folder / "open_clip_config.json"
    if not config.is_file():
        missing = config if folder.is_dir() else folder
        rule = "The CLIP folder must exist with its configuration"
        raise ClipError(rule, got=f"no {missing}", fix=fix)
    special = special_in(folder)
    if special is not None:
        rule = "The CLIP folder must hold regular files"
        raise ClipError(rule, got=f"{kind_of(special)}: {special}", fix="remove it.")
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
        got = f"no .safetensors, .bin or .pth file in {folder}"
        raise ClipError("The CLIP folder must exist with its weights", got=got, fix=fix)


def _name_and_tag(spec: str) -> tuple[str, str]:
    import open_clip

    name, _, tag = spec.partition(":")
    # OpenAI writes ViT-B/32, which open_clip's list of tokenizers does not contain.
    name = name.replace("/", "-")
    models = open_clip.list_models()
    if name not in models:
        raise ClipError("CLIP must be a model of open_clip", got=f"'{name}'", fix=nearest(name, models))
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag.lower().replace("-", "_") not in tags and not Path(tag).is_file():
        raise ClipError(
            f"CLIP needs weights: '{name}:TAG', where TAG is a tag of {name} or a weights file",
            got=f"'{tag}'" if tag else "no tag",
            fix=nearest(tag, tags) if tags else f"no weights of {name} are published; use a file as TAG.",
        )
    return name, tag


def _offline_fix(repository: str | None) -> str:
    # open_clip lists published weights as OWNER/REPO/ or OWNER/REPO/FILE.
    repo = "/".join((repository or "OWNER/REPO").split("/")[:2])
    return (
        f"without internet access, run 'hf download {repo} --local-dir FOLDER' on a machine with access, "
        "copy FOLDER to this machine, and use the model name local-dir:FOLDER."
    )
