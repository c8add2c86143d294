"""Heat maps: small ones computed by hand, and the sum that no map may lose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagescan.abi import Mapping
from pagescan.analysis import Series, address_axis, heat, time_axis
from pagescan.errors import InvalidArgument

from .ranges import PAGE, regions

SECOND = 1_000_000_000
FAR = 1 << 24  # pages


def test_two_areas_and_the_gap_between_cut_out() -> None:
    """Pages 0-7 and, far away, page FAR; four rows of three pages at most, a column for each sample."""
    spans = [
        (Mapping(0, 16 * PAGE, "rw-p", name="near"), 0, None),
        (Mapping(FAR * PAGE, (FAR + 9) * PAGE, "rw-p", name="far"), 1, None),
    ]
    written = [regions((0, 8)), regions((2, 4)), regions((3, 4), (FAR, FAR + 1))]
    found = heat(Series.from_regions(0, [SECOND, 2 * SECOND, 4 * SECOND], written, spans), rows=4, columns=None)
    assert found.rows.low.tolist() == [0, 3, 6, FAR]
    assert found.rows.high.tolist() == [3, 6, 8, FAR + 1]
    assert found.rows.pages.tolist() == [3, 3, 2, 1]
    assert found.rows.spans.tolist() == [0, 0, 0, 1]
    assert found.rows.gap_before.tolist() == [False, False, False, True]
    assert found.rows.starts.tolist() == [0, 3 * PAGE, 6 * PAGE, FAR * PAGE]
    assert found.rows.ends.tolist() == [3 * PAGE, 6 * PAGE, 8 * PAGE, (FAR + 1) * PAGE]
    assert found.columns.edges.tolist() == [0, SECOND, 2 * SECOND, 4 * SECOND]
    assert found.pages.tolist() == [[3, 1, 0], [3, 1, 1], [2, 0, 0], [0, 0, 1]]
    assert found.share.tolist() == [[1, 1 / 3, 0], [1, 1 / 3, 1 / 3], [1, 0, 0], [0, 0, 1]]
    assert found.bytes_per_second[1].tolist() == [3 * PAGE, PAGE, PAGE / 2]


def test_columns_of_several_samples() -> None:
    """Five samples in at most two columns: three and two."""
    series = Series.from_regions(10, [11, 12, 13, 15, 18], [regions((n, n + 2)) for n in range(5)])
    found = heat(series, rows=2, columns=2)
    assert found.columns.samples.tolist() == [0, 3, 5]
    assert found.columns.edges.tolist() == [10, 13, 18]
    # Pages 0-5 in rows of three; samples 0 to 2 write 0,1 1,2 2,3 and samples 3 and 4 write 3,4 4,5.
    assert found.pages.tolist() == [[5, 0], [1, 4]]
    assert found.share.tolist() == [[5 / 9, 0], [1 / 9, 4 / 6]]


def test_gaps_smaller_than_a_row_stay() -> None:
    """Every 8th page of 64, in 8 rows: cut to single pages it would fit, too, but the scale would be lost only then."""
    series = Series.from_regions(0, [1], [regions(*((n, n + 1) for n in range(0, 64, 8)))])
    cut = address_axis(series, 16)
    assert cut.low.tolist() == list(range(0, 64, 8))
    assert cut.pages.tolist() == [1] * 8
    # Four rows are too few for eight bands: rows of two pages, each with a gap inside.
    tight = address_axis(series, 4)
    assert tight.low.tolist() == [0, 16, 32, 48]
    assert tight.high.tolist() == [9, 25, 41, 57]
    assert tight.pages.tolist() == [2] * 4
    # Every second page: rows of more than one page span the gaps of one.
    dense = address_axis(Series.from_regions(0, [1], [regions(*((n, n + 1) for n in range(0, 64, 2)))]), 8)
    assert dense.low.tolist() == list(range(0, 64, 8))
    assert dense.pages.tolist() == [8] * 7 + [7]


def test_nothing_written_and_nothing_recorded() -> None:
    quiet = heat(Series.from_regions(0, [5, 9], [regions(), regions()]))
    assert quiet.pages.shape == quiet.share.shape == (0, 2)
    empty = heat(Series.from_regions(0, [], []))
    assert empty.pages.shape == (0, 0)
    assert empty.columns.edges.tolist() == [0]


def test_a_row_in_no_mapping_and_one_that_changes_hands() -> None:
    """The mapping that lay there longest names the row."""
    spans = [(Mapping(0, PAGE, "rw-p", name="short"), 0, 1), (Mapping(0, PAGE, "rw-p", name="long"), 1, None)]
    series = Series.from_regions(0, [1, 2, 3], [regions((0, 1), (FAR, FAR + 1))] * 3, spans)
    assert address_axis(series, 8).spans.tolist() == [1, -1]


def test_arguments_that_cannot_be() -> None:
    series = Series.from_regions(0, [1], [regions((0, 1))])
    with pytest.raises(InvalidArgument, match="rows = 0"):
        heat(series, rows=0)
    with pytest.raises(InvalidArgument, match="columns = 0"):
        time_axis(series, 0)


RANGES = st.lists(st.tuples(st.integers(0, 200) | st.integers(0, 1 << 40), st.integers(1, 30)), max_size=6)


@given(st.lists(RANGES, min_size=1, max_size=8), st.integers(1, 12), st.integers(1, 9))
def test_no_page_is_lost_and_no_limit_passed(samples: list[list[tuple[int, int]]], rows: int, columns: int) -> None:
    written = [regions(*((low, low + size) for low, size in ranges)) for ranges in samples]
    found = heat(Series.from_regions(0, range(1, len(written) + 1), written), rows=rows, columns=columns)
    down, across = found.pages.shape
    assert down <= rows
    assert across <= columns
    assert (found.rows.low[1:] >= found.rows.high[:-1]).all()
    for column in range(across):
        own = written[found.columns.samples[column] : found.columns.samples[column + 1]]
        for row in range(down):
            cell = regions((int(found.rows.low[row]), int(found.rows.high[row])))
            assert found.pages[row, column] == sum((value & cell).page_count for value in own)
    assert found.pages.sum() == sum(value.page_count for value in written)
    assert np.all(found.share <= 1)
