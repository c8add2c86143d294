"""A look at a page table of the model: what each entry holds, and what ``PAGEMAP_SCAN`` says of it.

Everything is read from the model's own state, nothing is derived from what was done to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from ..abi import RegisterMode
from ..model.pages import ANON, GUARD, HUGE, MARKER, PRESENT, SWAP, UFFD, ZERO
from ..query import ALL_CATEGORIES, Category
from ..scanning.call import pagemap_scan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ..abi import Pagemap
    from ..model import Process

#: What stands for an entry where there is none: no page table, and no mapping.
NO_TABLE, UNMAPPED = -1, -2
#: Of a longer strip, pages that are alike are drawn as one cell.
_SINGLE_PAGES = 16


@dataclass(frozen=True, slots=True)
class Cell:
    """Neighbouring pages that are alike; of a short strip, one page.

    Attributes:
        first, last: page numbers, counted from the start of the strip; half-open.
        entry: the page table entry (the bits of ``pagescan.model.pages``), NO_TABLE or UNMAPPED.
        categories: what PAGEMAP_SCAN reports of it; None if it reports nothing.
        written: whether PAGEMAP_SCAN, asked for WRITTEN and nothing else, reports it.
        frame: the number of the page frame that a present single page maps, else None.
        users: how many entries, and files, refer to that frame.
    """

    first: int
    last: int
    entry: int
    categories: int | None
    written: bool
    frame: int | None = None
    users: int = 0

    @property
    def kind(self) -> str:
        """What the entry holds, in a word: the key of ``model_view.KINDS``."""
        if self.entry < 0:
            return "unmapped" if self.entry == UNMAPPED else "no table"
        if self.entry & PRESENT:
            if self.entry & ZERO:
                return "huge zero" if self.entry & HUGE else "zero"
            if self.entry & HUGE:
                return "huge"
            return "own" if self.entry & ANON else "file"
        names = ((SWAP, "swap"), (GUARD, "guard"), (MARKER, "marker"))
        return next((name for bit, name in names if self.entry & bit), "empty")

    @property
    def protected(self) -> bool:
        """Whether the userfaultfd bit is set."""
        return self.entry > 0 and bool(self.entry & UFFD)

    @property
    def touched(self) -> bool:
        """Whether PAGEMAP_SCAN says ACCESSED."""
        return bool((self.categories or 0) & Category.ACCESSED)


@dataclass(frozen=True, slots=True)
class Strip:
    """The page table under one piece of memory.

    Attributes:
        pid: of the process.
        name: of the memory.
        start: address in bytes.
        pages: how many.
        registered: "WP", "RWP", "" for no part of it, "in part".
        tables: how many page tables lie under it; each costs a page of memory.
        cells: by address.
    """

    pid: int
    name: str
    start: int
    pages: int
    registered: str
    tables: int
    cells: tuple[Cell, ...]


class View:
    """A piece of a process's memory, looked at; pages are counted from its start."""

    def __init__(self, process: Process, start: int, pages: int, name: str = ""):
        self.process = process
        self.start = start
        self.pages = pages
        self.name = name

    def strip(self) -> Strip:
        """A picture of it as it is now."""
        process, size = self.process, self.process.page_size
        first = self.start // size
        modes = self._modes()
        registered = "in part" if len(modes) > 1 else "".join(RegisterMode(mode).name or "" for mode in modes if mode)
        keys, _ = process.mm.tables.over(first, first + self.pages)
        return Strip(process.pid, self.name, self.start, self.pages, registered, len(keys), tuple(self._cells()))

    def _cells(self) -> Iterable[Cell]:
        entries, categories = self._entries(), self._reported()
        # Before 7.2 empty entries are WRITTEN only for this exact question (kernel facts, 1.9).
        tracked = self._modes() == {int(RegisterMode.WP)}
        written = (
            self._reported(Category.WRITTEN) >= 0 if tracked else (categories > 0) & (categories & Category.WRITTEN > 0)
        )
        changes = (np.diff(entries) != 0) | (np.diff(categories) != 0) | (written[1:] != written[:-1])
        borders = np.flatnonzero(changes | (self.pages <= _SINGLE_PAGES)) + 1
        for first, last in zip([0, *borders.tolist()], [*borders.tolist(), self.pages], strict=True):
            entry, seen = int(entries[first]), int(categories[first])
            frame, users = self._frame(entry, first, last)
            yield Cell(first, last, entry, None if seen < 0 else seen, bool(written[first]), frame, users)

    def _frame(self, entry: int, first: int, last: int) -> tuple[int | None, int]:
        if last - first != 1 or entry < 0 or not entry & PRESENT or entry & ZERO:
            return None, 0
        page = self.start // self.process.page_size + first
        frames = self.process.mm.tables.frames_of(page, page + 1)
        return int(frames[0]), int(self.process.machine.memory.references(frames)[0])

    def _entries(self) -> NDArray[np.int16]:
        """The entry of each page, NO_TABLE or UNMAPPED."""
        tables, size = self.process.mm.tables, self.process.page_size
        pages = np.arange(self.pages, dtype=np.int64) + self.start // size
        entries = tables.entries_of(pages).astype(np.int16)
        for index, page in enumerate(pages.tolist()):
            if self.process.mm.vmas.find(page * size) is None:
                entries[index] = UNMAPPED
            elif tables.row(page // tables.fanout) < 0:
                entries[index] = NO_TABLE
        return entries

    def _modes(self) -> set[int]:
        """The RegisterMode bits of every mapping in it."""
        return {vma.mode for vma in self.process.mm.vmas.between(self.start, self.start + self.length)}

    def _reported(self, mask: int = 0) -> NDArray[np.int16]:
        """What PAGEMAP_SCAN reports of the pages that have all of ``mask``; -1 of the others."""
        size = self.process.page_size
        answer = pagemap_scan(
            self.pagemap,
            self.start,
            self.length,
            required_mask=mask,
            return_mask=mask or ALL_CATEGORIES,
            vec_len=self.pages,
        )
        seen = np.full(self.pages, -1, dtype=np.int16)
        for start, end, categories in answer.regions.tolist():
            seen[(start - self.start) // size : (end - self.start) // size] = categories
        return seen

    @property
    def pagemap(self) -> Pagemap:
        """An open pagemap of the process."""
        return cast("Pagemap", self.process.pagemap)

    @property
    def length(self) -> int:
        """In bytes."""
        return self.pages * self.process.page_size
