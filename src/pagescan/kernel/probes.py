"""Round trips for PAGEMAP_SCAN and each page category: make a page be so, look, and see no other page called so."""

from __future__ import annotations

import errno
from pathlib import Path

from ..abi import Feature, RegisterMode
from ..errors import KernelCannot
from ..query import Category
from . import memory
from .findings import Outcome, State, works
from .trial import PMD_SIZE, Pages, Trial, default_huge_page

#: The release that brought each category; 6.7 where none is named.
CATEGORY_SINCE = {Category.SOFT_DIRTY: "6.8", Category.GUARD: "6.16", Category.ACCESSED: "7.3"}
#: The largest transparent huge page a probe may fill (64 KiB base pages have huge ones of 512 MiB).
_LARGEST_TRIAL = 32 << 20
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def require(trial: Trial, category: Category) -> None:
    """Raise KernelCannot if this kernel does not know the category (nor, then, PAGEMAP_SCAN)."""
    if not trial.pagemap.known & category:
        since = CATEGORY_SINCE.get(category, "6.7")
        raise KernelCannot(f"this kernel does not know the category (EINVAL); Linux {since} brought it")


def compare(found: list[int], expected: list[int], done: str, what: str) -> Outcome:
    """The outcome of a look at pages: works if exactly the expected ones were reported ``what``."""
    if found == expected:
        return works(f"{done}: only {_pages(expected)} reported {what}")
    seen = f"{done}: {_pages(found)} reported {what}, not {_pages(expected).rpartition(' ')[0]}"
    return Outcome(State.MISSING, seen, "the kernel's answer is wrong")


def _pages(indices: list[int]) -> str:
    if not indices:
        return "no page is"
    if len(indices) == 1:
        return f"page {indices[0]} is"
    names = " and ".join(map(str, indices)) if len(indices) < 4 else f"{indices[0]}-{indices[-1]}"
    return f"pages {names} are"


def _having(trial: Trial, pages: Pages, category: Category) -> list[int]:
    """The indices of the pages that have a category."""
    return list(trial.scan(pages, mask=category, returned=category))


def pagemap_scan() -> Outcome:
    with Trial() as trial:
        require(trial, Category.PRESENT)
        pages = trial.pages(8)
        pages.write(1, 4)
        found = _having(trial, pages, Category.PRESENT)
        return compare(found, [1, 4], "touched pages 1 and 4 of 8 fresh ones", "present")


def wpallowed() -> Outcome:
    with Trial() as trial:
        require(trial, Category.WPALLOWED)
        pages = trial.pages(4)
        trial.register(pages.part(0, 2))
        return compare(_having(trial, pages, Category.WPALLOWED), [0, 1], "registered 2 of 4 pages", "wpallowed")


def written() -> Outcome:
    with Trial() as trial:
        require(trial, Category.WRITTEN)
        pages = trial.pages(4)
        trial.register(pages)
        trial.protect(pages)
        pages.write(3)
        return compare(trial.written(pages), [3], "protected 4 pages, wrote to page 3", "written")


def of_file() -> Outcome:
    with Trial() as trial:
        require(trial, Category.FILE)
        shared, own = trial.memfd(4, shared=True), trial.pages(4)
        shared.write(2)
        own.write(2)
        if _having(trial, own, Category.FILE):
            return Outcome(State.MISSING, "a touched anonymous page is reported as a file's", "the answer is wrong")
        done = "touched page 2 of a file in memory, and anonymous memory"
        return compare(_having(trial, shared, Category.FILE), [2], done, "a file's")


def present() -> Outcome:
    with Trial() as trial:
        require(trial, Category.PRESENT)
        pages = trial.pages(4)
        pages.write(0)
        return compare(_having(trial, pages, Category.PRESENT), [0], "touched page 0 of 4 fresh ones", "present")


def swapped() -> Outcome:
    with Trial() as trial:
        require(trial, Category.SWAPPED)
        if not _has_swap():
            cause = "no swap is switched on, so no page can be swapped out (and a marker would prove nothing)"
            return Outcome(State.SKIPPED, "", cause)
        pages = trial.pages(16)
        pages.write(*range(16))
        memory.madvise(pages.start, pages.length, memory.Advice.PAGEOUT)
        found = _having(trial, pages, Category.SWAPPED)
        present_now = _having(trial, pages, Category.PRESENT)
        if found and sorted(found + present_now) == list(range(16)):
            return works(f"asked the kernel to page 16 written pages out: {len(found)} are reported swapped")
        seen = "asked the kernel to page 16 written pages out, and it kept them"
        return Outcome(State.UNKNOWN, seen, "the swap may be full, or this control group may not use it")


def _has_swap() -> bool:
    try:
        return len(Path("/proc/swaps").read_text().splitlines()) > 1
    except OSError:
        return False


def pfnzero() -> Outcome:
    with Trial() as trial:
        require(trial, Category.PFNZERO)
        pages = trial.pages(4)
        pages.read(1)
        pages.write(2)
        found = _having(trial, pages, Category.PFNZERO)
        return compare(found, [1], "read page 1 of 4 fresh ones, wrote to page 2", "zero")


