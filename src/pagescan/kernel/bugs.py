"""Known defects and blind spots of the interface: which of them this kernel shows, and what pagescan does about each.

Only probes that cannot harm the machine are run. They use the small memory of a :class:`Trial`, and never the calls
that crash or hang an affected kernel.
"""

from __future__ import annotations

import errno
import os

from ..abi import PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING
from ..errors import KernelCannot
from ..query import Category
from . import memory
from .findings import Bug
from .memory import PAGE_SIZE
from .pagemap import Pagemap
from .trial import Trial, child

_WP = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC
#: Regions that the kernel gathers before it copies them out: ``PMD_SIZE >> PAGE_SHIFT``.
_BATCH = PAGE_SIZE // 8


def stale_walk_end() -> tuple[bool, str]:
    with Trial() as trial:
        pages = trial.pages(2 * (_BATCH + 1))
        pages.write(*range(0, pages.count, 2))
        found = trial.scan(pages, mask=Category.PRESENT, returned=Category.PRESENT, vec_len=4000)
        at = "the end" if trial.walk_end == pages.end else f"page {(trial.walk_end - pages.start) // PAGE_SIZE}"
        seen = f"one call returned {len(found)} regions, the last at page {max(found)} of {pages.count}"
        return trial.walk_end != pages.end, f"{seen}; walk_end says {at}"


def exclusive_ignores_masks() -> tuple[bool, str]:
    """Safe: pages mapped one by one. The crash of the same form needs part of a huge page."""
    with Trial() as trial:
        pages = trial.pages(4)
        trial.register(pages)
        pages.write(0, 1, 2, 3)
        trial.scan(pages, mask=Category.FILE, flags=_WP, vec_len=0)
        left = trial.written(pages)
        hit = 4 - len(left)
        return hit > 0, f"asked without an output buffer to protect the pages of files: {hit} of 4 anonymous ones were"


def hugetlb_no_progress() -> tuple[bool, str]:
    """Safe: the huge page is populated (holes hang), and there is an output buffer (its lack crashes)."""
    with Trial() as trial:
        pages = trial.huge_page()
        if pages is None:
            raise KernelCannot("it needs a free hugetlb page, and there is none: sudo sysctl vm.nr_hugepages=8")
        trial.register(pages)
        part = pages.part(0, 1)
        found = trial.scan(part, mask=Category.WRITTEN, returned=Category.WRITTEN, flags=_WP)
        stuck = not found and trial.walk_end == part.start
        ends = "ends where it began, without an error" if stuck else "goes on"
        return stuck, f"protecting part of a huge page {ends}"


def dropped_unreported() -> tuple[bool, str]:
    with Trial() as trial:
        pages = trial.pages(4)
        trial.register(pages)
        pages.write(0, 1, 2, 3)
        trial.protect(pages)
        memory.madvise(pages.address(1), pages.size, memory.Advice.DONTNEED)
        found = trial.scan(pages, mask=Category.WRITTEN, returned=Category.WRITTEN | Category.PRESENT)
        missed = 1 not in found
        return missed, f"dropped a protected page (MADV_DONTNEED): it is {'not ' * missed}reported as written"


def holes_unreported() -> tuple[bool, str]:
    with Trial() as trial:
        area = trial.area()
        trial.register(area)
        found = trial.written(area)
        missed = len(found) != area.count
        return missed, f"registered {area.count} pages that have no page table: {len(found)} are reported as written"


def dropped_file_page() -> tuple[bool, str]:
    with Trial() as trial:
        pages = trial.memfd(4, shared=False)
        trial.register(pages)
        pages.write(1)
        trial.protect(pages)
        memory.madvise(pages.address(1), pages.size, memory.Advice.DONTNEED)
        reverted = pages.read(1) == 0
        missed = reverted and 1 not in trial.written(pages)
        seen = "dropped a private copy of a file's page: it reverted, and is"
        return missed, f"{seen} {'not ' * missed}reported as written"


def hole_punch() -> tuple[bool, str]:
    with Trial() as trial:
        pages = trial.memfd(4, shared=True)
        trial.register(pages)
        pages.write(1)
        trial.protect(pages)
        memory.madvise(pages.address(1), pages.size, memory.Advice.REMOVE)
        missed = 1 not in trial.written(pages)
        seen = "punched a hole into shared memory (MADV_REMOVE): its page is"
        return missed, f"{seen} {'not ' * missed}reported as written"


def other_mapping() -> tuple[bool, str]:
    with Trial() as trial:
        fd = os.memfd_create("pagescan-trial", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, 4 * PAGE_SIZE)
            ours, theirs = (trial.pages(4, flags=memory.MAP_SHARED, fd=fd) for _ in range(2))
        finally:
            os.close(fd)
        trial.register(ours)
        trial.protect(ours)
        theirs.write(1)
        missed = 1 not in trial.written(ours)
        return missed, f"wrote through another mapping of the same memory: that is {'not ' * missed}reported"


