"""Pages written to never, once, and repeatedly; and the written working set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagescan.abi import Mapping
from pagescan.analysis import Series, window_samples, working_set, write_counts
from pagescan.errors import InvalidArgument

from .ranges import PAGE, regions

#: Four samples over pages 0 to 9: page 0 in all, 1-2 in two, 5 in one; 3-4 in the first and the last.
WRITTEN = [regions((0, 1), (3, 5)), regions((0, 3)), regions((0, 3), (5, 6)), regions((0, 1), (3, 5))]
HALF = [
    (Mapping(0, 8 * PAGE, "rw-p"), 0, 2),
    (Mapping(4 * PAGE, 10 * PAGE, "rw-p"), 2, None),
    (Mapping(10 * PAGE, 99 * PAGE, "r--p"), 0, None),
]


def test_counts_by_hand() -> None:
    counts = write_counts(Series.from_regions(0, [1, 2, 3, 4], WRITTEN, HALF))
    # Of the writable pages 0 to 9, pages 6 to 9 were not written.
    assert counts.pages.tolist() == [4, 1, 4, 0, 1]
    assert (counts.never, counts.once, counts.repeatedly) == (4, 1, 5)
    assert (counts.low.tolist(), counts.high.tolist()) == ([0, 1, 5], [1, 5, 6])
    assert counts.counts.tolist() == [4, 2, 1]
    assert counts.hottest(2) == [(0, PAGE, 4), (PAGE, 5 * PAGE, 2)]


def test_counts_of_nothing() -> None:
    quiet = write_counts(Series.from_regions(0, [1], [regions()], HALF))
    assert (quiet.pages.tolist(), quiet.once, quiet.repeatedly, quiet.hottest()) == ([10, 0], 0, 0, [])
    empty = write_counts(Series.from_regions(0, [], []))
    assert (empty.never, empty.once, empty.repeatedly) == (0, 0, 0)


def test_written_pages_of_no_writable_mapping_do_not_lessen_never() -> None:
    counts = write_counts(Series.from_regions(0, [1], [regions((8, 12))], HALF))
    assert (counts.never, counts.once) == (8, 4)


def test_working_set_by_hand() -> None:
    found = working_set(Series.from_regions(0, [1, 2, 3, 4], WRITTEN), (1, 2, 3, 9))
    assert found.pages.tolist() == [
        [3, 3, 4, 3],  # each sample's own pages
        [3, 5, 4, 6],  # 0,3,4 | 0,1,2,3,4 | 0,1,2,5 | 0,1,2,3,4,5
        [3, 5, 6, 6],
        [3, 5, 6, 6],
    ]
    assert found.full(1).tolist() == [5, 4, 6]
    assert found.full(3).tolist() == []


def test_working_set_of_nothing() -> None:
    assert working_set(Series.from_regions(0, [], []), (1,)).pages.shape == (1, 0)
    assert working_set(Series.from_regions(0, [3], [regions()]), (1, 5)).pages.tolist() == [[0], [0]]
    with pytest.raises(InvalidArgument, match="at least one sample"):
        working_set(Series.from_regions(0, [], []), (0,))


@given(st.lists(st.sets(st.integers(0, 12)), max_size=10), st.lists(st.integers(1, 12), max_size=3))
def test_working_set_as_counted_with_sets(samples: list[set[int]], windows: list[int]) -> None:
    series = Series.from_regions(0, range(len(samples)), [regions(*((p, p + 1) for p in s)) for s in samples])
    wanted = [
        [len(set().union(*samples[max(0, n - window + 1) : n + 1])) for n in range(len(samples))] for window in windows
    ]
    assert working_set(series, windows).pages.tolist() == wanted
    counted = write_counts(series)
    times = [sum(page in sample for sample in samples) for page in range(13)]
    assert counted.pages.tolist()[1:] == [times.count(k) for k in range(1, len(samples) + 1)]


def test_windows_in_samples() -> None:
    series = Series.from_regions(0, [100, 201, 299, 900], [regions()] * 4)
    assert [window_samples(series, ns) for ns in (1, 150, 250, 1000)] == [1, 1, 2, 10]
    assert window_samples(Series.from_regions(0, [], []), 1000) == 1
