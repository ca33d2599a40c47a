"""Build the prompts of CLIP from class names and templates. No model is needed here."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from richkd.core.errors import ClassError, ClipError, nearest
from richkd.core.user_files import parse_file, read_text
from richkd.data.class_text import hint_at_class
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
# Placeholder of the superclass in a template.
SUPER = "{super}"
PLACEHOLDER = re.compile(r"\{(super)?\}")


def templates(spec: str) -> tuple[str, ...]:
    """The prompt templates of a preset or of a text file; ``{}`` is the placeholder of the class name.

    Args:
        spec: ``"simple"`` (one template), ``"paper"`` (the 12 of RichKD, arXiv 2511.09286), ``"openai"`` (the
            80 of Radford et al. 2021 for ImageNet), or the path of a UTF-8 file with one template per line.
            Empty lines of the file and lines that start with ``#`` are ignored.

    Raises:
        ClipError: the file cannot be read, contains no template, or has a line without exactly one ``{}``.

    Example:
        >>> templates("simple"), len(templates("paper"))
        (('a photo of a {}.',), 12)
    """
    if spec == "simple":
        return SIMPLE
    if spec == "paper":
        return PAPER
    if spec == "openai":
        # Importing open_clip takes seconds, and only this preset needs it.
        import open_clip

        return tuple(str(template("{}")) for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    return _read_templates(Path(spec))


def build_prompts(
    class_names: Sequence[str],
    templates: Sequence[str],
    per_class: Mapping[str, Sequence[str]] | None = None,
    renamed: Mapping[str, str] | None = None,
    superclasses: Sequence[str] | None = None,
) -> list[list[str]]:
    """Build the prompts of each class, in the order of ``class_names``.

    Args:
        class_names: names of the classes.
        templates: prompt templates; ``{}`` is replaced by the class name, ``{super}`` by the superclass.
        per_class: prompts of single classes, used instead of the templates; see `load_class_prompts`.
        renamed: names to use in prompts instead of class names; see `load_names`.
        superclasses: superclass of each class.

    Raises:
        ClassError: two class names differ only in underscores and spaces, or a name is empty.
        ClipError: a class has no prompt, two classes have the same prompts, or a prompt needs superclasses
            that are not given.

    Example:
        >>> build_prompts(["red_fox", "crane"], ["a {}", "the {}"], renamed={"crane": "crane bird"})
        [['a red fox', 'the red fox'], ['a crane bird', 'the crane bird']]
    """
    renamed, per_class = renamed or {}, per_class or {}
    cleaned = _distinct_names([renamed.get(name, name) for name in class_names])
    sentences = [*templates, *(sentence for of_class in per_class.values() for sentence in of_class)]
    wanting = next((sentence for sentence in sentences if SUPER in sentence), None)
    if not superclasses and wanting is not None:
        raise ClipError(
            f"A prompt with {SUPER} needs the superclasses of the classes",
            got=f"no superclasses for {wanting!r}",
            fix="add --data.hierarchy FILE.",
        )
    parents = [clean_name(name) for name in superclasses or class_names]
    prompts = [
        [_filled(prompt, text, parent) for prompt in per_class.get(name, templates)]
        for name, text, parent in zip(class_names, cleaned, parents, strict=True)
    ]
    owner: dict[frozenset[str], str] = {}
    for name, sentences in zip(class_names, prompts, strict=True):
        if not sentences:
            raise ClipError(
                "Every class needs a prompt",
                got=f"class '{name}' without one",
                fix="add a prompt for the class, or templates.",
            )
        other = owner.setdefault(frozenset(sentences), name)
        if other != name:
            raise ClipError(
                f"Two classes must not have the same prompts: '{other}' and '{name}'",
                got=f"{sentences[0]!r} for both",
                fix="write prompts that distinguish the classes.",
            )
    return prompts


def load_class_prompts(path: str | Path, class_names: Sequence[str]) -> dict[str, list[str]]:
    """Read prompts of single classes from a YAML or JSON file: ``{class name: [prompt, ...]}``.

    A prompt may contain ``{}`` as the placeholder of the class name, and ``{super}`` as that of the
    superclass. The file may omit classes. Class names may be written with spaces or underscores.

    Raises:
        ClipError: the file cannot be read, has another structure, contains an unknown class, names a class
            twice, or has a prompt with another brace.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "prompts.yaml"
        ...     size = path.write_text("red fox: ['a {} in the snow']", encoding="utf-8")
        ...     load_class_prompts(path, ["red_fox", "crane"])
        {'red_fox': ['a {} in the snow']}
    """
    path = Path(path)
    known = dict(zip(_distinct_names(class_names), class_names, strict=True))
    content = parse_file(path, ClipError, "The class prompts", "{class name: [prompt, ...]}")
    if not isinstance(content, dict):
        raise ClipError(
            f"{path} must map class names to lists of prompts",
            got=type(content).__name__,
            fix="write a line 'class name: [prompt, prompt]' for each class.",
        )
    result: dict[str, list[str]] = {}
    for key, sentences in content.items():
        if not isinstance(key, str):
            raise ClipError(
                f"Class names in {path} must be text",
                got=f"{key!r} ({type(key).__name__})",
                fix="quote it.",
            )
        name = _class_of(key, known, result, path)
        result[name] = _sentences(sentences, f"The prompts of class '{key}' in {path}")
    return result


def _sentences(value: object, what: str) -> list[str]:
    """The prompts of one class, with single spaces."""
    if not isinstance(value, list) or not value or not all(isinstance(s, str) and s.strip() for s in value):
        raise ClipError(
            f"{what} must be a list of sentences",
            got=repr(value),
            fix="write them as [sentence, sentence], or omit the class to use the templates.",
        )
    strange = next((sentence for sentence in value if _has_other_braces(sentence)), None)
    if strange is not None:
        raise ClipError(
            f"{what} must have no brace except for {{}} and {SUPER}",
            got=repr(strange),
            fix="write {} at the place of the class name, as in 'a photo of a {}.'",
        )
    return [" ".join(sentence.split()) for sentence in value]


def load_names(path: str | Path, class_names: Sequence[str]) -> dict[str, str]:
    """Read names to use in prompts from a YAML or JSON file: ``{class name: name in prompts}``.

    Raises:
        ClipError: the file cannot be read, has another structure, contains an unknown class, names a class
            twice, or has a name with a brace.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "names.yaml"
        ...     size = path.write_text("crane: crane bird", encoding="utf-8")
        ...     load_names(path, ["red_fox", "crane"])
        {'crane': 'crane bird'}
    """
    path = Path(path)
    content = parse_file(path, ClipError, "The names for prompts", "{class name: name in prompts}")
    known = dict(zip(_distinct_names(class_names), class_names, strict=True))
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and name.strip() for name in content.values()
    ):
        raise ClipError(
            f"{path} must map class names to names",
            got=repr(content)[:80],
            fix="write lines such as 'crane: crane bird'.",
        )
    result: dict[str, str] = {}
    for key, renamed in content.items():
        name = _class_of(str(key), known, result, path)
        if "{" in renamed or "}" in renamed:
            raise ClipError(
                f"The name of class '{key}' in {path} must not contain a brace",
                got=repr(renamed),
                fix=f"write the name only; {{}} and {SUPER} belong in templates.",
            )
        result[name] = renamed
    return result


def _class_of(key: str, known: Mapping[str, str], named: Container[str], path: Path) -> str:
    """The class that a key of a file means; refuses an unknown class, and one that is ``named`` already."""
    name = known.get(clean_name(key))
    if name is None:
        raise ClipError(
            f"{path} must contain only classes of the data",
            got=f"'{key}'",
            fix=hint_at_class(clean_name(key), known),
        )
    if name in named:
        raise ClipError(
            f"{path} must name each class once", got=f"'{name}' twice", fix="keep one of the entries."
        )
    return name


def _filled(prompt: str, name: str, parent: str) -> str:
    """A prompt with a class in the place of its placeholders; braces in names of classes stay."""
    return PLACEHOLDER.sub(lambda match: parent if match[1] else name, prompt)


def _has_other_braces(sentence: str) -> bool:
    rest = PLACEHOLDER.sub("", sentence)
    return "{" in rest or "}" in rest


def _distinct_names(class_names: Sequence[str]) -> list[str]:
    """The cleaned class names, all of which must differ."""
    name_of: dict[str, str] = {}
    for position, name in enumerate(class_names):
        text = clean_name(name)
        if not text:
            raise ClassError(f"Class {position} has an empty name", got=repr(name), fix="name the class.")
        if text in name_of:
            raise ClassError(
                "Class names must differ in more than underscores and spaces, or their prompts are the same",
                got=f"{name_of[text]!r} and {name!r}",
                fix="rename one of them, for example 'crane bird' and 'crane machine'.",
            )
        name_of[text] = name
    return list(name_of)


def _read_templates(path: Path) -> tuple[str, ...]:
    hint = f"pass a UTF-8 text file, or one of {', '.join(PRESETS)}. {nearest(str(path), PRESETS)}"
    result: list[str] = []
    lines = read_text(path, ClipError, "The prompt templates", hint).split("\n")
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.count("{}") != 1 or _has_other_braces(line):
            raise ClipError(
                f"{path}, line {number}: a template must contain exactly one {{}}, and no other brace except "
                f"for {SUPER}",
                got=repr(line),
                fix="write {} at the place of the class name, as in 'a photo of a {}.'",
            )
        result.append(line)
    if not result:
        raise ClipError(f"{path} contains no prompt template", fix="write one template with {} on each line.")
    return tuple(result)
