"""Imports without searches for garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from richkd.core.quick_imports import quick_imports


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()
    # What the tests loaded stays left out of collections, as `pytest_collection_finish` made it.
    gc.freeze()


def test_the_collector_is_off_inside_and_on_afterwards() -> None:
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_was_made_is_not_searched_again() -> None:
    gc.unfreeze()
    with quick_imports():
        made = [[number] for number in range(1000)]
    assert gc.get_freeze_count() >= len(made)


def test_it_is_on_again_after_an_error_and_stays_off_if_it_was() -> None:
    with pytest.raises(ImportError), quick_imports():
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()
    gc.disable()
    with quick_imports():
        pass
    assert not gc.isenabled()
