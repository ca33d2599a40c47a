"""JSON and YAML of users: what is refused, with the line, and what equals the standard readers."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from richkd.core.structured import lines_of, parse_json, parse_yaml

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc: -#", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(plain)
def test_valid_texts_are_read_as_by_the_standard_readers(value: object) -> None:
    text = yaml.safe_dump(value)
    assert parse_yaml(text) == yaml.safe_load(text) == value
    assert parse_json(json.dumps(value)) == value


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGED_LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "aliases"),
        (MERGED_LAUGHS, "aliases"),
        ("a: &a [*a]", "line 1: a value must not contain itself"),
        ("a: &a\n  b: *a", "must not contain itself"),
        ("optim:\n  lr: 1\n  momentum: 0\n  lr: 2", "line 4: 'lr' appears twice, first in line 2"),
        ("1: a\n1.0: b", "line 2: 1.0 appears twice"),
        ("- [{a: 1, a: 2}]", "'a' appears twice"),
        ("? [a]\n: b", "line 1: a key must be text or a number"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ("[" * 5000, "nested too deeply"),
        ("a: " * 3 + "[", "line 1"),
        ("!!int ''", "cannot be read"),
        ("!!bool maybe", "cannot be read"),
        ("!!timestamp soon", "cannot be read"),
        ("2024-99-99", "month"),
        ("9" * 5000, "digits"),
        ("a: b\x00", "special characters"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 2", "expected a single document"),
    ],
    ids=lambda value: value[:20],
)
def test_hostile_yaml_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse_yaml(text)
    assert words in str(caught.value)


def test_merge_keys_override_at_any_depth_and_are_no_duplicates() -> None:
    text = "z: {b: &b {<<: {x: 1, y: 1}, x: 2}}\nc: {<<: *b, y: 3}\nd: {<<: [*b, {y: 4, w: 5}]}"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None


def test_hostile_json_is_refused_in_words() -> None:
    for text, words in (
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('[{"a": 1, "a": 2}]', "'a' appears twice"),
        ("9" * 5000, "digits"),
        (b"\xff\xfe{", "codec"),
        ("", "Expecting value"),
    ):
        with pytest.raises(ValueError, match=r"\w") as caught:
            parse_json(text)
        assert words in str(caught.value)


def test_lines_of_keys_and_items() -> None:
    text = "# plan\nbase:\n  data: {path: x}\nseeds:\n  - 0\n  - 1\nmore: {<<: {a: 1}, b: 2}\n"
    lines = lines_of(text)
    assert lines[("base", "data", "path")] == 3
    assert (lines[("seeds",)], lines[("seeds", "1")]) == (4, 6)
    assert lines[("more", "a")] == lines[("more", "b")] == 7
    assert lines_of("") == {}
    with pytest.raises(ValueError, match="line 2: 'a' appears twice"):
        lines_of("a: 1\na: 2")
