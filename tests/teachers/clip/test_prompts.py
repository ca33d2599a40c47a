from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from richkd.core.errors import ClassError, ClipError
from richkd.data.classes import clean_name
from richkd.teachers.clip.prompts import build_prompts, load_class_prompts, load_names, templates

NAMES = ["aquarium_fish", "apple", "Sea_Horse"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aquarium_fish", "aquarium fish"),
        ("  a__b \t c_ ", "a b c"),
        ("Sea_Horse", "Sea Horse"),
        ("apple", "apple"),
    ],
)
def test_clean_name(name: str, expected: str) -> None:
    assert clean_name(name) == expected


@given(st.text())
def test_clean_name_settles_in_one_step(name: str) -> None:
    once = clean_name(name)
    assert clean_name(once) == once
    assert "_" not in once
    assert "  " not in once


@pytest.mark.parametrize(
    ("spec", "count", "first"),
    [
        ("simple", 1, "a photo of a {}."),
        ("paper", 12, "a photo of a {}"),
        ("openai", 80, "a bad photo of a {}."),
    ],
)
def test_presets(spec: str, count: int, first: str) -> None:
    result = templates(spec)
    assert len(set(result)) == len(result) == count
    assert result[0] == first
    assert all(template.count("{}") == 1 for template in result)


def test_templates_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\ufeff# photos\n\na photo of a {}.\n  a {} outdoors  \n", encoding="utf-8")
    assert templates(str(path)) == ("a photo of a {}.", "a {} outdoors")


@pytest.mark.parametrize("line", ["a photo", "a {} and a {}", "a {name}", "a {} with {x}", "a {} }"])
def test_a_bad_template_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(f"# photos\na photo of a {{}}.\n{line}\n")
    with pytest.raises(ClipError, match=r"mine\.txt, line 3"):
        templates(str(path))


def test_template_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="Did you mean 'paper'"):
        templates("papper")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ClipError, match="no prompt template"):
        templates(str(tmp_path / "empty.txt"))
    (tmp_path / "latin.txt").write_bytes("a phöto of a {}".encode("latin-1"))
    with pytest.raises(ClipError, match="cannot be read"):
        templates(str(tmp_path / "latin.txt"))


def test_class_prompts_fill_every_template_in_order() -> None:
    assert build_prompts(NAMES, ["a {}.", "the {}"]) == [
        ["a aquarium fish.", "the aquarium fish"],
        ["a apple.", "the apple"],
        ["a Sea Horse.", "the Sea Horse"],
    ]


def test_prompts_of_one_class_replace_the_templates() -> None:
    class_prompts = {"aquarium_fish": ["a goldfish in a tank", "a {} at home"]}
    result = build_prompts(NAMES, ["a {}."], class_prompts)
    assert result[0] == ["a goldfish in a tank", "a aquarium fish at home"]
    assert result[1] == ["a apple."]


def test_classes_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ClassError, match=r"'sea_horse' and 'sea  horse'"):
        build_prompts(["sea_horse", "x", "sea  horse"], ["a {}"])
    with pytest.raises(ClassError, match="Class 1 has an empty name"):
        build_prompts(["x", "_"], ["a {}"])
    with pytest.raises(ClipError, match="'a' and 'b'"):
        build_prompts(["a", "b"], ["a {}"], {"a": ["one", "two"], "b": ["two", "one"]})
    with pytest.raises(ClipError, match="class 'a' without one"):
        build_prompts(["a", "b"], [])


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_class_prompts_from_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"prompts{suffix}"
    content = {"aquarium fish": ["a goldfish", "a {}"], "Sea_Horse": ["a fish  that stands\nupright"]}
    path.write_text(json.dumps(content) if suffix == ".json" else "aquarium fish:\n- a goldfish\n- a {}\n")
    result = load_class_prompts(path, NAMES)
    assert result["aquarium_fish"] == ["a goldfish", "a {}"]
    if suffix == ".json":
        assert result["Sea_Horse"] == ["a fish that stands upright"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aple: [a fruit]", r"'aple'(.|\n)*Did you mean 'apple'"),
        ("apple: a fruit", "must be a list of sentences"),
        ("apple: []", "must be a list of sentences"),
        ("apple: ['']", "must be a list of sentences"),
        ("apple: [1]", "must be a list of sentences"),
        ("apple: ['a {}', 'a photo of {name}']", "no brace except(.|\n)*Got: 'a photo of {name}'"),
        ("apple: ['a { }']", "no brace except"),
        ("apple: ['a {{}}']", "no brace except"),
        ("no: [a refusal]", "quote it"),
        ("[apple]", "must map class names"),
        ("apple: [a", "not valid YAML"),
        ("apple: [a]\napple: [b]", "'apple' appears twice"),
        ("aquarium_fish: [a]\naquarium fish: [b]", "each class once(.|\n)*'aquarium_fish' twice"),
        ("? [a]\n: [b]", "not valid YAML"),
    ],
)
def test_class_prompt_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(ClipError, match=message):
        load_class_prompts(path, NAMES)


def test_json_is_as_strict_as_yaml(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text('{"apple": ["a"], "apple": ["b"]}')
    with pytest.raises(ClipError, match="'apple' appears twice"):
        load_class_prompts(path, NAMES)
    with pytest.raises(ClipError, match="cannot be read"):
        load_class_prompts(tmp_path / "absent.json", NAMES)


def test_names_for_clip_and_superclasses_fill_templates(tmp_path: Path) -> None:
    file = tmp_path / "names.yaml"
    file.write_text("crane: crane bird\n", encoding="utf-8")
    outputs = load_names(file, ["crane", "red_fox"])
    assert outputs == {"crane": "crane bird"}
    result = build_prompts(
        ["crane", "red_fox"], ["a {}, a kind of {super}"], {}, outputs, ["big_bird", "mammal"]
    )
    assert result == [["a crane bird, a kind of big bird"], ["a red fox, a kind of mammal"]]
    with pytest.raises(ClipError, match="superclasses"):
        build_prompts(["crane"], ["a {}, a kind of {super}"])
    with pytest.raises(ClassError, match="must differ"):
        build_prompts(["crane", "fox"], ["a {}"], {}, {"crane": "fox"})


def test_prompts_of_one_class_may_have_its_superclass(tmp_path: Path) -> None:
    file = tmp_path / "prompts.yaml"
    file.write_text("crane: ['a {}, a kind of {super}']", encoding="utf-8")
    class_prompts = load_class_prompts(file, ["crane", "red_fox"])
    result = build_prompts(["crane", "red_fox"], ["the {}"], class_prompts, {}, ["big_bird", "mammal"])
    assert result == [["a crane, a kind of big bird"], ["the red fox"]]
    with pytest.raises(ClipError, match=r"superclasses(.|\n)*'a \{\}, a kind of \{super\}'"):
        build_prompts(["crane", "red_fox"], ["the {}"], class_prompts)


def test_braces_of_a_class_of_the_data_stay() -> None:
    assert build_prompts(["{super}", "{}"], ["a {}"]) == [["a {super}"], ["a {}"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("crain: x", "Did you mean 'crane'"),
        ("crane: [x]", "must map"),
        ("crane: ''", "must map"),
        ("- x", "must map"),
        ("red fox: x\nred_fox: y", "each class once(.|\n)*'red_fox' twice"),
        ("crane: 'a {super} x'", "must not contain a brace"),
        ("crane: '{}'", "must not contain a brace"),
    ],
)
def test_names_for_clip_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "names.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ClipError, match=words):
        load_names(file, ["crane", "fox", "red_fox"])
