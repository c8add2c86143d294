"""A heat map fine enough to zoom into, with its large gaps cut where a coarse one has them.

:func:`pagescan.analysis.address_axis` cuts out gaps at least as large as a row. With a thousand rows that would also
cut out the many small gaps of a mapping that is written to here and there, and addresses would no longer run evenly.
So the bands come from a coarse axis, and its rows are divided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..analysis import AddressAxis, Heat, address_axis, time_axis
from ..analysis.axes import _main_spans
from ..analysis.rates import _covered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..analysis import Series

#: The first so that a row is high enough for a name beside it.
_COARSE = (36, 96, 192, 384, 768)


def fine_heat(series: Series, rows: int, columns: int) -> tuple[Heat, NDArray[np.float64]]:
    """A heat map of at most about ``rows`` x ``columns``, and how high each row is to be drawn.

    The heights are in rows of the coarse axis, of which every band has at least one: so a stack of two pages is seen
    beside a heap of a thousand.
    """
    coarse = _coarse_axis(series, rows)
    fine, heights = _divided(coarse, max(1, rows // max(1, len(coarse))), series)
    return heat_over(series, fine, columns), heights


def _coarse_axis(series: Series, rows: int) -> AddressAxis:
    """The coarsest axis whose rows have no gaps within."""
    for wanted in _COARSE:
        axis = address_axis(series, min(wanted, rows))
        if bool((axis.pages == axis.high - axis.low).all()):
            return axis
    return address_axis(series, rows)


def _divided(axis: AddressAxis, parts: int, series: Series) -> tuple[AddressAxis, NDArray[np.float64]]:
    """Each row cut into at most so many of whole pages; a row with gaps within stays as it is."""
    whole = axis.pages == axis.high - axis.low
    size = max(1, -(-int(axis.pages.max(initial=1)) // parts))
    counts = np.where(whole, -(-axis.pages // size), 1)
    owner = np.repeat(np.arange(len(axis)), counts)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    low = axis.low[owner] + nth * size
    high = np.where(whole[owner], np.minimum(low + size, axis.high[owner]), axis.high[owner])
    pages = np.where(whole[owner], high - low, axis.pages[owner])
    spans = main_spans(low * series.page_size, high * series.page_size, series)
    return AddressAxis(low, high, pages, spans, series.page_size), 1.0 / counts[owner]


def main_spans(low: NDArray[np.int64], high: NDArray[np.int64], series: Series) -> NDArray[np.int64]:
    """For each range of addresses, as for the rows of an axis: the index of the span that fills most of it, or -1."""
    return _main_spans(low, high, series.spans, len(series))


def heat_over(series: Series, down: AddressAxis, columns: int | None) -> Heat:
    """As :func:`pagescan.analysis.heat`, over rows that are given and cover all that was ever written.

    Region by region, not segment by segment: with a thousand columns and a million segments seconds become a tenth.
    """
    across = time_axis(series, columns)
    pages = np.zeros((len(down), len(across)), np.int64)
    # Every page number lies in a row or between two: rows touch where nothing was left out.
    edges = np.union1d(down.low, down.high)
    rows = np.searchsorted(edges, down.low)
    for column in range(len(across) if len(down) else 0):
        part = slice(*series.offsets[across.samples[column : column + 2]])
        pages[:, column] = _covered(edges, series.low[part], series.high[part])[rows]
    return Heat(pages, down, across)
