"""The engine ``pagemap-scan``: asynchronous write protection on userfaultfd, found and renewed by ``PAGEMAP_SCAN``.

On memory of the model the very same code is the engine ``model``.

What the kernel does, and what follows for us
---------------------------------------------
*The set-up, in the documented order*: a userfaultfd; ``UFFDIO_API`` with WP_UNPOPULATED and WP_ASYNC;
``UFFDIO_REGISTER`` in mode WP; write-protect; scan. The first write to a protected page then costs one fault that the
kernel resolves by itself: it clears the page's protection bit, and a page without the bit is WRITTEN.

*One query*: mask = return = WRITTEN, and no other mask. It is the kernel's fast path, and the only form that finds
memory given back by MADV_DONTNEED on kernels before 7.2 as well. PRESENT is never required: a swapped-out page can be
dirty too.

*Holes* (pages never touched) count as WRITTEN until a marker protects them, and a read would otherwise make them look
written. So they are protected too; a marker needs a page table, 4 KiB for each 2 MiB. Where that would cost more than
`HOLES_LIMIT` of holes, private anonymous memory is covered *sparsely*: only what is populated is protected, and
memory that was given back is found by comparing what is populated now with what was.

In sparse memory a page that was a hole at the last look and is one at this look is not named, though it may have been
written to and given back in between: it held zeros then and holds zeros now.

*hugetlb* is protected by whole huge pages; part of one is passed over silently, and scanning with WP over an empty one
could lock up kernels before 7.2 (e92d92bbafb2). So it is armed by ``UFFDIO_WRITEPROTECT``. A huge page that is given
back is never called WRITTEN: it leaves its marker behind if it was protected, and nothing if not. So empty ones are
asked for by name, and in private memory what is present is compared with what was. (One that is given back and read
again before the next look is present, protected and full of zeros: no page table tells it from an untouched one.)

*Lost coverage*: a mapping that was moved or replaced answers EPERM under ``PM_SCAN_CHECK_WPASYNC``; an unmapped range
answers nothing at all, without an error, so we ask whether there is a gap. One call never spans two mappings, since an
error at the second would lose what was found in the first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..abi import TRACKING_FEATURES, AddressSpace, RegisterMode
from ..errors import NoSuchProcess, NotWriteProtectable
from ..query import Category, Op
from ..ranges import Regions
from ..scanning.call import prepare_scan
from ..scanning.walk import WALK_VEC_LEN
from .extents import TOGETHER, Extents
from .looking import SPARSE_RETURN, filled_caveat, hugetlb_caveat, look_at_each, really_written
from .registration import Registrations, plan_with_holes, protect_again

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ..abi import GapFinder, Pagemap
    from ..scanning.prepared import PreparedScan
    from .base import Arm, Extent, Findings
    from .extents import Group

_POPULATED = Category.PRESENT | Category.SWAPPED


class PagemapScanEngine:
    """See the module's docstring; the interface is :class:`Engine`'s."""

    def __init__(self, space: AddressSpace, name: str = "pagemap-scan"):
        self.name = name
        self._space = space
        self._page_size = space.page_size
        self._pagemap: Pagemap = space.open_pagemap()
        try:
            #: Of an extent that is no longer mapped a look finds nothing, without an error.
            self._has_gap: GapFinder = space.gap_finder()
            try:
                self._uffd = space.open_userfaultfd(TRACKING_FEATURES)
            except BaseException:
                self._has_gap.close()
                raise
        except BaseException:
            self._pagemap.close()
            raise
        self._registered = Registrations(space, self._uffd, RegisterMode.WP)
        self._reports_dropped = space.prove_tracking().reports_dropped
        #: What was populated when last taken, in extents where that is needed to find what was given back.
        self._populated = Regions.empty(page_size=space.page_size)
        get, again = Op.GET, Op.GET | Op.WP
        written, populated = Category.WRITTEN, int(_POPULATED)
        self._take = self._prepare(ops=again, required_mask=written, return_mask=written)
        self._look = self._prepare(ops=get, required_mask=written, return_mask=written)
        self._take_sparse = self._prepare(
            ops=again, required_mask=written, anyof_mask=populated, return_mask=SPARSE_RETURN
        )
        self._look_sparse = self._prepare(
            ops=get, required_mask=written, anyof_mask=populated, return_mask=SPARSE_RETURN
        )
        self._take_dropped = self._prepare(ops=again, excluded_mask=populated, return_mask=0)
        self._look_dropped = self._prepare(ops=get, excluded_mask=populated, return_mask=0)
        self._look_populated = self._prepare(ops=get, anyof_mask=populated, return_mask=0)
        self._look_present = self._prepare(ops=get, required_mask=Category.PRESENT, return_mask=0)
        self._protect_all = self._prepare(ops=again, return_mask=0)

    def _prepare(self, **masks: Any) -> PreparedScan:
        return prepare_scan(self._pagemap, 0, 0, vec_len=WALK_VEC_LEN, require_wp_async=True, **masks)

    # Covering -------------------------------------------------------------------------------------------------------

    def plan(self, pages: Regions) -> list[Extent]:
        return plan_with_holes(self._space, pages, self._holes)

    def _holes(self, extent: Extent) -> int:
        scan = prepare_scan(
            self._pagemap, 0, 0, anyof_mask=_POPULATED, return_mask=0, vec_len=WALK_VEC_LEN, require_wp_async=False
        )
        found = scan.walk(extent.start, extent.end)
        return extent.size - found.byte_count

    def cover(self, extents: Sequence[Extent]) -> None:
        self._registered.cover(extents)

    def refuses(self, start: int, end: int) -> bool:
        """See :meth:`Registrations.refuses`."""
        return self._registered.refuses(start, end)

    def uncover(self, pages: Regions) -> None:
        self._populated -= pages
        self._registered.uncover(pages)

    def arm(self, extents: Sequence[Extent], how: Arm) -> None:
        for extent in extents:
            if extent.sparse:
                self._take_sparse.walk(extent.start, extent.end)
            elif how == "ioctl" or self._huge(extent):
                self._uffd.writeprotect(extent.start, extent.size)
            else:
                # Without masks, memory that has no page table yet is protected as well. Empty entries of a page table
                # that exists are not, before 7.2 (only what is WRITTEN is protected, and they are not, in that form);
                # the form that asks for WRITTEN alone reaches them.
                self._protect_all.walk(extent.start, extent.end)
                self._take.walk(extent.start, extent.end)
            if self._remembers(extent):
                self._given_back(extent, remember=True)

    # Asking ---------------------------------------------------------------------------------------------------------

    def take(self, extents: Sequence[Extent]) -> Findings:
        return self._each(extents, self._take_one)

    def peek(self, extents: Sequence[Extent]) -> Findings:
        return self._each(extents, self._peek_one)

    def _each(self, extents: Sequence[Extent], look: Callable[[Extent], Regions]) -> Findings:
        asked = extents if len(extents) < TOGETHER else self._worth_asking(Extents.of(extents))
        return look_at_each(asked, look, has_gap=self._has_gap, page_size=self._page_size)

    def caveat(self, written: Regions, extents: Sequence[Extent]) -> str:
        extents = Extents.of(extents)
        if extents.plain(self._page_size):
            return ""
        return "; ".join(filter(None, (hugetlb_caveat(written, extents), filled_caveat(written, extents))))

    def _worth_asking(self, extents: Extents) -> Iterator[Extent]:
        """Those in which something may have been written: of neighbours, one look that changes nothing tells which."""
        done = 0
        for group in extents.groups(self._registered.regions):
            yield from extents[done : group.first]
            yield from self._touched(extents, group)
            done = group.last
        yield from extents[done:]

    def _touched(self, extents: Extents, group: Group) -> Iterable[Extent]:
        """Those of the group that hold something, or all of them if some are lost."""
        whole = replace(extents[group.first], start=group.start, end=group.end)
        try:
            found = self._peek_one(whole)
            if not self._has_gap(group.start, group.end):
                return map(extents.__getitem__, extents.touched(found.to_records()))
        except (NotWriteProtectable, NoSuchProcess):
            pass
        return extents[group.first : group.last]

    def _take_one(self, extent: Extent) -> Regions:
        if extent.sparse:
            return self._sparse(extent, self._take_sparse, remember=True)
        found = self._take.walk(extent.start, extent.end)
        if extent.page_size > self._page_size:
            empty = self._look_dropped.walk(extent.start, extent.end)
            # A write that falls before this lies in pages that are reported now, and read by the caller later.
            self._mark(empty)
            return _with_dropped(found, empty | self._given_back(extent, remember=True))
        if not self._reports_dropped:
            return _with_dropped(found, self._take_dropped.walk(extent.start, extent.end))
        return found

    def _peek_one(self, extent: Extent) -> Regions:
        if extent.sparse:
            return self._sparse(extent, self._look_sparse, remember=False)
        found = self._look.walk(extent.start, extent.end)
        if self._huge(extent):
            empty = self._look_dropped.walk(extent.start, extent.end)
            return _with_dropped(found, empty | self._given_back(extent, remember=False))
        if not self._reports_dropped:
            return _with_dropped(found, self._look_dropped.walk(extent.start, extent.end))
        return found

    def _sparse(self, extent: Extent, scan: PreparedScan, *, remember: bool) -> Regions:
        """Written pages of an extent whose holes are not protected."""
        found = scan.walk(extent.start, extent.end)
        written = really_written(found, self._populated)
        gone = self._given_back(extent, found, remember=remember)
        if remember:
            # Named now, so somebody may read it from now on; if it is written to and given back once more before the
            # next look, only a marker tells. (A write that falls before this is read by who reads afterwards.)
            self._mark(gone)
            self._populated |= gone
        return _with_dropped(written, gone)

    def _mark(self, holes: Regions) -> None:
        """Protect what is not populated, which leaves markers."""
        protect_again(self._uffd, holes.to_records())

    def _given_back(self, extent: Extent, found: Regions | None = None, *, remember: bool) -> Regions:
        """What was populated when last taken, or when ``found`` just now, and is no longer: its contents are gone."""
        size = self._page_size
        if not self._remembers(extent):
            return Regions.empty(page_size=size)
        before = self._populated.clip(extent.start, extent.end)
        if found:
            before = before | found
        scan = self._look_present if self._huge(extent) else self._look_populated
        now = scan.walk(extent.start, extent.end)
        if remember:
            self._populated = (self._populated - Regions.span(extent.start, extent.end, page_size=size)) | now
        return before - now

    def _remembers(self, extent: Extent) -> bool:
        """Whether what is given back in this extent is found by comparing what is populated."""
        return extent.sparse or (extent.private and self._huge(extent))

    def _huge(self, extent: Extent) -> bool:
        return extent.page_size > self._page_size

    # Ending ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._uffd.close()
        self._pagemap.close()
        self._has_gap.close()

    def close_in_child(self) -> None:
        # Closing a copy of the descriptor ends nothing in the parent, which holds its own.
        self.close()


def _with_dropped(found: Regions, dropped: Regions) -> Regions:
    return found | dropped.with_categories(Category.WRITTEN) if dropped else found
