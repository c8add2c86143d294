"""The flat form of a series: ranks, segments, and where it comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagescan.analysis import Series
from pagescan.analysis.series import expand, ranked
from pagescan.errors import InvalidArgument
from pagescan.ranges import Regions
from pagescan.recording import Recording

from ..recording.samples import HEAP, MS, three
from .ranges import PAGE, regions


@given(st.lists(st.integers(0, 3000) | st.integers(0, 1 << 52), max_size=60))
def test_ranks_are_those_of_numpy(values: list[int]) -> None:
    array = np.array(values, np.int64)
    distinct, places = ranked(array)
    wanted, wanted_places = np.unique(array, return_inverse=True)
    assert distinct.tolist() == wanted.tolist()
    assert places.tolist() == wanted_places.tolist()


def test_segments() -> None:
    series = Series.from_regions(0, [1, 2, 3], [regions((2, 6)), regions((4, 8), (20, 21)), regions()])
    segments = series.segments
    assert segments.edges.tolist() == [2, 4, 6, 8, 20, 21]
    assert segments.pages.tolist() == [2, 2, 2, 12, 1]
    assert segments.counts().tolist() == [1, 2, 1, 0, 1]
    assert segments.counts(1, 2).tolist() == [0, 1, 1, 0, 1]
    assert segments.counts(2).tolist() == [0, 0, 0, 0, 0]
    low, high = segments.written()
    assert (low.tolist(), high.tolist()) == ([2, 20], [8, 21])


def test_expand() -> None:
    assert expand(np.array([5, 0, 9]), np.array([8, 0, 10])).tolist() == [5, 6, 7, 9]
    assert expand(np.array([], np.int64), np.array([], np.int64)).tolist() == []


def test_from_a_recording(tmp_path: Path) -> None:
    three(tmp_path / "r").close()
    with Recording.open(tmp_path / "r") as recording:
        series = Series.of(recording)
    assert series.edges.tolist() == [1000 * MS, 1100 * MS, 1200 * MS, 1300 * MS]
    assert series.low.tolist() == [16, 19, 32, 0x7F0000000]
    assert series.high.tolist() == [18, 20, 33, 0x7F0000001]
    assert series.offsets.tolist() == [0, 2, 2, 4]
    assert series.spans[0] == (HEAP, 0, 1)
    assert (len(series), series.duration_ns, series.page_size) == (3, 300 * MS, 4096)


def test_a_page_that_is_only_touched_counts_whole() -> None:
    series = Series.from_regions(0, [1], [Regions([(PAGE + 5, 2 * PAGE + 1, 0)])])
    assert (series.low.tolist(), series.high.tolist()) == ([1], [3])


def test_values_that_are_no_series() -> None:
    with pytest.raises(InvalidArgument, match="2 times, and 1 regions"):
        Series.from_regions(0, [1, 2], [regions()])
    with pytest.raises(InvalidArgument, match="descend"):
        Series.from_regions(5, [4], [regions()])
    with pytest.raises(InvalidArgument, match="page sizes"):
        Series.from_regions(0, [1, 2], [regions(), Regions.empty(page_size=8192)])
