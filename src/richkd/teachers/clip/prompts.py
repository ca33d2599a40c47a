"""Build the prompts of CLIP from class names and templates. No model is needed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return _read_templates(Path(spec).expanduser())


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
        ClipError: a class has no prompt, two classes have the same prompts, or a template needs superclasses
            that are not given.

    Example:
        >>> build_prompts(["red_fox", "crane"], ["a {}", "the {}"], renamed={"crane": "crane bird"})
        [['a red fox', 'the red fox'], ['a crane bird', 'the crane bird']]
    """
    renamed, per_class = renamed or {}, per_class or {}
    cleaned = _distinct_names([renamed.get(name, name) for name in class_names])
    parents = [clean_name(name) for name in superclasses] if superclasses else [SUPER] * len(class_names)
    if not superclasses and any(SUPER in sentence for sentence in templates):
        raise ClipError(
            f"A template with {SUPER} needs the superclasses of the classes",
            got="no superclasses",
            fix="add --data.hierarchy FILE.",
        )
    prompts = [
        [prompt.replace("{}", text).replace(SUPER, parent) for prompt in per_class.get(name, templates)]
        for name, text, parent in zip(class_names, cleaned, parents, strict=True)
    ]
    owner: dict[frozenset[str], str] = {}
    for name, sentences in zip(class_names, prompts, strict=True):
        if not sentences:
            raise ClipError(
                f"Every class needs a prompt; class '{name}' has none",
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

    A prompt may contain ``{}`` as the placeholder of the class name. The file may omit classes. Class names
    may be written with spaces or underscores.

    Raises:
        ClipError: the file cannot be read, has another structure, or contains an unknown class.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "prompts.yaml"
        ...     size = path.write_text("red fox: ['a {} in the snow']", encoding="utf-8")
        ...     load_class_prompts(path, ["red_fox", "crane"])
        {'red_fox': ['a {} in the snow']}
    """
    path = Path(path).expanduser()
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
        name = known.get(clean_name(key))
        if name is None:
            raise ClipError(
                f"{path} must contain only classes of the data",
                got=f"'{key}'",
                fix=hint_at_class(clean_name(key), known),
            )
        if name in result:
            raise ClipError(f"{path} names class '{name}' twice", fix="keep one of the entries.")
        valid = isinstance(sentences, list) and all(isinstance(s, str) and s.strip() for s in sentences)
        if not sentences or not valid:
            raise ClipError(
                f"The prompts of class '{key}' in {path} must be a list of sentences",
                got=repr(sentences),
                fix="write them as [sentence, sentence], or omit the class to use the templates.",
            )
        result[name] = [" ".join(sentence.split()) for sentence in sentences]
    return result


def load_names(path: str | Path, class_names: Sequence[str]) -> dict[str, str]:
    """Read names to use in prompts from a YAML or JSON file: ``{class name: name in prompts}``.

    Raises:
        ClipError: the file cannot be read, has another structure, or contains an unknown class.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "names.yaml"
        ...     size = path.write_text("crane: crane bird", encoding="utf-8")
        ...     load_names(path, ["red_fox", "crane"])
        {'crane': 'crane bird'}
    """
    path = Path(path).expanduser()
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
    for name in content:
        if clean_name(str(name)) not in known:
            raise ClipError(
                f"{path} must contain only classes of the data",
                got=repr(name),
                fix=hint_at_class(str(name), class_names),
            )
    return {known[clean_name(str(name))]: renamed for name, renamed in content.items()}


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
                fix="write {} at the place of the class name, as in 'a photo of a {}.'",
            )
        result.append(line)
    if not result:
        raise ClipError(f"{path} contains no prompt template", fix="write one template with {} on each line.")
    return tuple(result)
