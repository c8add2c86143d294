"""The strategies make what they say."""

from __future__ import annotations

import pytest
from hypothesis import find, given

import pagescan.testing
from pagescan.testing import histories, queries, regions


@given(regions(max_pages=10, start=1 << 20))
def test_regions_are_whole_pages_in_their_range(found):
    assert (found.starts % 4096 == 0).all()
    assert (found.ends % 4096 == 0).all()
    assert not found or (found.starts[0] >= 1 << 20 and found.ends[-1] <= (1 << 20) + 10 * 4096)


@given(histories(5, droppable=False))
def test_histories_stay_within_the_memory(steps):
    for step in steps:
        assert 0 <= step.first < step.first + step.count <= 5
        assert 1 <= step.value <= 255
        assert step.what != "drop"


def test_queries_hold_ordinary_ones_and_such_as_never_match():
    assert find(queries(), lambda query: bool(query.required & query.excluded)).impossible
    assert not find(queries(), lambda query: bool(query.anyof) and not query.excluded).impossible


def test_the_package_names_what_it_has():
    for name in pagescan.testing.__all__:
        assert getattr(pagescan.testing, name).__doc__
    with pytest.raises(AttributeError, match="no_such"):
        _ = pagescan.testing.no_such
