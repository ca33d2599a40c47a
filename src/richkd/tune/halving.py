"""Successive halving: many short runs, then longer runs of the best of them.

Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
AISTATS 2016.
"""

from __future__ import annotations

from dataclasses import dataclass

from richkd.core.visible import counted

# A third of the runs goes on, three times as long.
ETA = 3
# Numbers of lengths: more make the shortest runs too short to say anything.
MOST_RUNGS = 3


@dataclass(frozen=True)
class Halving:
    """The runs of one search.

    Attributes:
        rungs: numbers of epochs, from the shortest to the longest.
        brackets: how often the whole ladder is climbed.

    The first trial, which has the settings of the plan, goes on whatever its figure is: its longest run says
    what the search was worth.

    Example:
        >>> halving = Halving(rungs=(2, 6, 18), brackets=2)
        >>> halving.widths, halving.bracket_epochs, halving.epochs
        ((9, 3, 1), 54, 132)
    """

    rungs: tuple[int, ...]
    brackets: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of runs of each length in a bracket."""
        return tuple(ETA ** (len(self.rungs) - 1 - place) for place in range(len(self.rungs)))

    @property
    def bracket_epochs(self) -> int:
        """Epochs of a bracket."""
        return sum(width * epochs for width, epochs in zip(self.widths, self.rungs, strict=True))

    @property
    def epochs(self) -> int:
        """Epochs of the whole search, if the first trial is never one of those that go on."""
        return self.brackets * self.bracket_epochs + self.first_epochs

    @property
    def in_words(self) -> str:
        """The runs of a method, for people.

        Example:
            >>> Halving((2, 6, 18), 3).in_words
            '3 times: 9 runs of 2 epochs, 3 of 6, 1 of 18; at most 186 epochs'
            >>> Halving((6,), 1).in_words
            '1 run of 6 epochs'
        """
        (runs, epochs), *longer = zip(self.widths, self.rungs, strict=True)
        rungs = ", ".join(
            [f"{counted(runs, 'run')} of {counted(epochs, 'epoch')}", *(f"{w} of {e:,}" for w, e in longer)]
        )
        if runs * self.brackets == 1:
            return rungs
        times = "" if self.brackets == 1 else f"{self.brackets:,} times: "
        return f"{times}{rungs}; at most {counted(self.epochs, 'epoch')}"

    @property
    def first_epochs(self) -> int:
        """Epochs of the longer runs of the first trial."""
        return sum(self.rungs[1:])


def plan_halving(budget: int, longest: int) -> Halving:
    """The ladder with the longest runs that a budget allows, climbed as often as it allows.

    Runs are shorter than ``longest`` if the budget is too small for a bracket of that length, and there are
    fewer lengths if it is still too small.

    Args:
        budget: epochs of all runs together.
        longest: epochs of the longest runs.

    Example:
        >>> plan_halving(200, 18)
        Halving(rungs=(2, 6, 18), brackets=3)
        >>> plan_halving(40, 18)
        Halving(rungs=(1, 3, 9), brackets=1)
        >>> plan_halving(10, 18)
        Halving(rungs=(1, 3), brackets=1)
        >>> plan_halving(2, 18)
        Halving(rungs=(2,), brackets=1)
    """
    assert min(budget, longest) >= 1, (budget, longest)
    for lengths in range(MOST_RUNGS, 1, -1):
        for last in range(min(longest, budget), ETA ** (lengths - 1) - 1, -1):
            rungs = tuple(last // ETA ** (lengths - 1 - place) for place in range(lengths))
            one = Halving(rungs, 1)
            if one.epochs <= budget:
                return Halving(rungs, (budget - one.first_epochs) // one.bracket_epochs)
    return Halving((min(longest, budget),), budget // min(longest, budget))
