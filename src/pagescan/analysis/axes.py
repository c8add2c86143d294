"""The two axes of a heat map: which addresses a row stands for, and which time a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .series import Series, Span


@dataclass(frozen=True, eq=False, slots=True)
class TimeAxis:
    """Columns of whole samples: column c has the samples ``samples[c]`` to before ``samples[c + 1]``.

    Attributes:
        edges: int64, one more than columns: nanoseconds on the monotonic clock.
        samples: int64, one more than columns: sample numbers.
    """

    edges: NDArray[np.int64]
    samples: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.samples) - 1

    @property
    def seconds(self) -> NDArray[np.float64]:
        """How long each column lasts."""
        return np.diff(self.edges) / 1e9


def time_axis(series: Series, columns: int | None = None) -> TimeAxis:
    """At most ``columns`` columns of equally many samples each (the last may have fewer); None: one a sample."""
    if columns is not None and columns < 1:
        raise InvalidArgument(f"columns = {columns}: at least one is needed")
    step = max(1, -(-len(series) // (columns or max(1, len(series)))))
    samples = np.append(np.arange(0, len(series), step), len(series)).astype(np.int64)
    return TimeAxis(series.edges[samples], samples)


@dataclass(frozen=True, eq=False, slots=True)
class AddressAxis:
    """Rows of addresses, ascending; large gaps in which nothing was ever written lie between rows, not in them.

    Attributes:
        low, high: int64, one element a row: its first page number, and one past its last.
        pages: int64: pages the row stands for; less than ``high - low`` if gaps were cut out within it, too.
        spans: int64: index into the series' ``spans`` of the mapping that fills most of the row, or -1.
        page_size: bytes of a page.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    pages: NDArray[np.int64]
    spans: NDArray[np.int64]
    page_size: int

    def __len__(self) -> int:
        return len(self.low)

    @property
    def starts(self) -> NDArray[np.uint64]:
        """Addresses of the rows' first bytes."""
        return self.low.astype(np.uint64) * np.uint64(self.page_size)

    @property
    def ends(self) -> NDArray[np.uint64]:
        """Addresses one past the rows' last bytes."""
        return self.high.astype(np.uint64) * np.uint64(self.page_size)

    @property
    def gap_before(self) -> NDArray[np.bool_]:
        """Whether addresses were left out between a row and the one before."""
        return np.append(False, self.low[1:] > self.high[:-1])[: len(self)]


def address_axis(series: Series, rows: int) -> AddressAxis:
    """At most ``rows`` rows over all that was ever written.

    Every row stands for equally many pages (fewer at the end of a band). Gaps at least as large as a row are cut out,
    smaller ones are kept, so that addresses run evenly within a band. Where bands are few (up to half the rows), each
    begins with a row of its own.
    """
    if rows < 1:
        raise InvalidArgument(f"rows = {rows}: at least one is needed")
    low, high = series.segments.written()
    width = 1
    while True:
        first, last = _bands(low, high, width)
        apart = len(first) <= rows // 2
        needed = _width(last - first, rows, apart)
        if needed <= width:
            break
        width = needed  # wider rows make more gaps small: look again
    row_low, row_high, pages = _rows(first, last, width, apart)
    spans = _main_spans(row_low * series.page_size, row_high * series.page_size, series.spans, len(series))
    return AddressAxis(row_low, row_high, pages, spans, series.page_size)


def _bands(low: NDArray[np.int64], high: NDArray[np.int64], gap: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ranges, joined over gaps of fewer than ``gap`` pages."""
    cuts = np.flatnonzero(low[1:] - high[:-1] >= gap)
    return low[np.append(0, cuts + 1)[: len(low)]], high[np.append(cuts, len(high) - 1)[: len(high)]]


def _width(sizes: NDArray[np.int64], rows: int, apart: bool) -> int:
    """The fewest pages a row must have for the bands to fit."""
    total = int(sizes.sum())
    least = max(1, -(-total // rows))
    if not apart or not total:
        return least
    most = -(-total // (rows - len(sizes)))  # each band wastes less than one row
    while least < most:
        middle = (least + most) // 2
        if int((-(-sizes // middle)).sum()) <= rows:
            most = middle
        else:
            least = middle + 1
    return least


def _rows(
    first: NDArray[np.int64], last: NDArray[np.int64], width: int, apart: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The rows' low and high page numbers, and their pages."""
    # Positions count the pages of all bands, one band after another.
    ends = np.cumsum(last - first)
    begins = ends - (last - first)
    total = int(ends[-1]) if len(ends) else 0
    if apart:
        starts = np.concatenate([np.arange(a, b, width) for a, b in zip(begins, ends, strict=True)] or [ends])
    else:
        starts = np.arange(0, total, width)
    stops = np.append(starts[1:], total)[: len(starts)]

    def address(position: NDArray[np.int64]) -> NDArray[np.int64]:
        shifts: NDArray[np.int64] = (first - begins)[np.searchsorted(ends, position, "right")]
        return position + shifts

    return address(starts), address(stops - 1) + 1, stops - starts


def _main_spans(
    low: NDArray[np.int64], high: NDArray[np.int64], spans: tuple[Span, ...], samples: int
) -> NDArray[np.int64]:
    """For each range of addresses, the span with most bytes in it times samples of life; -1 where there is none."""
    best = np.full(len(low), -1, np.int64)
    most = np.zeros(len(low))
    # vsyscall's page lies beyond int64, and nothing is ever written there.
    for index, (mapping, appeared, vanished) in enumerate(spans):
        overlap = np.minimum(high, min(mapping.end, 1 << 62)) - np.maximum(low, min(mapping.start, 1 << 62))
        weight = np.maximum(overlap, 0).astype(float) * ((samples if vanished is None else vanished) - appeared)
        better = weight > most
        best[better], most[better] = index, weight[better]
    return best
