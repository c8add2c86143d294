"""Heat: how much was written where, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .axes import address_axis, time_axis

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .axes import AddressAxis, TimeAxis
    from .series import Series


@dataclass(frozen=True, eq=False, slots=True)
class Heat:
    """Written pages over address and time.

    Attributes:
        pages: int64, shape (rows, columns): written pages, counted once for each sample that has them.
        rows: what a row stands for.
        columns: what a column stands for.
    """

    pages: NDArray[np.int64]
    rows: AddressAxis
    columns: TimeAxis

    @property
    def share(self) -> NDArray[np.float64]:
        """From 0 to 1: the written share of each cell's pages, as a mean over its samples."""
        return self.pages / np.outer(self.rows.pages, np.diff(self.columns.samples))

    @property
    def bytes_per_second(self) -> NDArray[np.float64]:
        """Bytes of written pages per second; 0 where a column has no duration."""
        return per_second(self.pages * self.rows.page_size, self.columns.seconds)


def heat(series: Series, *, rows: int = 64, columns: int | None = 256) -> Heat:
    """The heat map of a series in at most ``rows`` x ``columns`` cells (None: a column for each sample).

    No cell is lost: the sum over the matrix is the sum of all samples' page counts. Raises InvalidArgument for fewer
    than one row or column.
    """
    down, across = address_axis(series, rows), time_axis(series, columns)
    pages = np.zeros((len(down), len(across)), np.int64)
    segments = series.segments
    if not len(segments):
        return Heat(pages, down, across)
    bounds = np.concatenate([down.low, down.high])
    at = np.searchsorted(segments.edges, bounds, "right") - 1
    inside = bounds - segments.edges[at]
    for column in range(len(across)):
        counts = np.append(segments.counts(across.samples[column], across.samples[column + 1]), 0)
        # Written pages below each bound: whole segments, and a part of the one it lies in.
        below = np.append(0, np.cumsum(counts[:-1] * segments.pages))[at] + counts[at] * inside
        pages[:, column] = below[len(down) :] - below[: len(down)]
    return Heat(pages, down, across)


def per_second(amounts: NDArray[np.int64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Amounts by column as rates; 0 where no time passed."""
    return np.divide(amounts, seconds, out=np.zeros(amounts.shape), where=seconds > 0)
