"""Find class names that CLIP is likely to misunderstand: codes, numbers and homonyms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from richkd.data.classes import clean_name

# A WordNet offset, which is the name of a class folder in ImageNet.
WORDNET = re.compile(r"n\d{8}")
# Other codes: up to three letters with digits, such as "cls_07" or "id12".
CODE = re.compile(r"[a-z]{0,3}[\W_]*\d+[a-z]?", re.IGNORECASE)
# Common class names with two meanings that both occur in photos.
HOMONYMS = {
    "apple": "the fruit or the company",
    "bass": "the fish or the instrument",
    "bat": "the animal or the club",
    "board": "a plank, a panel or a committee",
    "bow": "the weapon, the knot or a ship's front",
    "bug": "an insect or a device",
    "cardinal": "the bird or the priest",
    "cell": "a phone, a prison room or a biological cell",
    "crane": "the bird or the machine",
    "date": "the fruit or the calendar",
    "drill": "the tool or the monkey",
    "fan": "the machine or a supporter",
    "file": "the tool or a folder",
    "jaguar": "the animal or the car",
    "kite": "the toy or the bird",
    "mole": "the animal or a spot on skin",
    "mouse": "the animal or the computer device",
    "mustang": "the horse or the car",
    "nail": "a fingernail or an iron nail",
    "nut": "the fruit or the fastener",
    "orange": "the fruit or the color",
    "palm": "the tree or the hand",
    "pitcher": "the jug or the player",
    "plant": "the organism or a factory",
    "pool": "a swimming pool or the game",
    "punch": "the tool, the drink or the blow",
    "ray": "the fish or light",
    "ring": "jewelry or a boxing ring",
    "rock": "a stone or the music",
    "ruler": "the measuring tool or a monarch",
    "saw": "the tool or the past tense of see",
    "seal": "the animal or a stamp",
    "spring": "the season, a coil or water",
    "squash": "the vegetable or the sport",
    "tank": "the vehicle or a container",
    "trunk": "a part of a tree, an elephant or a car",
    "turkey": "the bird or the country",
    "watch": "a clock or the verb",
}


@dataclass(frozen=True)
class NameAdvice:
    """A class name that CLIP may misunderstand, the reason, and how to fix it.

    Example:
        >>> NameAdvice("7", "a number or a code", "use a word.").problem
        'a number or a code'
    """

    class_name: str
    problem: str
    advice: str


def advise_on_names(class_names: Sequence[str]) -> list[NameAdvice]:
    """Find class names that CLIP may misunderstand, in the order of ``class_names``.

    Returns:
        Advice for each such name; an empty list if there is none.

    Example:
        >>> [(advice.class_name, advice.problem) for advice in advise_on_names(["tabby cat", "crane"])]
        [('crane', 'ambiguous (the bird or the machine)')]
    """
    advice: list[NameAdvice] = []
    owner: dict[str, str] = {}
    for name in class_names:
        text = clean_name(name)
        first = owner.setdefault(text.casefold(), name)
        if first != name:
            problem = f"reads the same as '{first}'"
            advice.append(NameAdvice(name, problem, "give them different names with --clip.rename_classes."))
        elif problem_and_advice := _problem_and_advice(text):
            advice.append(NameAdvice(name, *problem_and_advice))
    return advice


def _problem_and_advice(text: str) -> tuple[str, str] | None:
    if WORDNET.fullmatch(text):
        problem = "a WordNet code, which the captions that CLIP was trained on do not contain"
        return problem, "replace it by its word with --clip.rename_classes."
    if CODE.fullmatch(text):
        return "a number or a code", "replace it by a word with --clip.rename_classes."
    if len(text) < 3:
        return "too short for a name", "write the full name with --clip.rename_classes."
    if meanings := HOMONYMS.get(text.casefold()):
        advice = f"make it unambiguous with --clip.rename_classes: '{text}, a kind of …'."
        return f"ambiguous ({meanings})", advice
    return None
