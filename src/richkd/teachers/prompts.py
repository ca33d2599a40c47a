"""Class names and templates become the sentences that CLIP reads, and nothing here needs a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from richkd.errors import ClassError, ClipError, nearest

SIMPLE = ("a photo of a {}.",)
PAPER = (
    "a photo of a {}",
    "a blurry photo of a {}",
    "a cropped photo of a {}",
    "a close-up photo of a {}",
    "a low resolution photo of a {}",
    "a bright photo of a {}",
    "a picture of a {}",
    "a detailed image of a {}",
    "a sketch of a {}",
    "a natural photo of a {} in the wild",
    "a realistic image of a {}",
    "a high quality photo of a {}",
)
PRESETS = ("simple", "paper", "openai")


def clean_name(name: str) -> str:
    """A class name as a reader would write it: underscores become blanks, blanks are collapsed.

    ``"aquarium_fish"`` becomes ``"aquarium fish"``. Letter case is kept, for CLIP models whose
    tokenizer tells ``"Crane"`` from ``"crane"``.
    """
    return " ".join(name.replace("_", " ").split())


def templates(spec: str) -> tuple[str, ...]:
    """The prompt templates of a preset or of a text file; ``{}`` stands for the class name.

    ``"simple"`` is one sentence, ``"paper"`` the 12 of RichKD (arXiv 2511.09286), ``"openai"`` the 80
    that Radford et al. (2021) chose for ImageNet. Anything else is the path of a UTF-8 file with one
    template on each line, where empty lines and lines that begin with ``#`` are skipped.

    Raises:
        ClipError: the file cannot be read, holds no template, or has a line without exactly one ``{}``.
    """
    if spec == "simple":
        return SIMPLE
    if spec == "paper":
        return PAPER
    if spec == "openai":
        # Importing open_clip takes seconds, and only this preset needs it.
        import open_clip

        return tuple(str(template("{}")) for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    return _read_templates(Path(spec).expanduser())


def class_prompts(
    class_names: Sequence[str],
    templates: Sequence[str],
    per_class: Mapping[str, Sequence[str]] | None = None,
) -> list[list[str]]:
    """The prompts of each class, in the order of ``class_names``.

    A class that ``per_class`` names takes those prompts instead of the templates; ``{}`` in them is
    optional. See `load_class_prompts`.

    Raises:
        ClassError: two class names read alike once cleaned, or a name is empty.
        ClipError: a class has no prompt, or two classes have the same prompts.
    """
    cleaned = _distinct_names(class_names)
    own = per_class or {}
    prompts = [
        [sentence.replace("{}", shown) for sentence in own.get(name, templates)]
        for name, shown in zip(class_names, cleaned, strict=True)
    ]
    owner: dict[frozenset[str], str] = {}
    for name, sentences in zip(class_names, prompts, strict=True):
        if not sentences:
            raise ClipError(
                f"Every class needs a prompt; class '{name}' has none",
                fix="give it a sentence, or templates.",
            )
        other = owner.setdefault(frozenset(sentences), name)
        if other != name:
            raise ClipError(
                f"Two classes with the same prompts cannot be told apart: '{other}' and '{name}'",
                got=f"{sentences[0]!r} for both",
                fix="write prompts that say what sets each class apart.",
            )
    return prompts


def load_class_prompts(path: str | Path, class_names: Sequence[str]) -> dict[str, list[str]]:
    """Read prompts written for single classes from YAML or JSON: ``{class name: [prompt, ...]}``.

    Prompts are full sentences, or have ``{}`` where the class name belongs. A class may be left out;
    its name may be written with blanks or underscores.

    Raises:
        ClipError: the file cannot be read, has another form, or names a class that does not exist.
    """
    path = Path(path).expanduser()
    known = dict(zip(_distinct_names(class_names), class_names, strict=True))
    content = _parse(path)
    if not isinstance(content, dict):
        raise ClipError(
            f"{path} must map class names to lists of prompts",
            got=type(content).__name__,
            fix="write 'class name: [prompt, prompt]' for each class.",
        )
    found: dict[str, list[str]] = {}
    for key, sentences in content.items():
        if not isinstance(key, str):
            raise ClipError(
                f"Class names in {path} must be text", got=f"{key!r} ({type(key).__name__})", fix="quote it."
            )
        name = known.get(clean_name(key))
        if name is None:
            raise ClipError(
                f"{path} gives prompts for a class that the data do not have",
                got=f"'{key}'",
                fix=nearest(clean_name(key), known),
            )
        if name in found:
            raise ClipError(f"{path} names class '{name}' twice", fix="keep one entry.")
        valid = isinstance(sentences, list) and all(isinstance(s, str) and s.strip() for s in sentences)
        if not sentences or not valid:
            raise ClipError(
                f"The prompts of class '{key}' in {path} must be a list of sentences",
                got=repr(sentences),
                fix="write them as [sentence, sentence], or leave the class out to use the templates.",
            )
        found[name] = [" ".join(sentence.split()) for sentence in sentences]
    return found


def _distinct_names(class_names: Sequence[str]) -> list[str]:
    seen: dict[str, str] = {}
    for position, name in enumerate(class_names):
        shown = clean_name(name)
        if not shown:
            raise ClassError(f"Class {position} has an empty name", got=repr(name), fix="name it.")
        if shown in seen:
            raise ClassError(
                "Class names must differ in more than underscores and blanks, or their prompts are the same",
                got=f"{seen[shown]!r} and {name!r}",
                fix="rename one of them, for example 'crane bird' and 'crane machine'.",
            )
        seen[shown] = name
    return list(seen)


def _read_text(path: Path, what: str, hint: str) -> str:
    try:
        # Editors on Windows begin a file with a byte-order mark; utf-8-sig drops it.
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ClipError(f"{what} {path} cannot be read", got=str(error), fix=hint) from error


def _read_templates(path: Path) -> tuple[str, ...]:
    hint = f"name a UTF-8 text file, or one of {', '.join(PRESETS)}. {nearest(str(path), PRESETS)}"
    found: list[str] = []
    for number, raw in enumerate(_read_text(path, "The prompt templates", hint).splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        rest = line.replace("{}", "", 1)
        if rest == line or "{" in rest or "}" in rest:
            raise ClipError(
                f"{path}, line {number}: a template must contain exactly one {{}} and no other brace",
                got=repr(line),
                fix="write {} where the class name belongs, as in 'a photo of a {}.'",
            )
        found.append(line)
    if not found:
        raise ClipError(f"{path} holds no prompt template", fix="write one sentence with {} on each line.")
    return tuple(found)


class _DuplicateKeyError(ValueError):
    """The same key twice in one mapping, where YAML and JSON readers would keep the last."""


def _pairs_to_dict(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(f"'{next(key for key in keys if keys.count(key) > 1)}' appears twice")
    return mapping


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that refuses duplicate keys."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    # Depth first: a sequence that is filled after this call would still look empty to the caller.
    pairs = [
        (loader.construct_object(k, deep=True), loader.construct_object(v, deep=True)) for k, v in node.value
    ]
    return _pairs_to_dict(pairs)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _parse(path: Path) -> Any:
    text = _read_text(path, "The class prompts", "name a YAML or JSON file: {class name: [prompt, ...]}.")
    try:
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_pairs_to_dict)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ClipError(
            f"{path} is not valid {'JSON' if path.suffix == '.json' else 'YAML'}",
            got=str(error),
            fix="correct the file: {class name: [prompt, ...]}.",
        ) from error
