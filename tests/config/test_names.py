"""Hints for mistyped names of settings and options."""

from __future__ import annotations

from richkd.config.names import nearest_option, nearest_setting


def test_a_hint_may_have_to_be_similar() -> None:
    assert nearest_setting("optimm", similar=0.7).startswith("Did you mean 'optim'")
    assert nearest_setting("nonsense", similar=0.7) == "`richkd settings` lists all."


def test_dashes_are_shown_and_not_compared() -> None:
    assert nearest_option("--tp", ["--top", "json"]) == "Did you mean '--top'?"
    assert nearest_option("tp", ["top"]) == "Did you mean '--top'?"
    # Two dashes alone are no similarity.
    assert nearest_option("--xyz", ["--out"], "The help lists all.") == nearest_option(
        "xyz", ["out"], "The help lists all."
    )
    assert nearest_setting("dta", ["data"], prefix="--") == "Did you mean '--data'?"
