"""The engine ``pagemap-read``: asynchronous write protection on userfaultfd, found by reading ``/proc/PID/pagemap``.

For where userfaultfd is to be had and ``PAGEMAP_SCAN`` is not, or not wanted. Each page has an entry of 64 bits in that
file, and bit 57 of it says that the page is protected: not written to since. Reading 8 bytes for every page costs ten
to forty times what the scan does (docs/engines.md).

Finding and protecting are two steps here: read the entries, then ``UFFDIO_WRITEPROTECT`` just the pages found. A write
that falls between the two lies in a page that this very answer names, and its contents are copied later; a write to any
other page stays noted. So none is lost, as long as nothing but what was found is protected, run by run.

*Holes* without protection have an entry of zeros, so memory that was given back is found written without more ado, in
every release. Sparse extents (see :mod:`.pagemap_scan`) are the exception: their holes are not protected, and what was
populated is remembered to find what was given back. The file does not tell the page of zeros from others without
CAP_SYS_ADMIN, so a hole that was only read is named there too.

*hugetlb*: an empty huge page that was given back keeps its mark if it was protected; in private memory what is present
is compared with what was.

*Lost coverage*: memory that is not registered cannot be protected (ENOENT), which is found when a page of it is taken;
unmapped memory reads as zeros, so we ask whether there is a gap.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from ..abi import TRACKING_FEATURES, AddressSpace, Entry, RegisterMode
from ..query import Category
from ..ranges import Regions
from ..records import join_equal
from .looking import hugetlb_caveat, look_at_each, runs_of
from .registration import Registrations, plan_with_holes, protect_again

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..abi import Pagemap
    from .base import Arm, Extent, Findings

_POPULATED = np.uint64(Entry.PRESENT | Entry.SWAPPED)
_PRESENT = np.uint64(Entry.PRESENT)
_PROTECTED = np.uint64(Entry.UFFD_WP)
#: Entries read at a time: 1 MiB of them, which a processor's cache holds.
_WINDOW = 1 << 17


class PagemapReadEngine:
    """See the module's docstring; the interface is :class:`.base.Engine`'s."""

    name = "pagemap-read"

    def __init__(self, space: AddressSpace):
        self._space = space
        self._pagemap: Pagemap = space.open_pagemap()
        try:
            self._uffd = space.open_userfaultfd(TRACKING_FEATURES)
        except BaseException:
            self._pagemap.close()
            raise
        self._registered = Registrations(space, self._uffd, RegisterMode.WP)
        #: What was populated when last taken, in extents where that is needed to find what was given back.
        self._populated = self._nothing = Regions.empty(page_size=space.page_size)

    # Covering -------------------------------------------------------------------------------------------------------

    def plan(self, pages: Regions) -> list[Extent]:
        return plan_with_holes(self._space, pages, self._holes)

    def _holes(self, extent: Extent) -> int:
        populated = sum(int(np.count_nonzero(entries & _POPULATED)) for _, entries in self._windows(extent))
        return extent.size - populated * self._space.page_size

    def cover(self, extents: Sequence[Extent]) -> None:
        self._registered.cover(extents)

    def refuses(self, start: int, end: int) -> bool:
        return self._registered.refuses(start, end)

    def uncover(self, pages: Regions) -> None:
        self._populated -= pages
        self._registered.uncover(pages)

    def arm(self, extents: Sequence[Extent], how: Arm) -> None:
        # Whether by "scan" was asked or not: where this engine is used, the scan is not to be had.
        for extent in extents:
            if extent.sparse:
                self._look(extent, take=True)
            else:
                self._uffd.writeprotect(extent.start, extent.size)
                if self._remembers(extent):
                    self._given_back(extent, self._nothing, take=True)

    # Asking ---------------------------------------------------------------------------------------------------------

    def take(self, extents: Sequence[Extent]) -> Findings:
        return self._each(extents, take=True)

    def peek(self, extents: Sequence[Extent]) -> Findings:
        return self._each(extents, take=False)

    def _each(self, extents: Sequence[Extent], *, take: bool) -> Findings:
        look = functools.partial(self._look, take=take)
        return look_at_each(extents, look, has_gap=self._space.has_gap, page_size=self._space.page_size)

    def caveat(self, written: Regions, extents: Sequence[Extent]) -> str:
        if any(extent.sparse and written.clip(extent.start, extent.end) for extent in extents):
            return "in sparse memory a page that was only read for the first time counts as written"
        return hugetlb_caveat(written, extents)

    def _look(self, extent: Extent, *, take: bool) -> Regions:
        written = Regions.trusted(self._written(extent), page_size=self._space.page_size)
        if take:
            protect_again(self._uffd, written.to_records(), extent.page_size)
        if self._remembers(extent):
            gone = self._given_back(extent, written, take=take)
            if take and extent.sparse:
                # Named now, so somebody may read it from now on; only a mark tells when it is given back once more.
                protect_again(self._uffd, gone.to_records())
            return written | gone.with_categories(Category.WRITTEN)
        return written

    def _written(self, extent: Extent) -> NDArray[np.void]:
        found = []
        for start, entries in self._windows(extent):
            written = (entries & _PROTECTED) == 0
            if extent.sparse:
                written &= (entries & _POPULATED) != 0
            found.append(runs_of(written, start, self._space.page_size, Category.WRITTEN))
        return join_equal(np.concatenate(found))

    def _windows(self, extent: Extent) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        """The entries of an extent, a part at a time: (address of the first, entries)."""
        step = _WINDOW * self._space.page_size
        for start in range(extent.start, extent.end, step):
            yield start, self._pagemap.read_entries(start, min(start + step, extent.end))

    def _remembers(self, extent: Extent) -> bool:
        """Whether what is given back in this extent is found by comparing what is populated."""
        return extent.sparse or (extent.private and extent.page_size > self._space.page_size)

    def _given_back(self, extent: Extent, found: Regions, *, take: bool) -> Regions:
        """What was populated when last taken, or when ``found`` just now, and is no longer: its contents are gone."""
        size = self._space.page_size
        bit = _POPULATED if extent.sparse else _PRESENT
        parts = [runs_of((entries & bit) != 0, start, size) for start, entries in self._windows(extent)]
        now = Regions.merged(np.concatenate(parts), page_size=size)
        gone = ((self._populated.clip(extent.start, extent.end) | found) - now).with_categories(0)
        if take:
            # What was given back is remembered on, in sparse memory, where it gets a mark of its own.
            kept = now | gone if extent.sparse else now
            self._populated = (self._populated - Regions.span(extent.start, extent.end, page_size=size)) | kept
        return gone

    # Ending ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._uffd.close()
        self._pagemap.close()

    def close_in_child(self) -> None:
        # Closing a copy of the descriptor ends nothing in the parent, which holds its own.
        self.close()
