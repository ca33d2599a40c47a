"""Ladders of successive halving fit their budgets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from richkd.tune.halving import ETA, plan_halving


@given(st.integers(1, 3000), st.integers(1, 300))
def test_a_ladder_fits_its_budget_and_uses_it(budget: int, longest: int) -> None:
    halving = plan_halving(budget, longest)
    assert halving.brackets >= 1
    assert halving.rungs[0] >= 1
    assert halving.rungs[-1] <= min(longest, budget)
    assert list(halving.rungs) == sorted(set(halving.rungs))
    assert halving.epochs <= budget < halving.epochs + halving.bracket_epochs


@given(st.integers(1, 300))
def test_a_large_budget_allows_runs_of_the_full_length(longest: int) -> None:
    halving = plan_halving(30 * longest + 60, longest)
    assert halving.rungs[-1] == longest
    assert len(halving.rungs) == min(3, 1 + sum(longest >= ETA**k for k in (1, 2)))


def test_a_larger_budget_never_means_shorter_runs() -> None:
    ladders = [plan_halving(budget, 18).rungs for budget in range(1, 200)]
    lengths = [(len(rungs), rungs[-1]) for rungs in ladders]
    assert lengths == sorted(lengths)
