"""Transparent huge pages: made by the first fault where nothing is mapped yet, split when they must differ inside.

A huge page is a table whose entries are all alike and have HUGE. Splitting it (``Mm.split_huge``) clears that bit.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np

from .mm import error
from .pages import ANON, GUARD, HUGE, NONE, PRESENT, UFFD, ZERO
from .physical import NO_FRAME

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .mm import Mm
    from .vma import Vma


def suitable(mm: Mm, vma: Vma, pmd: int) -> bool:
    """Whether the whole PMD range lies in the mapping (``thp_vma_suitable_order``)."""
    return vma.start <= pmd * mm.pmd_size and (pmd + 1) * mm.pmd_size <= vma.end


def _wanted(mm: Mm, vma: Vma) -> bool:
    """Whether a fault in this mapping may make a huge page (``thp_vma_allowable_order``)."""
    return mm.thp != "never" and (mm.thp == "always" if vma.thp is None else vma.thp)


def fault_huge(mm: Mm, vma: Vma, pmd: int, write: bool) -> bool:
    """A first fault in a PMD hole: map a huge page, or for a read the huge zero page, if the mapping wants them."""
    if not (vma.anonymous and _wanted(mm, vma) and suitable(mm, vma, pmd)):
        return False
    row = mm.tables.ensure(pmd)
    mm.vmas.prepare_anon(vma)
    if write:
        mm.tables.frames[row] = mm.memory.allocate_huge(mm.fanout)
    mm.tables.entries[row] = HUGE | PRESENT | (ANON if write else ZERO)
    return True


def write_huge(mm: Mm, vma: Vma, pmd: int) -> None:
    """A write to a huge page: split it where it is protected or shared, so that only the written page changes.

    ``wp_huge_pmd()``; the split in asynchronous mode is what keeps tracking exact to the page.
    """
    row = mm.tables.row(pmd)
    entry = int(mm.tables.entries[row, 0])
    if entry & UFFD:
        mm.split_huge(pmd)
    elif entry & ZERO:
        if mm.behaviour.huge_zero_write_is_huge:
            mm.tables.frames[row] = mm.memory.allocate_huge(mm.fanout)
            mm.tables.entries[row] = HUGE | PRESENT | ANON
        else:
            mm.split_huge(pmd)
    elif (mm.memory.references(mm.tables.frames[row]) > 1).any():
        mm.split_huge(pmd)
    else:
        mm.memory.keep(mm.tables.frames[row])


def collapse(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """MADV_COLLAPSE of pages [first, last) of an anonymous mapping. EINVAL: protected pages; EBUSY: empty, registered.

    Ranges that cannot be are passed over; the errno of the last one is reported at the end.
    """
    begin, end = -(-first // mm.fanout), last // mm.fanout
    room = -(-vma.start // mm.pmd_size) < vma.end // mm.pmd_size
    allowed = room and vma.has_anon and vma.thp is not False
    whole = begin <= end or mm.behaviour.collapse_of_part_succeeds
    failed = 0 if whole and allowed else errno.EINVAL
    if not allowed:
        end = begin
    for pmd in range(begin, end):
        number = _collapse_one(mm, vma, pmd)
        failed = number or failed
        # Some results end the whole call (madvise_collapse()): registered and empty, or no table at all.
        if number == errno.EBUSY or (number and mm.tables.row(pmd) < 0 and pmd // mm.fanout in mm.tables.puds):
            break
    if failed:
        raise error(failed, "MADV_COLLAPSE: not every huge page could be made")


def _collapse_one(mm: Mm, vma: Vma, pmd: int) -> int:
    row = mm.tables.row(pmd)
    if row < 0 or not suitable(mm, vma, pmd):
        return errno.EINVAL
    if mm.tables.is_huge(row):
        return 0
    entries = mm.tables.entries[row]
    problem = _first_obstacle(vma, entries)
    if problem:
        return problem
    _make_huge(mm, row)
    mm.vmas.prepare_anon(vma)
    return 0


def _first_obstacle(vma: Vma, entries: NDArray[np.uint8]) -> int:
    """hpage_collapse_scan_pmd() looks at one entry after another; the first obstacle decides."""
    for entry in entries.tolist():
        if entry == NONE or entry & ZERO:
            if vma.context is not None:
                return errno.EBUSY
        elif entry & UFFD:
            return errno.EINVAL
    # A guard passes for a swapped page at first, and fails when it cannot be brought in.
    return errno.EINVAL if (entries & GUARD).any() else 0


def _make_huge(mm: Mm, row: int) -> None:
    frames = mm.tables.frames[row]
    held = frames[frames != NO_FRAME]
    new = mm.memory.allocate_huge(mm.fanout)
    for position in np.flatnonzero(frames != NO_FRAME).tolist():
        mm.memory.write(int(new[position]), 0, mm.memory.content(int(frames[position])))
    mm.memory.put(held)
    frames[:] = new
    mm.tables.entries[row] = HUGE | PRESENT | ANON
    mm.tables.soft[row] = True


def split_folios(mm: Mm, row: int, low: int, high: int, *, keep_whole: bool) -> None:
    """Split the large folios that these entries map, as reclaim and MADV_FREE do; those somebody else maps too stay.

    Unlike splitting a huge entry this looks at the contents: pages full of zeros become the shared page of zeros
    (6.12, b1f202060afe, "mm: remap unused subpages to shared zeropage when splitting isolated thp").

    Args:
        keep_whole: leave a folio alone that these entries map in full and alike (``folio_pte_batch()``).
    """
    protected = mm.tables.entries[row, low:high] & UFFD
    keep_whole = keep_whole and bool((protected == protected[0]).all())
    folios, counts = np.unique(mm.memory.folios(mm.tables.frames[row, low:high]), return_counts=True)
    for folio, count in zip(folios.tolist(), counts.tolist(), strict=True):
        if folio and not (keep_whole and count == mm.fanout) and not mm.memory.folio_is_shared(folio):
            _split_folio(mm, folio)


def _split_folio(mm: Mm, folio: int) -> None:
    last = mm.tables.tables(0, 1 << 62)
    for pmd, row in zip(*(part.tolist() for part in last), strict=True):
        frames = mm.tables.frames[row]
        mine = np.flatnonzero(mm.memory.folios(frames) == folio)
        if not len(mine):
            continue
        mm.split_huge(pmd)
        if not mm.behaviour.splits_to_zero_page:
            continue
        zero = mine[mm.memory.are_zero(frames[mine])]
        mm.memory.put(frames[zero])
        frames[zero] = NO_FRAME
        entries = mm.tables.entries[row]
        entries[zero] = (entries[zero] & np.uint8(UFFD)) | np.uint8(PRESENT | ZERO)
    mm.memory.split_folio(folio)
