"""A map to zoom into: fine rows, and gaps as a coarse map cuts them."""

from __future__ import annotations

import numpy as np

from pagescan.analysis import Series, heat
from pagescan.ranges import Regions
from pagescan.reports.grid import fine_heat, heat_over
from pagescan.reports.html_data import packed

PAGE = 4096


def series(*samples):
    regions = [Regions.from_pairs([(low * PAGE, high * PAGE) for low, high in pairs]) for pairs in samples]
    return Series.from_regions(0, np.arange(1, len(regions) + 1) * 10**8, regions)


def test_rows_of_a_band_are_divided_evenly_and_none_is_lost():
    found, heights = fine_heat(series([(100, 164)], [(130, 131)], [(9000, 9001)]), 144, 3)
    # 36 rows: one for the page that stands alone, and 2 pages in each of 32 others, which are halved.
    assert found.rows.pages.tolist() == [1] * 65
    assert np.flatnonzero(found.rows.gap_before).tolist() == [64]
    assert found.pages.sum(axis=0).tolist() == [64, 1, 1]
    assert found.pages[30].tolist() == [1, 1, 0]
    assert heights.tolist() == [0.5] * 64 + [1.0]


def test_sparse_writes_are_not_pushed_together():
    """One page in twenty of one large mapping: with 2,000 rows the gaps between them must still be seen."""
    scattered = [(page, page + 1) for page in range(0, 20_000, 20)]
    found, _ = fine_heat(series(scattered), 2000, 1)
    assert not found.rows.gap_before.any()
    assert int(found.rows.high[-1] - found.rows.low[0]) == 19_981
    assert int((found.pages > 0).sum()) == 1000


def test_nothing_written():
    found, heights = fine_heat(series([], []), 100, 10)
    assert (found.pages.shape, len(heights)) == ((0, 2), 0)


def test_many_bands_apart():
    apart = [(page << 20, (page << 20) + 1) for page in range(1000)]
    found, _ = fine_heat(series(apart), 500, 1)
    assert int(found.pages.sum()) == 1000
    assert len(found.rows) <= 500


def test_packed_numbers_come_back():
    import base64
    import zlib

    values = np.array([[0, 1], [255, 70_000]])
    width, text = packed(values)
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(width, 2, 2).astype(int)
    assert width == 3
    assert (planes[0] + planes[1] * 256 + planes[2] * 65536).tolist() == values.tolist()


def test_same_numbers_as_the_coarse_map(workload):
    """Over the rows of analysis.heat the cells are those of analysis.heat."""
    coarse = heat(workload.series, rows=40, columns=70)
    assert heat_over(workload.series, coarse.rows, 70).pages.tolist() == coarse.pages.tolist()
