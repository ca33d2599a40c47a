"""What a CLIP will make of class names: codes, numbers and homonyms, found before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from richkd.data.classes import clean_name

# A WordNet offset, as ImageNet's folders are called.
WORDNET = re.compile(r"n\d{8}")
# Other codes: letters and digits glued together, as "cls_07", "A380-2" or "id12".
CODE = re.compile(r"[a-z]{0,3}[\W_]*\d+[a-z]?", re.IGNORECASE)
# Common class names of two unlike things, both of which people photograph, and what CLIP may take them for.
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
    "mouse": "the animal or the computer's",
    "mustang": "the horse or the car",
    "nail": "of a finger or of iron",
    "nut": "the fruit or the fastener",
    "orange": "the fruit or the color",
    "palm": "the tree or the hand",
    "pitcher": "the jug or the player",
    "plant": "something that grows or a factory",
    "pool": "for swimming or the game",
    "punch": "the tool, the drink or the blow",
    "ray": "the fish or light",
    "ring": "jewellery or a boxing ring",
    "rock": "a stone or the music",
    "ruler": "for measuring or a sovereign",
    "saw": "the tool or a past tense",
    "seal": "the animal or a stamp",
    "spring": "the season, a coil or water",
    "squash": "the vegetable or the sport",
    "tank": "the vehicle or a container",
    "trunk": "of a tree, an elephant or a car",
    "turkey": "the bird or the country",
    "watch": "a clock, or looking at",
}


@dataclass(frozen=True)
class NameAdvice:
    """A class whose name may mislead a CLIP, why, and what to do."""

    class_name: str
    problem: str
    advice: str


def advise_on_names(class_names: Sequence[str]) -> list[NameAdvice]:
    """What to look at in class names, in their order; empty where all read like names of things."""
    advice, owner = [], dict[str, str]()
    for name in class_names:
        shown = clean_name(name)
        first = owner.setdefault(shown.casefold(), name)
        if first != name:
            problem = f"reads like '{first}'"
            advice.append(NameAdvice(name, problem, "say what sets them apart, with --clip.rename_classes."))
        elif WORDNET.fullmatch(shown):
            problem = "a WordNet code, which CLIP has never read beside a picture"
            advice.append(NameAdvice(name, problem, "give the word behind it, with --clip.rename_classes."))
        elif CODE.fullmatch(shown):
            problem = "a number or a code"
            advice.append(NameAdvice(name, problem, "give a name of the thing, with --clip.rename_classes."))
        elif len(shown) < 3:
            problem = "too short to name a thing"
            advice.append(NameAdvice(name, problem, "write it out, with --clip.rename_classes."))
        elif shown.casefold() in HOMONYMS:
            problem = f"{HOMONYMS[shown.casefold()]}?"
            fix = f"tell CLIP which, with --clip.rename_classes: '{shown}, a kind of …'."
            advice.append(NameAdvice(name, problem, fix))
    return advice