def huge() -> Outcome:
    with Trial() as trial:
        require(trial, Category.HUGE)
        area = transparent_huge_page(trial)
        if area is not None:
            return works(f"touched transparent huge memory: all {area.count} pages of the huge page are reported huge")
        hugetlb = trial.huge_page()
        if hugetlb is None:
            return Outcome(State.SKIPPED, "", "the kernel gave neither a transparent huge page nor a hugetlb page")
        found = _having(trial, hugetlb, Category.HUGE)
        return compare(found, list(range(hugetlb.count)), "touched a hugetlb page", "huge")


def transparent_huge_page(trial: Trial) -> Pages | None:
    """A populated transparent huge page; None if the kernel gives none (now)."""
    if PMD_SIZE > _LARGEST_TRIAL:
        return None
    area = trial.area()
    try:
        memory.madvise(area.start, area.length, memory.Advice.HUGEPAGE)
    except OSError:
        return None
    area.write(0)
    return area if len(_having(trial, area, Category.HUGE)) == area.count else None


def transparent_huge() -> Outcome:
    """A huge page is armed as one and splits at the first write, so that one byte is one page."""
    with Trial() as trial:
        require(trial, Category.HUGE)
        area = transparent_huge_page(trial)
        if area is None:
            return _no_transparent_huge_page()
        trial.register(area)
        trial.protect(area)
        area.write(7)
        done = f"protected a transparent huge page of {area.count} pages, wrote one byte to page 7"
        return compare(trial.written(area), [7], done, "written")


def _no_transparent_huge_page() -> Outcome:
    try:
        setting = _THP.read_text()
    except OSError:
        return Outcome(State.MISSING, "", "this kernel was built without CONFIG_TRANSPARENT_HUGEPAGE")
    if "[never]" in setting:
        cure = f"echo madvise | sudo tee {_THP}"
        return Outcome(State.MISSING, "", "transparent huge pages are switched off", cure)
    if PMD_SIZE > _LARGEST_TRIAL:
        return Outcome(State.SKIPPED, "", f"a huge page has {PMD_SIZE >> 20} MiB here: too much for a trial")
    return Outcome(State.UNKNOWN, "asked for a transparent huge page and got small ones", "no free huge page just now")


def hugetlb() -> Outcome:
    """Tracking by whole huge pages; the reserve of the machine is left as it is."""
    with Trial() as trial:
        require(trial, Category.WRITTEN)
        if not default_huge_page():
            return Outcome(State.MISSING, "", "this kernel was built without CONFIG_HUGETLBFS")
        pages = trial.huge_page()
        if pages is None:
            cause = "no hugetlb page is free for this process (and doctor reserves none)"
            return Outcome(State.SKIPPED, "", cause, "sudo sysctl vm.nr_hugepages=8")
        # Not through the scan: over an empty huge page that could lock up kernels before 7.2.
        trial.register(pages).writeprotect(pages.start, pages.length)
        pages.write(1)
        found = trial.written(pages)
        done = f"protected a hugetlb page, wrote one byte to it (granule: its {pages.count} pages)"
        return compare(found, list(range(pages.count)), done, "written")


def soft_dirty() -> Outcome:
    with Trial() as trial:
        require(trial, Category.SOFT_DIRTY)
        pages = trial.pages(4)
        pages.write(1)
        found = _having(trial, pages, Category.SOFT_DIRTY)
        if 1 in found:
            return works("wrote to a fresh page: it is reported soft-dirty")
        seen = "the bit is accepted, but a page just written does not have it"
        return Outcome(State.MISSING, seen, "this kernel was built without CONFIG_MEM_SOFT_DIRTY")


def guard() -> Outcome:
    with Trial() as trial:
        require(trial, Category.GUARD)
        pages = trial.pages(4)
        try:
            memory.madvise(pages.address(1), pages.size, memory.Advice.GUARD_INSTALL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise KernelCannot("this kernel has no MADV_GUARD_INSTALL; Linux 6.13 brought it") from error
        return compare(_having(trial, pages, Category.GUARD), [1], "made page 1 of 4 a guard region", "a guard")


def accessed() -> Outcome:
    """Read-write protection: reading a page is seen, too."""
    with Trial() as trial:
        require(trial, Category.ACCESSED)
        pages = trial.pages(4)
        pages.write(0, 1, 2, 3)
        uffd = trial.register(pages, mode=RegisterMode.RWP, features=Feature.RWP | Feature.RWP_ASYNC)
        uffd.rwprotect(pages.start, pages.length)
        before = _having(trial, pages, Category.ACCESSED)
        pages.read(2)
        done = "read-write-protected 4 pages, read page 2"
        if before:
            return Outcome(State.MISSING, f"{done}: pages were reported before", "the kernel's answer is wrong")
        return compare(_having(trial, pages, Category.ACCESSED), [2], done, "accessed")
