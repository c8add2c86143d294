"""What a commit changes in the table of pages: counted as it goes, it is what counting everything gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pagescan.snapshots.digests import empty_table
from pagescan.snapshots.table import PageTable, TableChanges

PAGES = 12


def table_of(numbers: list[int]) -> np.ndarray:
    table = empty_table(len(numbers))
    table["low"], table["high"] = numbers, [number * 2**60 + number for number in numbers]
    return table


def same(one: PageTable, other: PageTable) -> None:
    assert one.digest.tolist() == other.digest.tolist()
    assert one.pack.tolist() == other.pack.tolist()
    assert one.told.tolist() == other.told.tolist()
    assert one.live == other.live
    assert one.total.tolist() == other.total.tolist()


commits = st.tuples(
    st.lists(st.integers(0, 3), min_size=PAGES, max_size=PAGES),  # what the pages hold
    st.integers(0, 5),  # how many of the packs stay
    st.integers(1, 2),  # how many packs are written
    st.booleans(),  # whether pages of zeros are told of
)


@given(st.lists(commits, min_size=1, max_size=6))
def test_changes_add_up(history):
    table = PageTable.empty().resized(PAGES)
    for contents, keep, fresh, told in history:
        new = table_of(contents)
        kept = min(keep, len(table.told))
        before = table.digest.copy(), table.pack.copy()
        differs = table.digest != new
        forced = table.pack >= kept
        named = differs | forced
        zero = np.array(contents) == 0
        changes = TableChanges(table, kept)
        for some in np.array_split(np.flatnonzero(named), 2):
            changes.rehashed(some[differs[some]], new[some[differs[some]]])
            gone = some[zero[some]] if not told else some[:0]
            changes.moved(gone, -1)
        pack = table.pack.copy()
        pack[named & zero] = -1
        for number, some in enumerate(np.array_split(np.flatnonzero(named & (told | ~zero)), fresh)):
            changes.moved(some, kept + number)
            pack[some] = kept + number
        changes.sum_up()
        assert np.array_equal(table.digest, before[0]), "changed before it was to be"
        assert np.array_equal(table.pack, before[1])
        needed = changes.used(kept + fresh)
        assert needed.tolist() == [bool((pack == number).any()) for number in range(kept + fresh)]
        expected = PageTable.of(new, np.append(np.cumsum(needed) - 1, -1).astype(np.int32)[pack], int(needed.sum()))
        same(changes.applied(needed), expected)
        table = changes.applied(needed)
        same(table, expected)


@given(st.integers(0, 2 * PAGES))
def test_table_of_another_length(pages):
    numbers = np.arange(PAGES, dtype=np.int32) % 3 - 1
    table = PageTable.of(table_of(list(range(PAGES))), numbers, 2)
    resized = table.resized(pages)
    kept = min(pages, PAGES)
    assert resized.pack.tolist() == numbers[:kept].tolist() + [-1] * (pages - kept)
    assert resized.live == max(0, kept - 1)
    assert resized.told.sum() == np.count_nonzero(numbers[:kept] >= 0)
    assert table.pack.tolist() == numbers.tolist()