def markers_look_swapped() -> tuple[bool, str]:
    with Trial() as trial:
        pages = trial.pages(4)
        trial.register(pages)
        trial.protect(pages)
        found = trial.scan(pages, mask=Category.SWAPPED, returned=Category.SWAPPED)
        return bool(found), f"protected 4 pages that were never touched: {len(found)} are reported as swapped"


def silent_after_exit() -> tuple[bool, str]:
    """In a child that has been waited for: its memory is gone for good, so nothing can race with the scan."""
    with child() as other:
        pagemap = Pagemap.open(other.pid)
    with pagemap, Trial() as trial:
        pages = trial.pages(1)
        _ = trial.pagemap.known  # KernelCannot without PAGEMAP_SCAN
        trial.pagemap.close()
        trial.pagemap = pagemap
        try:
            trial.scan(pages)
        except ProcessLookupError:
            return False, "scanned the pagemap of a process that has exited: ESRCH"
        except OSError as error:
            return True, f"scanned the pagemap of a process that has exited: {errno.errorcode.get(error.errno or 0)}"
        return True, "scanned the pagemap of a process that has exited: an empty answer, without an error"


#: Every known bug and blind spot, those that this machine can be asked about first.
BUGS: tuple[Bug, ...] = (
    Bug(
        "stale-walk-end",
        f"walk_end is stale after more than {_BATCH} regions in one call",
        "open (6.7 to 7.3)",
        "pagescan works out by itself where a call ended, and counts no region twice",
        stale_walk_end,
    ),
    Bug(
        "exclusive-ignores-masks",
        "protecting without an output buffer ignores the masks",
        'open; by design of 12f6b01a0bcb ("fs/proc/task_mmu: add fast paths to get/clear PAGE_IS_WRITTEN flag"), 6.7',
        "pagescan always gives an output buffer, also where nobody wants the output",
        exclusive_ignores_masks,
    ),
    Bug(
        "hugetlb-no-progress",
        "protecting part of a hugetlb page never gets on",
        "open (6.7 to 7.3)",
        "pagescan refuses such a range before the call, and its trackers work in whole huge pages",
        hugetlb_no_progress,
    ),
    Bug(
        "dropped-unreported",
        "dropped memory counts as unwritten unless asked in one exact form",
        '7.2, 6.12.103: "fs/proc/task_mmu: written state for unpopulated ptes", K. Shutsemau, July 2026',
        "pagescan's trackers ask in that form",
        dropped_unreported,
    ),
    Bug(
        "holes-unreported",
        "memory dropped down to its page table counts as unwritten",
        '7.2, 6.12.103: "fs/proc/task_mmu: written state for PMD holes", K. Shutsemau, July 2026',
        "pagescan's trackers compare what is populated with what was",
        holes_unreported,
    ),
    Bug(
        "silent-after-exit",
        "the pagemap of an exited process answers without an error",
        '7.3.2, 6.12.117: "fs/proc/task_mmu: pin mm_users in do_pagemap_scan()"',
        "pagescan checks that a process is alive, by pid and start time, before it scans it",
        silent_after_exit,
    ),
    Bug(
        "dropped-file-page",
        "a dropped private copy of a file's page counts as unwritten",
        "open (6.7 to 7.3)",
        "no scan can see it: do not drop private pages of files while they are tracked",
        dropped_file_page,
    ),
    Bug(
        "hole-punch",
        "a hole punched into shared memory or a file counts as unwritten",
        "open (6.7 to 7.3)",
        "no scan can see it: do not punch holes, or truncate, while the memory is tracked",
        hole_punch,
    ),
    Bug(
        "other-mapping",
        "writes through another mapping of the same memory are not seen",
        "by design: written is a property of a page table",
        "track the memory in each process, and through each mapping, that writes to it",
        other_mapping,
    ),
    Bug(
        "markers-look-swapped",
        "a protected page that was never touched is reported as swapped",
        "by design: a marker stands in its place",
        "pagescan.scan and the command tell markers from swapped pages; pagemap_scan gives the kernel's word",
        markers_look_swapped,
    ),
    Bug(
        "crash-without-buffer",
        "protecting part of a huge page without an output buffer crashes the kernel",
        '6.17, 6.16.10, 6.12.50: 28aa29986dde ("fs/proc/task_mmu: check p->vec_buf for NULL")',
        "pagescan always gives an output buffer",
        None,
    ),
    Bug(
        "hugetlb-deadlock",
        "protecting an empty hugetlb page by a scan hangs for ever",
        "7.2, 6.12.97: e92d92bbafb2 (hugetlb self-deadlock in pagemap_scan_pte_hole())",
        "pagescan's trackers protect hugetlb pages by UFFDIO_WRITEPROTECT instead",
        None,
    ),
)
