"""The engine ``soft-dirty``: the kernel's older way, for where there is no userfaultfd (Linux 3.11).

``4`` written to ``/proc/PID/clear_refs`` takes the soft-dirty bit from every page of a process and protects them all; a
write sets it again, and bit 55 of ``/proc/PID/pagemap`` tells. Everybody may do that to their own processes. What the
kernel does, and what follows for us:

*The reset is the whole process's.* So all that is covered is read before each reset, and what was found of memory that
was not asked about waits here until it is (`_due`). Who else resets the bits (CRIU, another tool) takes from us: a page
of our own, written to after every reset, must have its bit at the next look; if not, all that is covered counts as
written.

*Reading and resetting are two steps, and not atomic.* A write in between to a page that was clean would be lost. Such
a write takes a page fault, and the kernel counts faults. So faults of other threads are counted before and after; if
there was one, all that is covered counts as written. (Not counted: another process that writes by process_vm_writev in
that very moment.)

*The bit says too much*: of whole mappings that are new, or that were merged with a new one; of whole huge pages. So
every answer that names a page is a superset.

*The bit says too little* where page tables forget: a page of a file, or of shared memory, that is unmapped for want of
memory comes back clean. So only private memory is covered. There, memory that is given back (MADV_DONTNEED) leaves no
bit behind, so pages that held something of the process's own, or that were named, are remembered; one that is gone, or
that may be the page of zeros by now, is named, again and again until it is populated. (After a fork, pages shared with
the child look the same, and are named until they are written to or the child is gone.) hugetlb memory has no soft-dirty
bits.

Whether a kernel has soft-dirty is found by trying it: one built without accepts the reset and does nothing.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from ..abi import Entry, MemoryKind
from ..errors import KernelCannot, NotWriteProtectable
from ..query import Category
from ..ranges import Regions
from .looking import look_at_each, runs_of
from .registration import plan_extents

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..abi import AddressSpace, Mapping, Pagemap, TrialMemory
    from .base import Arm, Extent, Findings

_DIRTY = np.uint64(Entry.SOFT_DIRTY)
_PRESENT, _SWAPPED = np.uint64(Entry.PRESENT), np.uint64(Entry.SWAPPED)
_FILE, _EXCLUSIVE = np.uint64(Entry.FILE), np.uint64(Entry.EXCLUSIVE)
#: Entries read at a time: 1 MiB of them.
_WINDOW = 1 << 17
#: How often reading is begun anew because somebody took a page fault meanwhile.
_ATTEMPTS = 3


class SoftDirtyEngine:
    """See the module's docstring; the interface is :class:`.base.Engine`'s."""

    name = "soft-dirty"

    def __init__(self, space: AddressSpace):
        self._space = space
        self._stack = ExitStack()
        self._pagemap: Pagemap = space.open_pagemap()
        self._stack.callback(self._pagemap.close)
        none = Regions.empty(page_size=space.page_size)
        #: What is covered; what was found of it and not taken yet; what held something, or was named; what does now.
        self._covered, self._due, self._known, self._now = none, none, none, none
        self._witness: TrialMemory | None = None
        try:
            # A private file's page never joins a neighbour's mapping, which would set its bit.
            kind = MemoryKind(anonymous=False, shared=False, page_size=space.page_size)
            witness = self._stack.enter_context(space.trial(kind))
            if witness.space is space:  # nothing can be mapped in another process
                self._witness = witness
                witness.write(0)
                if not self._witnessed():
                    raise KernelCannot(
                        "this kernel has no soft-dirty bits: a page just written to does not have it",
                        hint="run a kernel that has CONFIG_MEM_SOFT_DIRTY=y (x86-64, s390, powerpc)",
                    )
        except BaseException:
            self._stack.close()
            raise

    # Covering -------------------------------------------------------------------------------------------------------

    def plan(self, pages: Regions) -> list[Extent]:
        extents, mappings = plan_extents(self._space, pages)
        for extent, mapping in zip(extents, mappings, strict=True):
            if not extent.private:
                raise _refused(mapping, "the kernel forgets the bits of shared memory that it unmaps")
            if extent.page_size > self._space.page_size:
                raise _refused(mapping, "hugetlb memory has no soft-dirty bits")
        return extents

    def cover(self, extents: Sequence[Extent]) -> None:
        spans = Regions.from_pairs(((e.start, e.end) for e in extents), page_size=self._space.page_size)
        self._covered |= spans

    def uncover(self, pages: Regions) -> None:
        self._covered -= pages
        self._due -= pages
        self._known -= pages

    def arm(self, extents: Sequence[Extent], how: Arm) -> None:
        self._reset()
        spans = Regions.from_pairs(((e.start, e.end) for e in extents), page_size=self._space.page_size)
        self._due -= spans
        self._known = (self._known - spans) | (self._now & spans)

    # Asking ---------------------------------------------------------------------------------------------------------

    def take(self, extents: Sequence[Extent]) -> Findings:
        self._reset()
        findings = self._answer(extents, self._due)
        self._due -= findings.written
        return findings

    def peek(self, extents: Sequence[Extent]) -> Findings:
        size = self._space.page_size
        asked = Regions.from_pairs(((e.start, e.end) for e in extents), page_size=size) & self._covered
        if not self._witnessed():
            return self._answer(extents, self._covered)
        return self._answer(extents, self._due | self._look(asked)[0])

    def _answer(self, extents: Sequence[Extent], due: Regions) -> Findings:
        def look(extent: Extent) -> Regions:
            return due.clip(extent.start, extent.end).with_categories(Category.WRITTEN)

        return look_at_each(extents, look, has_gap=self._space.has_gap, page_size=self._space.page_size)

    def caveat(self, written: Regions, extents: Sequence[Extent]) -> str:
        return (
            "soft-dirty bits say more than was written to: whole huge pages, mappings that were merged, and everything "
            "where other threads took page faults, or somebody else reset the bits, at the moment of the look"
        )

    def _reset(self) -> None:
        """Read all that is covered, reset the bits of the whole process; what was found is due."""
        for _ in range(_ATTEMPTS):
            faults = self._space.foreign_faults()
            dirty, self._now = self._look(self._covered)
            if self._space.foreign_faults() == faults:
                break
        intact = self._witnessed()
        self._space.clear_soft_dirty()
        if self._witness is not None:
            self._witness.write(0)
        if not intact or self._space.foreign_faults() != faults:
            dirty = self._covered
        self._due |= dirty
        self._known |= self._now | dirty

    def _witnessed(self) -> bool:
        """Whether nobody but us has reset the bits since we did."""
        if self._witness is None:
            return True
        entries = self._pagemap.read_entries(self._witness.start, self._witness.start + self._witness.size)
        return bool(entries[0] & _DIRTY)

    def _look(self, pages: Regions) -> tuple[Regions, Regions]:
        """(the pages written to or given back since the last reset, those that hold something of the process's own)."""
        size = self._space.page_size
        none = runs_of(np.zeros(0, np.bool_), 0, size)
        dirty, own = [none], [none]
        for start, entries in self._windows(pages):
            # Present, of no file and not this process's alone: the page of zeros, or shared with a forked child.
            alone = ((entries & _PRESENT) != 0) & ((entries & _FILE) == 0) & ((entries & _EXCLUSIVE) != 0)
            dirty.append(runs_of((entries & _DIRTY) != 0, start, size))
            own.append(runs_of(alone | ((entries & _SWAPPED) != 0), start, size))
        found, now = (Regions.merged(np.concatenate(parts), page_size=size) for parts in (dirty, own))
        return found | ((self._known & pages) - now), now

    def _windows(self, pages: Regions) -> Iterator[tuple[int, NDArray[np.uint64]]]:
        step = _WINDOW * self._space.page_size
        for region in pages:
            for start in range(region.start, region.end, step):
                yield start, self._pagemap.read_entries(start, min(start + step, region.end))

    # Ending ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._stack.close()

    def close_in_child(self) -> None:
        self._stack.close()


def _refused(mapping: Mapping, why: str) -> NotWriteProtectable:
    return NotWriteProtectable(
        f"written pages of the mapping {mapping} cannot be found by soft-dirty bits: {why}",
        hint='use engine="compare", or leave it out',
    )
