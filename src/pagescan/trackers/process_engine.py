"""The engine ``pagemap-scan`` on another process: one call asks about many mappings at a time.

A process has dozens of mappings, some have thousands, and most of them are quiet. So private memory is covered sparsely
(no page tables are spent in somebody else's process for memory it never touches), and neighbouring mappings are one
*run*, which takes two calls: one that gets the written pages and protects them again, and one that tells what is
populated, and what is still registered.

The first is made without ``PM_SCAN_CHECK_WPASYNC``, since an error in the midst of a run would lose what was found
before it. It asks for WPALLOWED instead, which passes over everything that is not registered. What that hides, memory
that was moved, unmapped or mapped anew, the second call shows: there it is missing. A run never spans a mapping that
somebody else may have registered, whose pages we would protect without being asked.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from ..query import Category, Op
from ..ranges import REGION_DTYPE, Regions
from ..records import MAX_ADDRESS, one_after_another
from ..scanning.call import prepare_scan
from ..scanning.walk import WALK_VEC_LEN
from .base import Arm, Extent, Findings, Loss
from .looking import MOVED, SPARSE_RETURN, really_written
from .pagemap_scan import PagemapScanEngine

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from ..abi import AddressSpace, Mapping
    from ..scanning.prepared import PreparedScan

_POPULATED = Category.PRESENT | Category.SWAPPED


class ProcessEngine(PagemapScanEngine):
    """See the module's docstring. Its extents come from :func:`process_extent`."""

    def __init__(self, space: AddressSpace, *arguments: Any):
        super().__init__(space, *arguments)
        self._has_gap = _NeverAsked()
        #: (end, start) of neighbours between which there is nothing that anybody may have registered.
        self.bridges: frozenset[tuple[int, int]] = frozenset()
        self._take_run = self._on_registered(Op.GET | Op.WP, Category.WRITTEN, _POPULATED, SPARSE_RETURN)
        self._look_run = self._on_registered(Op.GET, Category.WRITTEN, _POPULATED, SPARSE_RETURN)
        self._look_all = self._on_registered(Op.GET, Category(0), Category(0), _POPULATED)

    def _on_registered(self, ops: Op, required: Category, anyof: Category, returned: Category) -> PreparedScan:
        return prepare_scan(
            self._pagemap,
            0,
            0,
            ops=ops,
            required_mask=required | Category.WPALLOWED,
            anyof_mask=anyof,
            return_mask=returned,
            vec_len=WALK_VEC_LEN,
            require_wp_async=False,
        )

    def arm(self, extents: Sequence[Extent], how: Arm) -> None:
        super().arm([extent for extent in extents if not extent.sparse], how)
        self._sparse_parts(extents, take=True)

    def take(self, extents: Sequence[Extent]) -> Findings:
        return self._together(super().take([e for e in extents if not e.sparse]), extents, take=True)

    def peek(self, extents: Sequence[Extent]) -> Findings:
        return self._together(super().peek([e for e in extents if not e.sparse]), extents, take=False)

    def _together(self, plain: Findings, extents: Sequence[Extent], *, take: bool) -> Findings:
        found, losses = self._sparse_parts(extents, take=take)
        written = Regions.union([plain.written, *found], page_size=self._space.page_size)
        return Findings(written, plain.losses + losses, plain.unsure)

    # Runs -----------------------------------------------------------------------------------------------------------

    def _sparse_parts(self, extents: Sequence[Extent], *, take: bool) -> tuple[list[Regions], list[Loss]]:
        found: list[Regions] = []
        losses: list[Loss] = []
        for run in self._runs(extents):
            written, registered = self._ask(run[0].start, run[-1].end, take=take)
            found.append(written)
            losses += _lost(run, registered)
        return found, losses

    def _runs(self, extents: Sequence[Extent]) -> Iterator[list[Extent]]:
        """The sparse extents, neighbours together that one call may span."""
        run: list[Extent] = []
        for extent in extents:
            if not extent.sparse:
                continue
            if run and run[-1].end != extent.start and (run[-1].end, extent.start) not in self.bridges:
                yield run
                run = []
            run.append(extent)
        if run:
            yield run

    def _ask(self, start: int, end: int, *, take: bool) -> tuple[Regions, NDArray[np.void]]:
        """What was written to in a run, and what of it is registered (as bounds)."""
        found = (self._take_run if take else self._look_run).walk(start, end).to_records()
        every = self._look_all.walk(start, end).to_records()
        now = self._regions(_bare(every[every["categories"] != 0]))
        before = self._populated.clip(start, end)
        if not len(found) and np.array_equal(before.to_records(), now.to_records()):
            return self._regions(found), every
        written = really_written(self._regions(found), before)
        gone = (before | self._regions(_bare(found))) - now
        if gone:
            gone &= self._regions(_bare(every))  # what is not even registered is lost, not given back
        if take:
            # Named now, so somebody may read it from now on; if it is written to and given back once more before the
            # next look, only a marker tells. (A write that falls before this is read by who reads afterwards.)
            self._mark(gone)
            self._populated = self._outside(start, end, now | gone)
        return written | gone.with_categories(Category.WRITTEN) if gone else written, every

    def _outside(self, start: int, end: int, inside: Regions) -> Regions:
        """What was remembered as populated, with [start, end) replaced."""
        parts = (self._populated.clip(0, start), inside, self._populated.clip(end, MAX_ADDRESS))
        records = one_after_another([part.to_records() for part in parts])
        return Regions.merged(records, page_size=self._space.page_size)

    def _regions(self, records: NDArray[np.void]) -> Regions:
        return Regions.merged(records, page_size=self._space.page_size)


