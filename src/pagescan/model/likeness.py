"""Fresh memory of a given kind on a machine of the model, to try an engine on."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..abi import MemoryKind
    from .machine import Machine
    from .process import Process

_COUNT = 4


class LikeMemory:
    """Fresh pages of a model process (:class:`pagescan.abi.TrialMemory`)."""

    def __init__(self, process: Process, start: int, size: int):
        self.space = process
        self.start = start
        self.count = _COUNT
        self.size = size
        self._value = 0

    def write(self, *indices: int) -> None:
        """Write one byte, of a new value, to each of these pages."""
        self._value = self._value % 255 + 1
        for index in indices:
            self.space.write(self.start + index * self.size, bytes([self._value]))

    def drop(self, index: int) -> None:
        """MADV_DONTNEED of a page."""
        self.space.madvise(self.start + index * self.size, self.size, "dontneed")


@contextlib.contextmanager
def memory_like(kind: MemoryKind, machine: Machine) -> Iterator[LikeMemory]:
    """Fresh memory of this kind on a machine like this one, on which the trial leaves no trace."""
    process = machine.twin().process()
    huge = kind.page_size > machine.page_size
    what = "hugetlb" if huge else "anonymous" if kind.anonymous else "shmem"
    start = process.mmap(_COUNT * kind.page_size, what, shared=kind.shared)
    yield LikeMemory(process, start, kind.page_size)
