"""The userfaultfd bit over ranges (``uffd_wp_range()``): UFFDIO_WRITEPROTECT, unregistering, and the scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .pages import HUGE, PROTECT_BY_IOCTL, PROTECT_BY_SCAN, UFFD_MARKER, UNPROTECT, lookup

if TYPE_CHECKING:
    from .mm import Mm
    from .vma import Vma

#: Without markers an empty entry stays empty: only what is populated can be protected.
_PROTECT_POPULATED = lookup(lambda entry: entry if entry & ~HUGE == 0 else int(PROTECT_BY_IOCTL[entry]))


def protect(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """Protect pages [first, last) of one mapping, as UFFDIO_WRITEPROTECT does. Holes get tables and markers."""
    if vma.hugetlb:
        protect_hugetlb(mm, first, last)
        return
    mm.split_edges(first, last)
    if vma.uses_markers:
        mm.ensure_tables(first, last)
        mm.tables.transform(first, last, PROTECT_BY_IOCTL)
    else:
        mm.tables.transform(first, last, _PROTECT_POPULATED)


def unprotect(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """Clear the bits of pages [first, last), of hugetlb pages as a whole; markers become empty entries."""
    if vma.hugetlb:
        first, last = first // mm.fanout * mm.fanout, -(-last // mm.fanout) * mm.fanout
    else:
        mm.split_edges(first, last)
    mm.tables.transform(first, last, UNPROTECT)
    if vma.hugetlb:
        for pmd, row, _, _ in list(mm.tables.blocks(first, last)):
            if mm.tables.entries[row, 0] == HUGE:
                mm.tables.remove(pmd)


def protect_hole(mm: Mm, first: int, last: int) -> None:
    """Protect part of a PMD hole: a page table, with markers for these pages."""
    mm.ensure_tables(first, last)
    mm.tables.transform(first, last, PROTECT_BY_SCAN)


def protect_hugetlb(mm: Mm, first: int, last: int) -> None:
    """Protect whole huge pages; empty ones get a marker."""
    for pmd in range(first // mm.fanout, last // mm.fanout):
        row = mm.tables.row(pmd)
        if row < 0:
            mm.tables.entries[mm.tables.ensure(pmd)] = HUGE | UFFD_MARKER
        else:
            mm.tables.entries[row] = PROTECT_BY_SCAN[mm.tables.entries[row]]
