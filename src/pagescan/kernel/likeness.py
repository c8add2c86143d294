"""Memory of the same kind as some other, fresh, to try an engine on: what is proved of it holds for the other."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING

from . import memory
from .trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..abi import AddressSpace, MemoryKind
    from .trial import Pages

#: Pages of a trial. Few, since hugetlb pages are scarce.
_SMALL, _HUGE = 4, 1


class LikeMemory:
    """Fresh pages of this process (:class:`pagescan.abi.TrialMemory`)."""

    def __init__(self, space: AddressSpace, pages: Pages, count: int):
        self.space = space
        self.start = pages.start
        self.count = count
        self.size = pages.length // count
        self._value = 0

    def write(self, *indices: int) -> None:
        """Write one byte, of a new value, to each of these pages."""
        self._value = self._value % 255 + 1
        for index in indices:
            ctypes.memset(self.start + index * self.size, self._value, 1)

    def drop(self, index: int) -> None:
        """MADV_DONTNEED of a page."""
        memory.madvise(self.start + index * self.size, self.size, memory.Advice.DONTNEED)


@contextlib.contextmanager
def memory_like(kind: MemoryKind, space: AddressSpace) -> Iterator[LikeMemory]:
    """Fresh memory of this kind in this process; small pages where no huge page is free.

    Mapped files are stood for by files in memory: what tells them apart to the page tables is whether they are shared.
    """
    with Trial() as trial:
        huge = trial.huge_page() if kind.page_size > memory.PAGE_SIZE else None
        if huge is not None:
            yield LikeMemory(space, huge, _HUGE)
        elif kind.anonymous:
            yield LikeMemory(space, trial.pages(_SMALL), _SMALL)
        else:
            yield LikeMemory(space, trial.memfd(_SMALL, shared=kind.shared), _SMALL)
