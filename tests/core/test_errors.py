"""Messages: their three parts, hints at names, and what is said of two class lists that differ."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from richkd.core import errors
from richkd.core.errors import ClassError, ConfigError, DataError, Problems, RichKDError, nearest
from richkd.data.classes import check_same_classes


def test_a_message_has_the_rule_what_was_received_and_a_way_out() -> None:
    error = ConfigError("Argument 'x' must be 1", got="2", fix="write 1.")
    assert str(error) == "Argument 'x' must be 1\nGot: 2\nFix: write 1."
    assert (error.rule, error.got, error.fix) == ("Argument 'x' must be 1", "2", "write 1.")
    assert str(ConfigError("Rule")) == "Rule"
    assert str(ConfigError("Rule", fix="repair.")) == "Rule\nFix: repair."


def test_one_except_catches_them_all() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) == 13
    assert all(issubclass(kind, RichKDError) for kind in kinds)
    assert issubclass(ClassError, DataError)


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DataError("Rule", got="x", fix="y.")))
    assert (type(error), str(error)) == (DataError, "Rule\nGot: x\nFix: y.")
    assert (error.rule, error.got, error.fix) == ("Rule", "x", "y.")


def test_hints_at_names() -> None:
    assert nearest("resnet8", ["resnet18", "vgg11"]) == "Did you mean 'resnet18'?"
    assert nearest("ab1", ["ab2", "ab3", "zz"]) == "Did you mean 'ab2' or 'ab3'?"
    assert nearest("ab", ["ba", "abc"]) == "Did you mean 'ba' or 'abc'?"
    assert nearest("ResNet18", ["resnet18", "vgg11"]) == "Did you mean 'resnet18'?"
    assert nearest("qqq", ["b", "a"]) == "Known: a, b"
    # A name without its prefix.
    others = ["resnet200", "resnet200d", "resnet26", "resnet26d"]
    assert nearest("resnet20", [*others, "cifar_resnet20"]).startswith("Did you mean 'cifar_resnet20'")
    assert nearest("qqq", []) == "No name is known."


def test_a_hint_never_lists_more_than_three_names() -> None:
    assert nearest("name", [f"name{i:02}" for i in range(31)]).count("'") == 6
    assert nearest("qqq", ["a", "b", "c", "d"]) == "4 names are known."
    assert nearest("qqq", ["a", "b", "c", "d"], "`x` lists all.") == "4 names are known. `x` lists all."


@given(st.text(max_size=8), st.lists(st.text(st.characters(categories=["L"]), min_size=1), max_size=8))
def test_names_in_a_hint_are_known_and_few(name: str, known: list[str]) -> None:
    hint = nearest(name, known)
    shown = [one for one in set(known) if f"'{one}'" in hint]
    assert hint.startswith(("Known: ", "No name", f"{len(set(known))} names")) or 1 <= len(shown) <= 3


def test_several_problems_are_one_error() -> None:
    def refuse(error: RichKDError) -> None:
        raise error

    problems = Problems()
    problems.refuse_all()
    one = DataError("Rule 1", got="x", fix="y.")
    assert problems.attempt(refuse, one) is None
    assert problems.attempt(max, 1, 2) == 2
    with pytest.raises(DataError) as caught:
        problems.refuse_all()
    assert caught.value is one
    problems.attempt(refuse, ClassError("Rule 2"))
    with pytest.raises(RichKDError) as several:
        problems.refuse_all()
    assert type(several.value) is RichKDError
    assert str(several.value) == ("2 problems must be corrected\n\n1. Rule 1\nGot: x\nFix: y.\n\n2. Rule 2")
    only = Problems(DataError)
    with pytest.raises(ConfigError):
        only.attempt(refuse, ConfigError("Rule"))


def test_equal_lists_pass() -> None:
    check_same_classes(["a", "b"], ("a", "b"), where="the CLIP outputs")
    check_same_classes([], [], where="the CLIP outputs")


def refusal(expected: list[str], received: list[str]) -> ClassError:
    with pytest.raises(ClassError) as caught:
        check_same_classes(expected, received, where="the teacher", reference="the augmentation")
    return caught.value


def test_another_order_is_told_from_other_names() -> None:
    error = refusal(["a", "b", "c"], ["a", "c", "b"])
    assert error.rule == "The classes of the teacher must be in the order of the augmentation"
    assert error.got == ("first difference at class 1: 'c' where 'b' was expected")
    error = refusal(["a", "b", "c"], ["a", "x", "c"])
    assert error.rule == "The classes of the teacher must be those of the augmentation"
    assert str(error.got).endswith("'x' where 'b' was expected; missing: b; unknown: x")


def test_lists_of_other_lengths() -> None:
    assert "2 classes instead of 1; first difference at class 1: 'b' where nothing was" in str(
        refusal(["a"], ["a", "b"])
    )
    assert "at class 1: nothing where 'b' was expected; missing: b, c" in str(refusal(["a", "b", "c"], ["a"]))
    assert "missing: 0, 1, 2, 3, 4 …" in str(refusal([str(i) for i in range(9)], ["x"]))


@given(st.lists(st.sampled_from("abc"), max_size=5), st.lists(st.sampled_from("abc"), max_size=5))
def test_any_difference_is_refused_at_its_first_place(expected: list[str], received: list[str]) -> None:
    if expected == received:
        check_same_classes(expected, received, where="x")
        return
    error = refusal(expected, received)
    padded = zip([*expected, *["end"] * 5], [*received, *["end"] * 5], strict=False)
    place = next(i for i, (a, b) in enumerate(padded) if a != b)
    assert f"first difference at class {place}:" in str(error.got)
    assert ("order" in error.rule) == (sorted(expected) == sorted(received))
