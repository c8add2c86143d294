"""An address space: its mappings, its page tables, and the operations that every other part of the model is made of."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np

from .pages import ANON, GUARD, HUGE, MARKER, NONE, PRESENT, SPLIT, SWAP, UFFD, UFFD_MARKER, PageTables, lookup
from .physical import NO_FRAME
from .vma import Vma, VmaList

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .behaviour import Behaviour
    from .physical import PhysicalMemory

#: TASK_SIZE_MAX of x86-64: one page less than 2**47.
TASK_SIZE = (1 << 47) - 4096
#: Where transparent huge pages come from; see :class:`pagescan.model.Machine`.
THP_MODES = ("madvise", "always", "never")


class KernelFailure(RuntimeError):
    """A modelled kernel bug that a real machine would not survive: an oops, or a call that never returns."""


def error(number: int, text: str) -> OSError:
    """The kernel's errno, with words."""
    return OSError(number, text)


def _zapped(entry: int) -> int:
    # A file's page that was protected leaves a marker, so that bringing it back does not look like a write.
    if entry & (PRESENT | SWAP) and entry & UFFD:
        return UFFD_MARKER
    return entry if entry & (MARKER | GUARD) else NONE


#: zap_pte_range() of a file mapping without ZAP_FLAG_DROP_MARKER; guard markers stay in any mapping.
_ZAP_FILE = lookup(_zapped)
_ZAP_ANONYMOUS = lookup(lambda entry: entry if entry & GUARD else NONE)
_ZAP_ALL = lookup(lambda entry: NONE)
#: Unmapping a file's own pages only (even_cows=0): hole punches and truncation.
_ZAP_NO_COWS = lookup(lambda entry: entry if entry & (ANON | SWAP) else _zapped(entry))