class _NeverAsked:
    """Whoever follows the maps of the process finds the gaps."""

    def __call__(self, start: int, end: int) -> bool:
        return False

    def close(self) -> None:
        """Nothing was opened."""


def _bare(records: NDArray[np.void]) -> NDArray[np.void]:
    """The same bounds without categories."""
    bare = np.zeros(len(records), REGION_DTYPE)
    bare["start"], bare["end"] = records["start"], records["end"]
    return bare


def _lost(run: list[Extent], registered: NDArray[np.void]) -> list[Loss]:
    """The extents of a run of which a part is not registered any more."""
    starts = np.fromiter((extent.start for extent in run), np.uint64, len(run))
    ends = np.fromiter((extent.end for extent in run), np.uint64, len(run))
    # Bytes registered below an address, from the regions that begin below it.
    sizes = np.concatenate(([0], np.cumsum(registered["end"] - registered["start"]))).astype(np.uint64)

    def below(addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
        index = np.searchsorted(np.ascontiguousarray(registered["start"]), addresses, "right")
        last = np.where(index > 0, registered["end"][index - 1], 0) if len(registered) else np.zeros_like(addresses)
        beyond = np.where(last > addresses, last - addresses, 0)
        return sizes[index] - beyond.astype(np.uint64)

    short = np.flatnonzero(below(ends) - below(starts) != ends - starts)
    return [Loss(run[at], MOVED) for at in short.tolist()]


def process_extent(mapping: Mapping, start: int, end: int, page_size: int) -> Extent:
    """A part of a mapping of another process as an extent (of hugetlb: whole huge pages)."""
    size, base = mapping.page_size, mapping.start
    low, high = base + (start - base) // size * size, base + -(-(end - base) // size) * size
    private = not mapping.shared
    return Extent(
        low, high, size, private=private, sparse=private and size == page_size, anonymous=mapping.private_anonymous
    )


def find_bridges(
    extents: Sequence[Extent], mappings: Sequence[Mapping], droppable: Collection[Mapping] = ()
) -> frozenset[tuple[int, int]]:
    """Between which neighbours there are only holes, memory without access, files that cannot be written to, and
    memory that was refused because it is droppable.

    Both by address. Such a gap holds nothing that the process may track by itself.
    """
    bridges = []
    position = 0
    for one, other in itertools.pairwise(extents):
        while position < len(mappings) and mappings[position].end <= one.end:
            position += 1
        at = position
        while at < len(mappings) and mappings[at].start < other.start:
            if not _harmless(mappings[at]) and mappings[at] not in droppable:
                break
            at += 1
        if at == len(mappings) or mappings[at].start >= other.start:
            bridges.append((one.end, other.start))
    return frozenset(bridges)


def _harmless(mapping: Mapping) -> bool:
    return not mapping.writable and (mapping.inode != 0 or mapping.perms.startswith("---"))
