"""Swapping out: anonymous pages become swap entries and keep the userfaultfd bit; shared memory forgets its entries.

Swapping in happens in ``faults``. The zero page, huge zero pages and pages that somebody else maps stay where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .pages import ANON, HUGE, NONE, PRESENT, SWAP, UFFD, UFFD_MARKER, ZERO, lookup
from .physical import NO_FRAME
from .thp import split_folios

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .mm import Mm
    from .vma import Vma


def _out_anonymous(entry: int) -> int:
    if entry & PRESENT and entry & ANON:
        return SWAP | (entry & UFFD)
    return entry


_ANONYMOUS = lookup(_out_anonymous)
#: try_to_unmap(): a file's entry goes, or leaves a marker if it was protected.
_FILE = lookup(lambda entry: (UFFD_MARKER if entry & UFFD else NONE) if entry & PRESENT else entry)


def swap_out(mm: Mm, vma: Vma, first: int, last: int) -> None:
    """Write pages [first, last) of one mapping to swap. hugetlb and special mappings cannot be swapped."""
    if vma.hugetlb or vma.special or vma.pfnmap:
        return
    for pmd, row, low, high in list(mm.tables.blocks(first, last)):
        if mm.tables.entries[row, 0] & HUGE and mm.tables.entries[row, 0] & ZERO:
            continue
        split_folios(mm, row, low, high, keep_whole=True)
        part = mm.tables.entries[row, low:high]
        frames = mm.tables.frames[row, low:high]
        own = unshared(mm, part, frames)
        if mm.tables.is_huge(row) and own.any():
            mm.split_huge(pmd)
        for folio in np.unique(mm.memory.folios(frames[own])).tolist():
            mm.memory.split_folio(folio)
        dropped = own & mm.memory.are_lazy(frames)
        mm.memory.put(frames[dropped])
        frames[dropped] = NO_FRAME
        part[dropped] = NONE
        part[own & ~dropped] = _ANONYMOUS[part[own & ~dropped]]
        _swap_out_file(mm, vma, pmd, row, low, high)


def unshared(mm: Mm, entries: NDArray[np.uint8], frames: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which entries map a page of the process's own that nobody else maps, nor any page of its folio."""
    alone: NDArray[np.bool_] = (frames >= 0) & ((entries & PRESENT) != 0) & ((entries & ANON) != 0)
    alone &= mm.memory.references(np.maximum(frames, 0)) == 1
    folios = mm.memory.folios(frames)
    for folio in np.unique(folios).tolist():
        if folio and mm.memory.folio_is_shared(folio):
            alone &= folios != folio
    return alone


def _swap_out_file(mm: Mm, vma: Vma, pmd: int, row: int, low: int, high: int) -> None:
    """Pages of a file that nobody else maps: their entries go, and they are not in memory any more."""
    part = mm.tables.entries[row, low:high]
    frames = mm.tables.frames[row, low:high]
    alone = (frames >= 0) & ((part & PRESENT) != 0) & ((part & ANON) == 0)
    alone &= mm.memory.references(np.maximum(frames, 0)) == 2
    # The file keeps its frame, and notes that it is not in memory.
    mm.memory.put(frames[alone])
    frames[alone] = NO_FRAME
    part[alone] = _FILE[part[alone]]
    if vma.file is not None:
        vma.file.swapped[np.flatnonzero(alone) + vma.file_page(pmd * mm.fanout + low, mm.page_size)] = True
