"""How often each page was written to: never, once, or again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..ranges import Regions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .series import Series


@dataclass(frozen=True, eq=False, slots=True)
class WriteCounts:
    """How often the pages were written to; "once" means in one sample.

    Attributes:
        pages: int64, samples + 1 long: ``pages[k]`` pages were written to in k samples. ``pages[0]`` counts the pages
            of writable mappings, whenever they lived, that never were.
        low, high: int64: ranges of page numbers that were written to equally often, ascending.
        counts: int64: in how many samples each of these ranges was.
        page_size: bytes of a page.
    """

    pages: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    counts: NDArray[np.int64]
    page_size: int

    @property
    def never(self) -> int:
        """Pages of writable mappings that were not written to."""
        return int(self.pages[0])

    @property
    def once(self) -> int:
        """Pages written to in one sample."""
        return int(self.pages[1:2].sum())

    @property
    def repeatedly(self) -> int:
        """Pages written to in more than one sample."""
        return int(self.pages[2:].sum())

    def hottest(self, limit: int = 20) -> list[tuple[int, int, int]]:
        """The ranges written to in most samples, as (start address, end address, samples); the larger one first."""
        order = np.lexsort((self.low, self.low - self.high, -self.counts))[:limit]
        size = self.page_size
        chosen = (self.low[order].tolist(), self.high[order].tolist(), self.counts[order].tolist())
        return [(low * size, high * size, count) for low, high, count in zip(*chosen, strict=True)]


def write_counts(series: Series) -> WriteCounts:
    """How many pages were written to never, once, and more often."""
    segments = series.segments
    counts = segments.counts()
    pages = np.bincount(counts, segments.pages, len(series) + 1).astype(np.int64)
    pages[0] = _never(series)
    # Neighbours of the same count become one range; those of count 0 lie between.
    first = np.flatnonzero(np.append(True, counts[1:] != counts[:-1])[: len(counts)])
    last = np.append(first[1:], len(counts))[: len(first)]
    kept = counts[first] > 0
    first, last = first[kept], last[kept]
    return WriteCounts(pages, segments.edges[first], segments.edges[last], counts[first], series.page_size)


def _never(series: Series) -> int:
    """Pages of writable mappings less those that were written to."""
    low, high = series.segments.written()
    size = series.page_size
    pairs = [(mapping.start, mapping.end) for mapping, _, _ in series.spans if mapping.writable]
    written = Regions.from_pairs(zip((low * size).tolist(), (high * size).tolist(), strict=True), page_size=size)
    return (Regions.from_pairs(pairs, page_size=size) - written).byte_count // size
