"""Page tables: what the processor walks, as numpy arrays.

A *table* holds the entries of one PMD range (512 pages of 4 KiB: 2 MiB). Where there is no table, there is a *PMD
hole*, which ``PAGEMAP_SCAN`` tells from an empty entry. A huge page is a table whose entries are all alike and have
HUGE set.

An entry is eight bits, so every question and every change is one look-up in a table of 256: a GiB is 256 KiB of
entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .physical import NO_FRAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Lut = NDArray[np.uint8]

PRESENT = 1 << 0  #: maps a frame, or the zero page
SWAP = 1 << 1  #: swapped out
MARKER = 1 << 2  #: PTE_MARKER_UFFD_WP: nothing is here, and it is write-protected
GUARD = 1 << 3  #: PTE_MARKER_GUARD: every access faults
UFFD = 1 << 4  #: the userfaultfd bit: protected, not written since
ANON = 1 << 5  #: PRESENT: the frame is the process's own, not a file's
ZERO = 1 << 6  #: PRESENT: the shared page of zeros
HUGE = 1 << 7  #: part of a PMD-mapped page
NONE = 0
UFFD_MARKER = MARKER | UFFD


def lookup(change: Callable[[int], int]) -> Lut:
    """The 256-entry table of a function of one entry."""
    return np.array([change(entry) & 0xFF for entry in range(256)], dtype=np.uint8)


def _protected(entry: int) -> int:
    if entry & ~HUGE == NONE:
        return entry | UFFD_MARKER
    return entry | UFFD


def _unprotected(entry: int) -> int:
    # change_pte_range() passes guard and poison markers over: nothing can be read or written there anyway.
    if entry & GUARD:
        return entry
    if entry & MARKER:
        return entry & HUGE
    return entry & ~UFFD


#: What PAGEMAP_SCAN does to protect an entry: make_uffd_wp_pte(), also of a guard marker.
PROTECT_BY_SCAN = lookup(_protected)
#: What UFFDIO_WRITEPROTECT does: change_pte_range(), which leaves guard markers alone.
PROTECT_BY_IOCTL = lookup(lambda entry: entry if entry & GUARD else _protected(entry))
UNPROTECT = lookup(_unprotected)
SPLIT = lookup(lambda entry: entry & ~HUGE)


class PageTables:
    """The page tables of one address space. Pages are numbered: address // page size.

    Attributes:
        fanout: entries of a table (512 for 4 KiB pages).
        entries: uint8 (tables, fanout), the bits above.
        frames: int32 (tables, fanout), the frame a PRESENT (not ZERO) or SWAP entry names, else NO_FRAME.
        soft: bool (tables, fanout), written to since the soft-dirty bits were reset; only of a PRESENT or SWAP entry.
        puds: numbers of the PUD ranges (512 tables) that have a table of tables; hugetlb needs to know.
    """

    def __init__(self, page_size: int):
        self.page_size = page_size
        self.fanout = page_size // 8
        self.entries = np.zeros((8, self.fanout), dtype=np.uint8)
        self.frames = np.full((8, self.fanout), NO_FRAME, dtype=np.int32)
        self.soft = np.zeros((8, self.fanout), dtype=np.bool_)
        self.puds: set[int] = set()
        self._rows: dict[int, int] = {}
        self._free = list(range(7, -1, -1))
        self._sorted: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """How many tables there are; each costs a page of real memory."""
        return len(self._rows)

    def row(self, pmd: int) -> int:
        """The index of the table for this PMD range in ``entries``, or -1: a hole."""
        return self._rows.get(pmd, -1)

    def ensure(self, pmd: int) -> int:
        """The table's index, made (empty) if there is none. May move ``entries``: hold no view over this call."""
        row = self._rows.get(pmd)
        if row is None:
            if not self._free:
                self._grow()
            row = self._rows[pmd] = self._free.pop()
            self.puds.add(pmd // self.fanout)
            self._sorted = None
        return row

    def _grow(self) -> None:
        size = len(self.entries)
        self.entries = np.concatenate([self.entries, np.zeros_like(self.entries)])
        self.frames = np.concatenate([self.frames, np.full_like(self.frames, NO_FRAME)])
        self.soft = np.concatenate([self.soft, np.zeros_like(self.soft)])
        self._free = list(range(2 * size - 1, size - 1, -1))

    def remove(self, pmd: int) -> None:
        """Free a table: a hole again. References to frames are the caller's business."""
        row = self._rows.pop(pmd)
        self.entries[row] = NONE
        self.frames[row] = NO_FRAME
        self.soft[row] = False
        self._free.append(row)
        self._sorted = None

    def rename(self, pmd: int, new: int) -> None:
        """Hang a table elsewhere (``move_normal_pmd``)."""
        self._rows[new] = self._rows.pop(pmd)
        self.puds.add(new // self.fanout)
        self._sorted = None

    def tables(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(PMD numbers, rows) of the tables with PMD numbers in [first, last), in order."""
        if self._sorted is None:
            keys = np.fromiter(self._rows.keys(), dtype=np.int64, count=len(self._rows))
            rows = np.fromiter(self._rows.values(), dtype=np.int64, count=len(self._rows))
            order = np.argsort(keys)
            self._sorted = keys[order], rows[order]
        keys, rows = self._sorted
        low, high = np.searchsorted(keys, (first, last))
        return keys[low:high], rows[low:high]

    def over(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(PMD numbers, rows) of the tables that hold any of the pages [first, last)."""
        return self.tables(first // self.fanout, -(-last // self.fanout))

    def blocks(self, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
        """(PMD number, row, low, high) for each table over pages [first, last); low and high index its entries."""
        keys, rows = self.over(first, last)
        for pmd, row in zip(keys.tolist(), rows.tolist(), strict=True):
            base = pmd * self.fanout
            yield pmd, row, max(first - base, 0), min(last - base, self.fanout)

    def transform(self, first: int, last: int, lut: Lut) -> None:
        """Change every entry of the pages [first, last) that has a table: ``entry = lut[entry]``."""
        keys, rows = self.over(first, last)
        if not len(keys):
            return
        whole = (keys * self.fanout >= first) & ((keys + 1) * self.fanout <= last)
        inside = rows[whole]
        if len(inside) and inside[-1] - inside[0] == len(inside) - 1 and (np.diff(inside) == 1).all():
            view = self.entries[inside[0] : inside[-1] + 1]
            np.take(lut, view, out=view, mode="clip")
        elif len(inside):
            self.entries[inside] = lut[self.entries[inside]]
        for pmd, row in zip(keys[~whole].tolist(), rows[~whole].tolist(), strict=True):
            base = pmd * self.fanout
            part = self.entries[row, max(first - base, 0) : min(last - base, self.fanout)]
            part[:] = lut[part]

    def is_huge(self, row: int) -> bool:
        return bool(self.entries[row, 0] & HUGE)

    def flat(self, pages: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of these pages in ``entries.reshape(-1)``; every one must have a table."""
        pmds, inverse = np.unique(pages // self.fanout, return_inverse=True)
        rows = np.fromiter((self._rows[int(p)] for p in pmds), dtype=np.int64, count=len(pmds))
        return rows[inverse] * self.fanout + pages % self.fanout

    def entries_of(self, pages: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The entry of each of these pages; NONE where there is no table."""
        pmds, inverse = np.unique(pages // self.fanout, return_inverse=True)
        rows = np.fromiter((self.row(int(p)) for p in pmds), dtype=np.int64, count=len(pmds))[inverse]
        found = self.entries[rows, pages % self.fanout]
        found[rows < 0] = NONE
        return found

    def frames_of(self, first: int, last: int) -> NDArray[np.int32]:
        """The frame of each page of [first, last); NO_FRAME where there is none."""
        out = np.full(last - first, NO_FRAME, dtype=np.int32)
        for pmd, row, low, high in self.blocks(first, last):
            at = pmd * self.fanout + low - first
            out[at : at + high - low] = self.frames[row, low:high]
        return out
