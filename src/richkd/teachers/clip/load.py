"""Loading a CLIP by name, from the hub or from a folder, through open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional

from richkd.config.model_name import parse_model_name
from richkd.config.schema import ClipConfig
from richkd.core.errors import ClipError, nearest
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
    """The CLIP that the settings name, with the embeddings of its prompts for these classes.

    Raises:
        ClipError: the model, its tokenizer or its prompts cannot be used.
        ClassError: two classes have one name once underscores are blanks.
    """
    clip, selected = load_clip(config.name, device=device), templates(config.prompts)
    own = load_class_prompts(config.class_prompts, class_names) if config.class_prompts else {}
    outputs = load_names(config.rename_classes, class_names) if config.rename_classes else {}
    prompts = build_prompts(class_names, selected, own, outputs, superclasses)

    def prompt_set() -> PromptSet:
        # A class with prompts of its own is at every template what all of these together are.
        embedded = [
            functional.normalize(part.mean(dim=0, keepdim=True), dim=1).expand(len(selected), -1)
            if name in own
            else part
            for name, part in zip(class_names, clip.embed_each(prompts), strict=True)
        ]
        return PromptSet(selected, torch.stack(embedded, dim=1).cpu())

    cache = config.cache.expanduser()
    return ClipTeacher(clip, clip.class_embeddings(class_names, prompts, cache), prompt_set)


def load_clip(spec: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Clip:
    """Load a CLIP model with its tokenizer through open_clip.

    ``spec`` is ``NAME:TAG`` (``"ViT-B-32:datacomp_xl_s13b_b90k"``; TAG may be a weights file),
    ``hf-hub:OWNER/REPO``, or ``local-dir:FOLDER`` with ``open_clip_config.json``, the weights and any
    tokenizer files. ``dtype`` is float32 (default), bfloat16 or float16.

    Raises:
        ClipError: name or tag are unknown, files are missing, a download fails, or the weights or the
            tokenizer do not fit the model.
    """
    import open_clip

    dtype = dtype or torch.float32
    if dtype not in PRECISIONS:
        known = ", ".join(str(known) for known in PRECISIONS)
        raise ClipError(
            "CLIP runs in a floating-point type that open_clip knows", got=str(dtype), fix=f"use {known}."
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
    # Weights trained with QuickGELU give wrong features with GELU, and open_clip merely warns of it.
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
    # open_clip, hub, tokenizer and weight readers share no base class below Exception.
    except Exception as error:
        raise ClipError(
            f"CLIP '{spec}' could not be loaded", got=str(error) or repr(error), fix=fix
        ) from error
    check_tokenizer(tokenizer, vocabulary_size(model), spec)
    return Clip(model.to(device), tokenizer, name=spec, config=config, dtype=dtype)


def _check_folder(folder: Path) -> None:
    fix = "the folder needs open_clip_config.json and open_clip_model.safetensors; check the path."
    config = folder / "open_clip_config.json"
    if not config.is_file():
        missing = config if folder.is_dir() else folder
        raise ClipError("A CLIP on disk is a folder with its configuration", got=f"no {missing}", fix=fix)
    if not any(file.suffix in (".safetensors", ".bin", ".pth") for file in folder.iterdir()):
        got = f"no .safetensors, .bin or .pth file in {folder}"
        raise ClipError("A CLIP on disk is a folder with its weights", got=got, fix=fix)


def _name_and_tag(spec: str) -> tuple[str, str]:
    import open_clip

    name, _, tag = spec.partition(":")
    # OpenAI writes ViT-B/32; open_clip's model list takes that, but its tokenizer list does not.
    name = name.replace("/", "-")
    models = open_clip.list_models()
    if name not in models:
        raise ClipError(
            "CLIP must be a model that open_clip knows", got=f"'{name}'", fix=nearest(name, models)
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag.lower().replace("-", "_") not in tags and not Path(tag).is_file():
        raise ClipError(
            f"CLIP needs weights, as in '{name}:TAG', with a tag of {name} or a file",
            got=f"'{tag}'" if tag else "no tag",
            fix=nearest(tag, tags) if tags else f"no weights of {name} are published; give a file.",
        )
    return name, tag


def _offline_fix(repository: str | None) -> str:
    # Published weights are listed as OWNER/REPO/ or OWNER/REPO/FILE.
    repo = "/".join((repository or "OWNER/REPO").split("/")[:2])
    return (
        f"without a network, run 'hf download {repo} --local-dir FOLDER' on a machine that has one, copy "
        "FOLDER here, and name the model as local-dir:FOLDER."
    )
