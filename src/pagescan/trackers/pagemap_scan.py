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

import errno
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..abi import TRACKING_FEATURES, AddressSpace, Mapping
from ..errors import (
    CoverageLost,
    InvalidArgument,
    KernelCannot,
    NoSuchProcess,
    NotWriteProtectable,
    RegisteredElsewhere,
)
from ..query import Category, Op
from ..ranges import Regions
from ..scanning.call import PreparedScan, prepare_scan
from ..scanning.walk import WALK_VEC_LEN, walk
from .base import Arm, Extent, Findings, Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ..abi import Pagemap

#: Bytes of holes that are protected without asking: 512 KiB of page tables.
HOLES_LIMIT = 256 << 20
#: Bytes of holes in shared memory or files beyond which covering is refused: 64 MiB of page tables.
SHARED_HOLES_LIMIT = 32 << 30

_POPULATED = Category.PRESENT | Category.SWAPPED


class PagemapScanEngine:
    """See the module's docstring; the interface is :class:`Engine`'s."""

    def __init__(self, space: AddressSpace, name: str, why: str):
        self.name = name
        self.why = why
        self._space = space
        self._pagemap: Pagemap = space.open_pagemap()
        try:
            self._uffd = space.open_userfaultfd(TRACKING_FEATURES)
        except BaseException:
            self._pagemap.close()
            raise
        self._reports_dropped = space.prove_tracking().reports_dropped
        #: What was populated when last taken, in extents where that is needed to find what was given back.
        self._populated = Regions.empty(page_size=space.page_size)
        get, again = Op.GET, Op.GET | Op.WP
        written, populated = Category.WRITTEN, int(_POPULATED)
        self._take = self._prepare(ops=again, required_mask=written, return_mask=written)
        self._look = self._prepare(ops=get, required_mask=written, return_mask=written)
        self._take_sparse = self._prepare(
            ops=again, required_mask=written, anyof_mask=populated, return_mask=written | Category.PFNZERO
        )
        self._look_sparse = self._prepare(
            ops=get, required_mask=written, anyof_mask=populated, return_mask=written | Category.PFNZERO
        )
        self._take_dropped = self._prepare(ops=again, excluded_mask=populated, return_mask=0)
        self._look_dropped = self._prepare(ops=get, excluded_mask=populated, return_mask=0)
        self._look_populated = self._prepare(ops=get, anyof_mask=populated, return_mask=0)
        self._look_present = self._prepare(ops=get, required_mask=Category.PRESENT, return_mask=0)
        self._protect_all = self._prepare(ops=again, return_mask=0)

    def _prepare(self, **masks: Any) -> PreparedScan:
        return prepare_scan(self._pagemap, 0, 0, vec_len=WALK_VEC_LEN, require_wp_async=True, **masks)

    # Planning -------------------------------------------------------------------------------------------------------

    def plan(self, pages: Regions) -> list[Extent]:
        extents: list[Extent] = []
        mappings = list(self._space.mappings())
        for page_range in pages:
            position = page_range.start
            for mapping in mappings:
                if mapping.end <= position or mapping.start >= page_range.end:
                    continue
                if mapping.start > position:
                    break
                extents.append(self._extent(mapping, position, min(mapping.end, page_range.end)))
                position = mapping.end
            if position < page_range.end:
                raise InvalidArgument(
                    f"{position:#x} in {self._space.label} is not mapped, so {page_range.start:#x}-{page_range.end:#x} "
                    "cannot be tracked",
                    hint="the buffer was freed or unmapped; track memory that is alive",
                )
        return self._with_sparse(extents, mappings)

    def _extent(self, mapping: Mapping, start: int, end: int) -> Extent:
        size = mapping.page_size
        base = mapping.start
        low, high = base + (start - base) // size * size, base + -(-(end - base) // size) * size
        return Extent(low, high, size, private=not mapping.shared)

    def _with_sparse(self, extents: list[Extent], mappings: Sequence[Mapping]) -> list[Extent]:
        """Decide which extents have too many holes to protect."""
        if sum(e.end - e.start for e in extents) <= HOLES_LIMIT:
            return extents
        result = []
        for extent in extents:
            mapping = next(m for m in mappings if m.start <= extent.start < m.end)
            holes = 0 if self._huge(extent) else self._holes(extent)
            if holes <= HOLES_LIMIT:
                result.append(extent)
            elif mapping.private_anonymous:
                result.append(replace(extent, sparse=True))
            elif holes > SHARED_HOLES_LIMIT:
                raise InvalidArgument(
                    f"{mapping} has {holes:,} bytes that were never touched; protecting them would take "
                    f"{holes >> 9:,} bytes of page tables",
                    hint="track the part that is in use (a slice of the buffer)",
                )
            else:
                result.append(extent)
        return result

    def _holes(self, extent: Extent) -> int:
        scan = prepare_scan(
            self._pagemap, 0, 0, anyof_mask=_POPULATED, return_mask=0, vec_len=WALK_VEC_LEN, require_wp_async=False
        )
        found = walk(scan, extent.start, extent.end)
        return extent.end - extent.start - int((found["end"] - found["start"]).sum())

    # Covering -------------------------------------------------------------------------------------------------------

    def cover(self, extents: Sequence[Extent]) -> None:
        done: list[Extent] = []
        try:
            for extent in extents:
                self._uffd.register(extent.start, extent.end - extent.start)
                done.append(extent)
        except OSError as error:
            for extent in done:
                self._unregister(extent.start, extent.end)
            raise self._register_error(error, extents[len(done)]) from None

    def _register_error(self, error: OSError, extent: Extent) -> Exception:
        mapping = self._space.mapping_at(extent.start)
        asked = f"the mapping {mapping or hex(extent.start)} in {self._space.label} cannot be write-protected"
        if error.errno == errno.EBUSY:
            return RegisteredElsewhere(
                f"{asked}: another userfaultfd owns it, and the kernel allows one only",
                hint="close the other tracker (another library, a debugger, a virtual machine monitor) first",
                errno=errno.EBUSY,
            )
        if error.errno == errno.EPERM:
            return NotWriteProtectable(
                f"{asked}: it shares a file that was opened read-only, so it can never be written to from here",
                hint="map the file for writing, or privately (ACCESS_COPY), or leave it out",
                errno=errno.EPERM,
            )
        if error.errno == errno.EINVAL:
            return NotWriteProtectable(
                f"{asked}: the kernel allows it for ordinary memory only (not [vdso], [vvar] or device memory)",
                hint="track buffers of your own, or the process's heap, stack and anonymous mappings",
                errno=errno.EINVAL,
            )
        if error.errno == errno.ENOMEM:
            return NoSuchProcess(f"{asked}: its address space is gone", errno=errno.ENOMEM)
        return KernelCannot(f"{asked}: {error.strerror}", errno=error.errno)

    def uncover(self, pages: Regions) -> None:
        self._populated -= pages
        for region in pages:
            self._unregister(region.start, region.end)

    def _unregister(self, start: int, end: int) -> None:
        """Unregister what is still mapped of [start, end), mapping by mapping: a hole in the range is EINVAL."""
        for mapping in self._space.mappings():
            low, high = max(start, mapping.start), min(end, mapping.end)
            if low < high:
                try:
                    self._uffd.unregister(low, high - low)
                except OSError:
                    # Replaced by memory that cannot be registered; there is nothing left to undo.
                    continue

    def arm(self, extents: Sequence[Extent], how: Arm) -> None:
        for extent in extents:
            if extent.sparse:
                walk(self._take_sparse, extent.start, extent.end)
            elif how == "ioctl" or self._huge(extent):
                self._uffd.writeprotect(extent.start, extent.end - extent.start)
            else:
                # Without masks, memory that has no page table yet is protected as well. Empty entries of a page table
                # that exists are not, before 7.2 (only what is WRITTEN is protected, and they are not, in that form);
                # the form that asks for WRITTEN alone reaches them.
                walk(self._protect_all, extent.start, extent.end)
                walk(self._take, extent.start, extent.end)
            if self._remembers(extent):
                self._given_back(extent, remember=True)

    # Asking ---------------------------------------------------------------------------------------------------------

    def take(self, extents: Sequence[Extent]) -> Findings:
        return self._each(extents, self._take_one)

    def peek(self, extents: Sequence[Extent], *, first: bool = False) -> Findings:
        return self._each(extents, functools.partial(self._peek_one, first=first))

    def _each(self, extents: Sequence[Extent], look: Callable[[Extent], NDArray[np.void]]) -> Findings:
        parts: list[NDArray[np.void]] = []
        losses: list[Loss] = []
        for extent in extents:
            try:
                found = look(extent)
                if self._space.has_gap(extent.start, extent.end):
                    raise CoverageLost("part of it is no longer mapped")
            except NotWriteProtectable:
                losses.append(Loss(extent, "it was moved, mapped anew, or unregistered"))
            except (CoverageLost, NoSuchProcess) as error:
                losses.append(Loss(extent, error.message))
            else:
                if len(found):
                    parts.append(found)
        size = self._space.page_size
        if not parts:
            return Findings(Regions.empty(page_size=size), losses)
        if len(parts) == 1:
            return Findings(Regions.trusted(parts[0], page_size=size), losses)
        return Findings(Regions.merged(np.concatenate(parts), page_size=size), losses)

    def _take_one(self, extent: Extent) -> NDArray[np.void]:
        if extent.sparse:
            return self._sparse(extent, self._take_sparse, remember=True)
        found = walk(self._take, extent.start, extent.end)
        if self._huge(extent):
            empty = self._pages(self._look_dropped, extent)
            for region in empty:
                # A write that falls before this lies in pages that are reported now, and read by the caller later.
                self._uffd.writeprotect(region.start, region.size)
            return self._with_dropped(found, empty | self._given_back(extent, remember=True))
        if not self._reports_dropped:
            return self._with_dropped(found, self._pages(self._take_dropped, extent))
        return found

    def _peek_one(self, extent: Extent, *, first: bool = False) -> NDArray[np.void]:
        if extent.sparse:
            return self._sparse(extent, self._look_sparse, remember=False)
        found = walk(self._look, extent.start, extent.end, max_pages=int(first))
        if first and len(found):
            return found
        if self._huge(extent):
            empty = self._pages(self._look_dropped, extent)
            return self._with_dropped(found, empty | self._given_back(extent, remember=False))
        if not self._reports_dropped:
            return self._with_dropped(found, self._pages(self._look_dropped, extent))
        return found

    def _sparse(self, extent: Extent, scan: PreparedScan, *, remember: bool) -> NDArray[np.void]:
        """Written pages of an extent whose holes are not protected."""
        found = self._pages(scan, extent)
        # A hole that was only read maps the page of zeros: WRITTEN in the tables, but zeros are what it held before.
        only_read = found.where(required=Category.PFNZERO) - self._populated
        written = (found - only_read).with_categories(Category.WRITTEN)
        return self._with_dropped(written.to_records(), self._given_back(extent, remember=remember))

    def _given_back(self, extent: Extent, *, remember: bool) -> Regions:
        """What was populated when last taken and is no longer: its contents are gone."""
        size = self._space.page_size
        if not self._remembers(extent):
            return Regions.empty(page_size=size)
        before = self._populated.clip(extent.start, extent.end)
        now = self._pages(self._look_present if self._huge(extent) else self._look_populated, extent)
        if remember:
            self._populated = (self._populated - Regions.span(extent.start, extent.end, page_size=size)) | now
        return before - now

    def _remembers(self, extent: Extent) -> bool:
        """Whether what is given back in this extent is found by comparing what is populated."""
        return extent.sparse or (extent.private and self._huge(extent))

    def _huge(self, extent: Extent) -> bool:
        return extent.page_size > self._space.page_size

    def _pages(self, scan: PreparedScan, extent: Extent) -> Regions:
        return Regions.trusted(walk(scan, extent.start, extent.end), page_size=self._space.page_size)

    def _with_dropped(self, found: NDArray[np.void], dropped: Regions) -> NDArray[np.void]:
        if not dropped:
            return found
        written = Regions.trusted(found, page_size=self._space.page_size)
        return (written | dropped.with_categories(Category.WRITTEN)).to_records()

    # Ending ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._uffd.close()
        self._pagemap.close()

    def close_in_child(self) -> None:
        # Closing a copy of the descriptor ends nothing in the parent, which holds its own.
        self.close()
