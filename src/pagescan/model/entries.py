"""``/proc/PID/pagemap`` as a file: a 64-bit entry for each page (``pte_to_pagemap_entry()`` and its huge brothers).

Frame numbers and places in the swap (bits 0-54) are zero, as they are to readers without CAP_SYS_ADMIN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..abi import Entry
from .pages import ANON, GUARD, MARKER, PRESENT, SWAP, UFFD, ZERO

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .mm import Mm


def _entry(bits: int, knows_guard: bool) -> int:
    value = Entry.UFFD_WP if bits & UFFD else Entry(0)
    if bits & PRESENT:
        value |= Entry.PRESENT
        # The zero page is nobody's: neither of a file, nor this process's alone.
        value |= Entry(0) if bits & (ANON | ZERO) else Entry.FILE
    elif bits & (SWAP | MARKER | GUARD):
        value |= Entry.SWAPPED
    if bits & GUARD and knows_guard:
        value |= Entry.GUARD
    return int(value)


_ENTRIES = {knows: np.array([_entry(bits, knows) for bits in range(256)], dtype=np.uint64) for knows in (False, True)}


def read_entries(mm: Mm, start: int, end: int) -> NDArray[np.uint64]:
    """The entries of the pages of [start, end); 0 for what is not mapped and for memory without a page table."""
    first, last = mm.pages(start, end)
    found = np.zeros(last - first, dtype=np.uint64)
    for pmd, row, low, high in mm.tables.blocks(first, last):
        at = pmd * mm.fanout + low - first
        part = _ENTRIES[mm.behaviour.knows_guard][mm.tables.entries[row, low:high]]
        frames = mm.tables.frames[row, low:high]
        alone = (frames >= 0) & ((part & np.uint64(Entry.PRESENT)) != 0)
        alone &= _mappers(mm, frames, part) == 1
        part[alone] |= np.uint64(Entry.EXCLUSIVE)
        if mm.soft_dirty:
            there = (mm.tables.entries[row, low:high] & (PRESENT | SWAP)) != 0
            part[there & mm.tables.soft[row, low:high]] |= np.uint64(Entry.SOFT_DIRTY)
        found[at : at + high - low] = part
    if mm.soft_dirty:
        for vma, low, high in mm.pieces(start, end):
            if vma.soft_dirty:
                found[low - first : high - first] |= np.uint64(Entry.SOFT_DIRTY)
    return found


def _mappers(mm: Mm, frames: NDArray[np.int32], entries: NDArray[np.uint64]) -> NDArray[np.int32]:
    """How many page tables map each frame: its references, but for the one of the file it belongs to."""
    references = mm.memory.references(np.maximum(frames, 0))
    mappers: NDArray[np.int32] = references - ((entries & np.uint64(Entry.FILE)) != 0).astype(np.int32)
    return mappers
