"""The engine behind ``track(what="accessed")``: which pages were touched, read or written, since one last asked.

Linux 7.3 can protect memory of a userfaultfd against reads as well (mode RWP, features RWP and RWP_ASYNC; a series by
Kiryl Shutsemau, 2026). The first touch of a protected page then costs one fault that the kernel resolves by itself, and
a page without the bit is ACCESSED.

``PAGEMAP_SCAN`` passes over such mappings when it is asked to protect, so getting and protecting are two calls here:
get what is ACCESSED, then ``UFFDIO_RWPROTECT`` just that. A touch that falls between the two lies in a page that this
very answer names; a touch of any other page stays noted for the next. So none is lost.

``PM_SCAN_CHECK_WPASYNC`` refuses these mappings, so lost coverage is found another way: another userfaultfd tries to
register the memory. EBUSY says that it is still ours; success says that it is not (and is undone).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ..abi import AddressSpace, Feature, RegisterMode
from ..errors import KernelCannot
from ..query import Category
from ..ranges import Regions
from ..scanning.call import prepare_scan
from ..scanning.walk import WALK_VEC_LEN
from .base import Arm, Extent, Findings, Loss
from .looking import MOVED, UNMAPPED, hugetlb_caveat
from .registration import plan_extents, register, unregister

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..abi import Pagemap
    from ..scanning.prepared import PreparedScan

FEATURES = Feature.RWP | Feature.RWP_ASYNC


class AccessedEngine:
    """See the module's docstring; the interface is :class:`.base.Engine`'s."""

    name = "accessed"
    why = "PAGE_IS_ACCESSED under userfaultfd's read-write protection"

    def __init__(self, space: AddressSpace):
        self._space = space
        self._pagemap: Pagemap = space.open_pagemap()
        try:
            self._check_kernel()
            self._uffd = space.open_userfaultfd(FEATURES)
            self._probe = space.open_userfaultfd(FEATURES)
        except OSError as error:
            self._pagemap.close()
            if error.errno == errno.EINVAL and not isinstance(error, KernelCannot):
                raise _too_old(space) from None
            raise
        except BaseException:
            self._pagemap.close()
            raise
        self._accessed = self._prepare(required_mask=Category.ACCESSED, return_mask=Category.ACCESSED)
        self._populated = self._prepare(anyof_mask=Category.PRESENT | Category.SWAPPED, return_mask=0)

    def _check_kernel(self) -> None:
        if not self._pagemap.known & Category.ACCESSED:
            raise _too_old(self._space)

    def _prepare(self, **masks: Any) -> PreparedScan:
        return prepare_scan(self._pagemap, 0, 0, vec_len=WALK_VEC_LEN, require_wp_async=False, **masks)

    def plan(self, pages: Regions) -> list[Extent]:
        return plan_extents(self._space, pages)[0]

    def cover(self, extents: Sequence[Extent]) -> None:
        register(self._space, self._uffd, extents, RegisterMode.RWP)

    def arm(self, extents: Sequence[Extent], how: Arm) -> None:
        # What is not populated needs no protection: it becomes ACCESSED when it is first touched.
        for extent in extents:
            self._protect(self._regions(self._populated, extent), extent)

    def take(self, extents: Sequence[Extent]) -> Findings:
        findings = self.peek(extents)
        for extent in extents:
            part = findings.written.clip(extent.start, extent.end)
            try:
                self._protect(part, extent)
            except OSError as error:
                findings.losses.append(Loss(extent, f"it can no longer be protected ({error.strerror})"))
        return findings

    def peek(self, extents: Sequence[Extent]) -> Findings:
        found: list[Regions] = []
        losses: list[Loss] = []
        for extent in extents:
            if self._space.has_gap(extent.start, extent.end):
                losses.append(Loss(extent, UNMAPPED))
            elif not self._still_ours(extent):
                losses.append(Loss(extent, MOVED))
            else:
                found.append(self._regions(self._accessed, extent))
        return Findings(Regions.union(found, page_size=self._space.page_size), losses)

    def caveat(self, written: Regions, extents: Sequence[Extent]) -> str:
        return hugetlb_caveat(written, extents)

    def _regions(self, scan: PreparedScan, extent: Extent) -> Regions:
        return scan.walk(extent.start, extent.end)

    def _protect(self, regions: Regions, extent: Extent) -> None:
        size = extent.page_size
        for region in regions:
            low, high = region.start // size * size, -(-region.end // size) * size
            self._uffd.rwprotect(low, high - low)

    def _still_ours(self, extent: Extent) -> bool:
        """Whether every mapping of the extent is registered with our userfaultfd."""
        for mapping in self._space.mappings():
            low, high = max(mapping.start, extent.start), min(mapping.end, extent.end)
            if low >= high:
                continue
            try:
                self._probe.register(low, high - low, RegisterMode.RWP)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    continue
                return False
            self._probe.unregister(low, high - low)
            return False
        return True

    def uncover(self, pages: Regions) -> None:
        unregister(self._space, self._uffd, pages)

    def close(self) -> None:
        self._uffd.close()
        self._probe.close()
        self._pagemap.close()

    def close_in_child(self) -> None:
        self.close()


def _too_old(space: AddressSpace) -> KernelCannot:
    return KernelCannot(
        f"accessed pages of {space.label} cannot be tracked: this kernel has no read-write protection (RWP) of "
        "userfaultfd, nor the category ACCESSED",
        hint='run Linux 7.3 or later on x86-64, arm64 or riscv64, or track what="written"',
    )