class Mm:
    """Address space of a model process (``struct mm_struct``).

    Attributes:
        behaviour: the release it behaves like.
        memory: the machine's physical memory.
        thp: one of THP_MODES.
        page_size, pmd_size: bytes; ``fanout`` pages are one PMD range.
        vmas, tables: its mappings and page tables.
        alive: false once the process has exited.
        soft_dirty: the kernel has soft-dirty bits (CONFIG_MEM_SOFT_DIRTY).
    """

    def __init__(self, memory: PhysicalMemory, behaviour: Behaviour, thp: str, *, soft_dirty: bool = False):
        self.behaviour = behaviour
        self.soft_dirty = soft_dirty
        self.memory = memory
        self.thp = thp
        self.page_size = memory.page_size
        self.tables = PageTables(memory.page_size)
        self.fanout = self.tables.fanout
        self.pmd_size = self.page_size * self.fanout
        self.vmas = VmaList(self.page_size, merges_unfaulted=behaviour.merges_unfaulted)
        self.alive = True

    def pages(self, start: int, end: int) -> tuple[int, int]:
        """[start, end) in page numbers, rounded outward."""
        return start // self.page_size, -(-end // self.page_size)

    def pieces(self, start: int, end: int) -> Iterator[tuple[Vma, int, int]]:
        """(mapping, first page, last page) of every mapping in [start, end), cut to it."""
        for vma in self.vmas.between(start, end):
            first, last = self.pages(max(vma.start, start), min(vma.end, end))
            yield vma, first, last

    # -- mappings ------------------------------------------------------------------------------------------------

    def split_vma(self, vma: Vma, address: int) -> Vma:
        """Cut a mapping; a huge page across the cut becomes single pages (``vma_adjust_trans_huge``).

        EINVAL: hugetlb memory inside a huge page.
        """
        if not vma.hugetlb:
            self.split_huge_at(address)
        elif address % self.pmd_size:
            raise error(errno.EINVAL, f"{address:#x} lies inside a huge page of {vma.start:#x}-{vma.end:#x}")
        return self.vmas.split_at(vma, address)

    def isolate(self, start: int, end: int) -> list[Vma]:
        """The mappings of [start, end), cut so that none reaches out of it."""
        for vma in self.vmas.between(start, end):
            inside = self.split_vma(vma, start) if vma.start < start else vma
            if inside.end > end:
                self.split_vma(inside, end)
        return self.vmas.between(start, end)

    def change(self, start: int, end: int, **attributes: object) -> None:
        """Set attributes of [start, end): mappings that differ are cut, changed, and merged with their neighbours."""
        for vma, first, last in list(self.pieces(start, end)):
            if all(getattr(vma, name) == value for name, value in attributes.items()):
                continue
            low, high = first * self.page_size, last * self.page_size
            for part in self.isolate(low, high):
                for name, value in attributes.items():
                    setattr(part, name, value)
            self.vmas.merge(low)

    def unmap(self, start: int, end: int) -> None:
        """Remove every mapping of [start, end), its pages and the page tables nobody else needs."""
        for vma in self.isolate(start, end):
            self.zap(vma, *self.pages(vma.start, vma.end), drop_markers=True)
            self.vmas.remove(vma)
        self.free_tables(start, end)

    def free_tables(self, start: int, end: int) -> None:
        """``free_pgtables()``: drop the tables under [start, end) whose whole range holds no mapping any more."""
        keys, _ = self.tables.over(*self.pages(start, end))
        for pmd in keys.tolist():
            if not self.vmas.between(pmd * self.pmd_size, (pmd + 1) * self.pmd_size):
                self.tables.remove(pmd)
        size = self.pmd_size * self.fanout
        for pud in range(start // size, -(-end // size)):
            if pud in self.tables.puds and not self.vmas.between(pud * size, (pud + 1) * size):
                self.tables.puds.discard(pud)

    def close(self) -> None:
        """The process exits: everything is unmapped."""
        for vma in self.vmas:
            self.unmap(vma.start, vma.end)
        self.alive = False

    # -- page tables -----------------------------------------------------------------------------------------------

    def split_huge(self, pmd: int) -> None:
        """``split_huge_pmd()``: one huge entry becomes a table of equal small ones."""
        row = self.tables.row(pmd)
        if row >= 0 and self.tables.is_huge(row):
            self.tables.entries[row] = SPLIT[self.tables.entries[row]]

    def split_huge_at(self, address: int) -> None:
        """Split the huge page that lies across this address, if one does."""
        if address % self.pmd_size:
            self.split_huge(address // self.pmd_size)

    def split_edges(self, first: int, last: int) -> None:
        """Split huge pages that the pages [first, last) cover in part only."""
        for page in (first, last):
            self.split_huge_at(page * self.page_size)

    def ensure_tables(self, first: int, last: int) -> None:
        """Page tables for every one of the pages [first, last) (``pgtable_populate_needed``)."""
        for pmd in range(first // self.fanout, -(-last // self.fanout)):
            self.tables.ensure(pmd)

    def release(self, row: int, low: int, high: int) -> None:
        """Put the frames of some entries; the entries still have to be changed."""
        frames = self.tables.frames[row, low:high]
        held = frames[frames >= 0]
        if len(held):
            self.memory.put(held)
            frames[:] = NO_FRAME

    def zap(self, vma: Vma, first: int, last: int, *, drop_markers: bool = False, reclaim: bool = False) -> None:
        """Drop the pages [first, last) of one mapping (``zap_page_range``).

        Args:
            drop_markers: also what remembers protection and guards: the mapping itself goes.
            reclaim: free page tables left empty, where the release does so (MADV_DONTNEED).
        """
        if vma.hugetlb:
            self._zap_hugetlb(first, last, drop_markers)
            return
        self.split_edges(first, last)
        lut = _ZAP_ALL if drop_markers else _ZAP_ANONYMOUS if vma.anonymous else _ZAP_FILE
        for pmd, row, low, high in list(self.tables.blocks(first, last)):
            huge = self.tables.is_huge(row)
            self.release(row, low, high)
            part = self.tables.entries[row, low:high]
            part[:] = lut[part]
            whole = high - low == self.fanout
            if whole and (huge or (reclaim and self.behaviour.frees_empty_tables)) and not part.any():
                self.tables.remove(pmd)

    def _zap_hugetlb(self, first: int, last: int, drop_markers: bool) -> None:
        for pmd, row, low, high in list(self.tables.blocks(first, last)):
            self.release(row, low, high)
            if self.tables.entries[row, 0] & UFFD and not drop_markers:
                self.tables.entries[row] = UFFD_MARKER | HUGE
            else:
                self.tables.remove(pmd)

    def zap_file_pages(self, vma: Vma, first: int, last: int) -> None:
        """The file lost these pages: unmap them, but not copies of one's own (``unmap_mapping_range``)."""
        if vma.hugetlb:
            self._zap_hugetlb(first, last, False)
            return
        for _, row, low, high in list(self.tables.blocks(first, last)):
            part = self.tables.entries[row, low:high]
            frames = self.tables.frames[row, low:high]
            gone = (frames >= 0) & ((part & (ANON | SWAP)) == 0)
            self.memory.put(frames[gone])
            frames[gone] = NO_FRAME
            part[:] = _ZAP_NO_COWS[part]

    def clear_soft_dirty(self) -> None:
        """``clear_refs_write(CLEAR_REFS_SOFT_DIRTY)``: of every page and mapping.

        That it protects pages as well is not modelled: here every write sets the bit.
        """
        self.tables.soft[:] = False
        for vma in self.vmas:
            vma.soft_dirty = vma.soft_dirty and vma.pfnmap

    # -- checks ----------------------------------------------------------------------------------------------------

    def check_range(self, start: int, length: int, what: str) -> int:
        """Page-aligned start, length rounded up; returns the end. EINVAL otherwise."""
        if start % self.page_size or start < 0 or length < 0:
            raise error(errno.EINVAL, f"{what}: {start:#x} is not at a page boundary")
        return start + -(-length // self.page_size) * self.page_size

    def populated(self, first: int, last: int) -> int:
        """How many pages of [first, last) are present."""
        return sum(
            int(np.count_nonzero(self.tables.entries[row, low:high] & PRESENT))
            for _, row, low, high in self.tables.blocks(first, last)
        )
