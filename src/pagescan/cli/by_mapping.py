"""From regions and mappings to one row a mapping: pure functions over values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..query import Category

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..abi import Mapping
    from ..ranges import Regions


@dataclass(frozen=True, slots=True)
class Row:
    """What was found of one mapping.

    Attributes:
        mapping: the mapping, cut to the range that was looked at.
        tracked: whether it is registered for tracking, so that WRITTEN means something.
        matched: bytes of the pages that matched.
        counts: of the matching pages, the bytes that have each category; None where that is not known: WRITTEN of
            untracked memory, and categories that were not asked for or that the kernel does not know.
    """

    mapping: Mapping
    tracked: bool
    matched: int
    counts: dict[Category, int | None]

    @property
    def has_content(self) -> bool:
        """Whether any matching page is more than a hole."""
        return any(self.counts[category] for category in (Category.PRESENT, Category.SWAPPED, Category.GUARD))


def rows_of(mappings: Sequence[Mapping], regions: Regions, tracked: Regions, asked: Category) -> list[Row]:
    """One row for each mapping, in their order.

    Args:
        mappings: sorted by address, not overlapping.
        regions: the pages that matched; a region may run across mappings.
        tracked: all pages that are registered for tracking.
        asked: the categories that were asked for, and that the kernel knows.
    """
    matched = bytes_within(regions, mappings)
    registered = bytes_within(tracked, mappings)
    known = {c: bytes_within(regions.where(required=c), mappings) for c in Category if c & asked}
    rows = []
    for index, mapping in enumerate(mappings):
        is_tracked = bool(registered[index])
        counts = {c: int(known[c][index]) if c in known else None for c in Category}
        if not is_tracked:
            counts[Category.WRITTEN] = None
        rows.append(Row(mapping, is_tracked, int(matched[index]), counts))
    return rows


def bytes_within(regions: Regions, mappings: Sequence[Mapping]) -> NDArray[np.int64]:
    """How many bytes of each mapping the regions cover."""
    starts = np.array([mapping.start for mapping in mappings], np.uint64)
    ends = np.array([mapping.end for mapping in mappings], np.uint64)
    return _bytes_below(regions, ends) - _bytes_below(regions, starts)


def _bytes_below(regions: Regions, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bytes of the regions lie below each address."""
    if not len(regions):
        return np.zeros(len(addresses), np.int64)
    lengths = (regions.ends - regions.starts).astype(np.int64)
    before = np.cumsum(lengths) - lengths
    at = np.searchsorted(regions.starts, addresses, "right") - 1
    first = at < 0
    at[first] = 0
    inside = (np.minimum(addresses, regions.ends[at]) - regions.starts[at]).astype(np.int64)
    inside[first] = 0
    return before[at] + inside


def clip(mappings: Sequence[Mapping], start: int | None, end: int | None) -> list[Mapping]:
    """The mappings in [start, end), cut to it; None is no bound. Offsets into files move along."""
    clipped = []
    for mapping in mappings:
        low = mapping.start if start is None else max(mapping.start, start)
        high = mapping.end if end is None else min(mapping.end, end)
        if low < high:
            moved = low - mapping.start if mapping.inode else 0
            clipped.append(replace(mapping, start=low, end=high, offset=mapping.offset + moved))
    return clipped


def pieces(regions: Regions, mappings: Sequence[Mapping]) -> Iterator[tuple[int, int, Category, Mapping | None]]:
    """The regions cut where mappings begin and end: (start, end, categories, mapping)."""
    at = 0
    for region in regions:
        position = region.start
        while position < region.end:
            while at < len(mappings) and mappings[at].end <= position:
                at += 1
            mapping = mappings[at] if at < len(mappings) and mappings[at].start <= position else None
            limit = mapping.end if mapping else mappings[at].start if at < len(mappings) else region.end
            yield position, min(region.end, limit), region.categories, mapping
            position = min(region.end, limit)
