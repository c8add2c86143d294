"""Telling pages that are really swapped out from markers, which ``PAGE_IS_SWAPPED`` lumps together.

The kernel calls SWAPPED every page-table entry that is neither present nor empty: also the marker that write-protects
a page that was never touched (``PTE_MARKER_UFFD_WP``, 5.19), migration entries and guard regions. Tracked memory is
full of such markers. Source: ``pagemap_scan_pte_categories`` and ``pte_to_pagemap_entry`` in ``fs/proc/task_mmu.c``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..abi import Entry
from ..errors import PagescanError
from ..ranges import Regions
from . import procfs

if TYPE_CHECKING:
    from .pagemap import Pagemap
    from .space import LinuxSpace

# An entry of /proc/PID/pagemap gives a swapped page's area in bits 0-4 and its offset there in bits 5-54, to readers
# with CAP_SYS_ADMIN (zero to others). Markers and migration entries take the highest of the 32 area numbers
# (MAX_SWAPFILES in include/linux/swap.h leaves at least 22 to real areas in every configuration up to 7.3).
_AREA = np.uint64((1 << 5) - 1)
_PLACE = np.uint64((1 << 55) - 1)
_FIRST_SPECIAL_AREA = 22
_GAP = 1 << 20


def truly_swapped(space: LinuxSpace, pagemap: Pagemap, suspects: Regions) -> Regions:
    """Those of the suspects (regions that are SWAPPED by the kernel's word) that are really in the swap.

    Without CAP_SYS_ADMIN a single page cannot be told in a mapping that has some of its pages in the swap; such
    suspects are kept.
    """
    if not suspects or _no_swap():
        return Regions.empty(page_size=suspects.page_size)
    parts = [_by_entries(pagemap, start, end, suspects.page_size) for start, end in _windows(suspects)]
    if all(part is not None for part in parts):
        return Regions.union([part for part in parts if part is not None], page_size=suspects.page_size) & suspects
    return _by_mapping(space, suspects)


def _windows(suspects: Regions) -> list[tuple[int, int]]:
    """Few ranges that hold all suspects: reading the entries of a small gap is cheaper than another read."""
    starts, ends = suspects.starts, suspects.ends
    apart = np.flatnonzero(starts[1:] - ends[:-1] > np.uint64(_GAP)) + 1
    first, last = np.append(0, apart), np.append(apart, len(starts)) - 1
    return list(zip(starts[first].tolist(), ends[last].tolist(), strict=True))


def _no_swap() -> bool:
    """Whether this machine has no swap area at all (the first line of /proc/swaps is its heading)."""
    try:
        return Path("/proc/swaps").read_text().count("\n") < 2
    except OSError:
        return False


def _by_entries(pagemap: Pagemap, start: int, end: int, page_size: int) -> Regions | None:
    """The really swapped pages of [start, end); None if the kernel hides where they are."""
    entries = pagemap.read_entries(start, end)
    swapped = (entries & np.uint64(Entry.SWAPPED)) != 0
    # Area 0, offset 0 holds the swap area's header, never a page: all zero means "hidden".
    if (swapped & ((entries & _PLACE) == 0)).any():
        return None
    real = np.flatnonzero(swapped & ((entries & _AREA) < _FIRST_SPECIAL_AREA))
    return Regions.from_pages(real.astype(np.uint64) * np.uint64(page_size) + np.uint64(start), page_size=page_size)


def _by_mapping(space: LinuxSpace, suspects: Regions) -> Regions:
    """The suspects in mappings of which some page is in the swap, by smaps."""
    try:
        entries = procfs.list_smaps(space.pid)
    except PagescanError:
        return suspects
    holding = ((e.mapping.start, e.mapping.end) for e in entries if e.swap)
    return suspects & Regions.from_pairs(holding, page_size=suspects.page_size)
