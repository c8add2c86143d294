"""Many extents at once: which of them one call can ask about together, and which of them an answer touches.

Each call costs some five microseconds, whatever it finds; passing over a page that need not be asked costs 0.6
nanoseconds if it is clean, and 10 if it is not (Linux 6.18). So extents that lie close together in one mapping are
registered as one range, with the gaps between them (which stays one mapping then, rather than two more for each gap),
and are first looked at in one call that changes nothing. Only those that have something are then asked one by one.
Gaps are never protected: whoever writes there pays nothing.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..ranges import Regions
from .base import Extent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

#: The longest gap, in pages, that is registered along: passing over it costs at most what another call does.
BRIDGED_PAGES = 512
#: Bytes of pages that nobody asked about, up to which one look over them costs less than another call.
_NEAR = 8 << 20
#: From so many neighbours on they are looked at together first.
TOGETHER = 4


class Group(NamedTuple):
    """Neighbours that one call can look at.

    Attributes:
        first, last: their indexes, half-open.
        start, end: from the first's beginning to the last's end, bytes.
    """

    first: int
    last: int
    start: int
    end: int


class Extents(tuple[Extent, ...]):  # noqa: SLOT001 - what is found out later needs room
    """Extents by address, immutable, with their bounds as arrays; what is found out about all of them is kept."""

    _grouped: tuple[Regions, list[Group]] | None = None
    _huge: tuple[int, tuple[Extent, ...]] | None = None
    _all_plain: tuple[int, bool] | None = None

    @classmethod
    def of(cls, extents: Iterable[Extent]) -> Extents:
        """These, or the same object if it is one already."""
        return extents if isinstance(extents, Extents) else cls(extents)

    @functools.cached_property
    def starts(self) -> NDArray[np.uint64]:
        return np.fromiter((extent.start for extent in self), np.uint64, len(self))

    @functools.cached_property
    def ends(self) -> NDArray[np.uint64]:
        return np.fromiter((extent.end for extent in self), np.uint64, len(self))

    @functools.cached_property
    def some_sparse(self) -> bool:
        """Whether the holes of any are left unprotected."""
        return any(extent.sparse for extent in self)

    def huge(self, page_size: int) -> tuple[Extent, ...]:
        """Those whose pages are larger than that: hugetlb memory."""
        if self._huge is None or self._huge[0] != page_size:
            self._huge = page_size, tuple(extent for extent in self if extent.page_size > page_size)
        return self._huge[1]

    def plain(self, page_size: int) -> bool:
        """Whether all are of ordinary pages whose holes are protected."""
        if self._all_plain is None or self._all_plain[0] != page_size:
            self._all_plain = page_size, not (self.some_sparse or self.huge(page_size))
        return self._all_plain[1]

    def _plain(self, page_size: int) -> NDArray[np.bool_]:
        """Those of ordinary pages whose holes are protected: one query answers for them."""
        plain = (not extent.sparse and extent.page_size == page_size for extent in self)
        return np.fromiter(plain, np.bool_, len(self))

    def within(self, pages: Regions) -> Extents:
        """The parts of the extents that lie in ``pages``; one that lies there wholly is the same object."""
        first = np.searchsorted(pages.ends, self.starts, "right")
        last = np.searchsorted(pages.starts, self.ends, "left")
        parts: list[Extent] = []
        for extent, low, high in zip(self, first.tolist(), last.tolist(), strict=True):
            if high - low == 1 and pages.starts[low] <= extent.start and extent.end <= pages.ends[low]:
                parts.append(extent)
            elif low < high:
                clipped = pages.clip(extent.start, extent.end)
                parts += (replace(extent, start=part.start, end=part.end) for part in clipped)
        return Extents(parts)

    def near(self, pages: Regions) -> Extents:
        """The parts of the extents that hold these pages, in few pieces: pages near each other are joined, with those
        between them; huge pages are whole."""
        parts: list[Extent] = []
        for index in self.touched(pages.to_records()) if len(self) > 1 else range(len(self)):
            extent, unit = self[index], self[index].page_size
            inside = pages if pages.lies_in(extent.start, extent.end) else pages.clip(extent.start, extent.end)
            for start, end in _pieces(inside, max(_NEAR, unit)):
                low, high = start // unit * unit, -(-end // unit) * unit
                # Nearly all of it is as well looked at whole, which is quicker said.
                most = (high - low) * 8 > extent.size * 7
                parts.append(extent if most else replace(extent, start=low, end=high))
        return Extents(parts)

    def pages(self, page_size: int) -> Regions:
        """What they cover."""
        return Regions.from_pairs(zip(self.starts.tolist(), self.ends.tolist(), strict=True), page_size=page_size)

    def groups(self, registered: Regions) -> list[Group]:
        """The runs of neighbours, `TOGETHER` or more, that lie in one registered range without a long gap."""
        if self._grouped is None or self._grouped[0] is not registered:
            self._grouped = registered, list(self._group(registered))
        return self._grouped[1]

    def _group(self, registered: Regions) -> Iterator[Group]:
        if len(self) < TOGETHER or not registered:
            return
        gaps = self.starts[1:] - self.ends[:-1]
        place = np.searchsorted(registered.starts, self.starts, "right")
        near = (gaps <= BRIDGED_PAGES * registered.page_size) & (place[1:] == place[:-1])
        plain = self._plain(registered.page_size)
        near &= plain[1:] & plain[:-1]
        cuts = np.flatnonzero(~near) + 1
        for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(self)], strict=True):
            if last - first >= TOGETHER:
                yield Group(first, last, self[first].start, self[last - 1].end)

    def touched(self, found: NDArray[np.void]) -> list[int]:
        """The indexes of the extents that hold a page of these records, ascending."""
        first = np.searchsorted(self.ends, found["start"], "right")
        counts = np.searchsorted(self.starts, found["end"], "left") - first
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.unique(np.repeat(first, counts) + offsets).tolist()  # type: ignore[no-any-return]


def _pieces(pages: Regions, near: int) -> Iterator[tuple[int, int]]:
    """The bounds of runs of regions between which there is no gap longer than ``near``. Where the gaps are no longer
    on average, all are one."""
    if not pages:
        return
    starts, ends = pages.starts, pages.ends
    low, high = int(starts[0]), int(ends[-1])
    if high - low <= near * len(pages):
        yield low, high
        return
    far = np.flatnonzero(starts[1:] - ends[:-1] > np.uint64(near)).tolist()
    for first, last in zip([0, *(at + 1 for at in far)], [*far, len(pages) - 1], strict=True):
        yield int(starts[first]), int(ends[last])
