"""Class names and templates become the sentences that CLIP reads, and nothing here needs a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from richkd.core.errors import ClassError, ClipError, nearest
from richkd.core.user_files import parse_file, read_text
from richkd.data.classes import clean_name

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
# Stands for the superclass in a template.
SUPER = "{super}"


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


def build_prompts(
    class_names: Sequence[str],
    templates: Sequence[str],
    per_class: Mapping[str, Sequence[str]] | None = None,
    outputs: Mapping[str, str] | None = None,
    superclasses: Sequence[str] | None = None,
) -> list[list[str]]:
    """The prompts of each class, in the order of ``class_names``.

    A class that ``per_class`` names takes those prompts instead of the templates; ``{}`` in them is
    optional. See `load_class_prompts`. ``said`` replaces names of classes in prompts; see `load_names`.
    ``{super}`` in a template becomes the class's superclass.

    Raises:
        ClassError: two class names read alike once cleaned, or a name is empty.
        ClipError: a class has no prompt, or two classes have the same prompts.
    """
    names = outputs or {}
    cleaned = _distinct_names([names.get(name, name) for name in class_names])
    own = per_class or {}
    above = [clean_name(name) for name in superclasses] if superclasses else [SUPER] * len(class_names)
    if not superclasses and any(SUPER in sentence for sentence in templates):
        raise ClipError(
            f"A template with {SUPER} needs the classes' superclasses",
            got="none",
            fix="give --data.hierarchy FILE.",
        )
    prompts = [
        [sentence.replace("{}", shown).replace(SUPER, over) for sentence in own.get(name, templates)]
        for name, shown, over in zip(class_names, cleaned, above, strict=True)
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
    content = parse_file(path, ClipError, "The class prompts", "{class name: [prompt, ...]}")
    if not isinstance(content, dict):
        raise ClipError(
            f"{path} must map class names to lists of prompts",
            got=type(content).__name__,
            fix="write 'class name: [prompt, prompt]' for each class.",
        )
    result: dict[str, list[str]] = {}
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
        if name in result:
            raise ClipError(f"{path} names class '{name}' twice", fix="keep one entry.")
        valid = isinstance(sentences, list) and all(isinstance(s, str) and s.strip() for s in sentences)
        if not sentences or not valid:
            raise ClipError(
                f"The prompts of class '{key}' in {path} must be a list of sentences",
                got=repr(sentences),
                fix="write them as [sentence, sentence], or leave the class out to use the templates.",
            )
        result[name] = [" ".join(sentence.split()) for sentence in sentences]
    return result


def load_names(path: str | Path, class_names: Sequence[str]) -> dict[str, str]:
    """Read what CLIP is to call single classes from YAML or JSON: ``{class name: name for CLIP}``.

    Raises:
        ClipError: the file cannot be read, has another form, or names a class that does not exist.
    """
    path = Path(path).expanduser()
    result = parse_file(path, ClipError, "The names for CLIP", "{class name: name for CLIP}")
    known = dict(zip(_distinct_names(class_names), class_names, strict=True))
    if not isinstance(result, dict) or not all(
        isinstance(name, str) and name.strip() for name in result.values()
    ):
        raise ClipError(
            f"{path} must map class names to names", got=repr(result)[:80], fix="write 'crane: crane bird'."
        )
    for name in result:
        if clean_name(str(name)) not in known:
            raise ClipError(
                f"{path} names a class that the data do not have",
                got=repr(name),
                fix=nearest(str(name), class_names),
            )
    return {known[clean_name(str(name))]: outputs for name, outputs in result.items()}


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


def _read_templates(path: Path) -> tuple[str, ...]:
    hint = f"name a UTF-8 text file, or one of {', '.join(PRESETS)}. {nearest(str(path), PRESETS)}"
    result: list[str] = []
    for number, raw in enumerate(
        read_text(path, ClipError, "The prompt templates", hint).splitlines(), start=1
    ):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        rest = line.replace(SUPER, "").replace("{}", "", 1)
        if "{}" not in line or "{" in rest or "}" in rest:
            raise ClipError(
                f"{path}, line {number}: a template must contain exactly one {{}} and no other brace",
                got=repr(line),
                fix="write {} where the class name belongs, as in 'a photo of a {}.'",
            )
        result.append(line)
    if not result:
        raise ClipError(f"{path} holds no prompt template", fix="write one sentence with {} on each line.")
    return tuple(result)
