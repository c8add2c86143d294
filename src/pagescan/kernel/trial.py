"""Fresh memory to try things on: what every round trip is made of. All of it is given back at the end.

A probe maps a few pages, does one thing to one of them, and looks whether the kernel says exactly that. Nothing here is
cached, nothing touches memory that anybody else uses.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from ..abi import (
    PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING,
    REGION_DTYPE,
    TRACKING_FEATURES,
    WALK_END,
    RegisterMode,
    pack_scan_argument,
)
from ..query import Category
from . import memory
from .memory import PAGE_SIZE
from .pagemap import Pagemap
from .userfaultfd import Userfaultfd, open_userfaultfd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes that one entry of the second-lowest page table covers: 2 MiB for 4 KiB pages. A huge page, and a hole without
#: a page table, are of this size.
PMD_SIZE = PAGE_SIZE * (PAGE_SIZE // 8)


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages to try something on.

    Attributes:
        start: address of the first byte.
        count: how many pages of ``size`` bytes.
        size: bytes of one page, as the probe counts them.
    """

    start: int
    count: int
    size: int = PAGE_SIZE

    @property
    def length(self) -> int:
        return self.count * self.size

    @property
    def end(self) -> int:
        return self.start + self.length

    def address(self, index: int) -> int:
        return self.start + index * self.size

    def write(self, *indices: int) -> None:
        """Write one byte to each of these pages."""
        for index in indices:
            ctypes.memset(self.address(index), 1, 1)

    def read(self, index: int) -> int:
        """The first byte of a page."""
        return ctypes.string_at(self.address(index), 1)[0]

    def part(self, first: int, count: int) -> Pages:
        """Some of these pages."""
        return Pages(self.address(first), count, self.size)


class Trial:
    """Memory, a pagemap and a userfaultfd of this process, for one probe. A context manager; its end undoes it all."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._uffd: Userfaultfd | None = None
        #: Where the last scan stopped, as the kernel said it.
        self.walk_end = 0

    def __enter__(self) -> Self:
        self.pagemap = self._stack.enter_context(Pagemap.open("self"))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # Memory -----------------------------------------------------------------------------------------------------------

    def pages(self, count: int, *, flags: int = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS, fd: int = -1) -> Pages:
        """Newly mapped pages, readable and writable; never touched, and never of a transparent huge page."""
        pages = Pages(memory.map_memory(count * PAGE_SIZE, flags=flags, fd=fd), count)
        self._stack.callback(memory.unmap_memory, pages.start, pages.length)
        # EINVAL: a kernel without transparent huge pages.
        with contextlib.suppress(OSError):
            memory.madvise(pages.start, pages.length, memory.Advice.NOHUGEPAGE)
        return pages

    def area(self) -> Pages:
        """One untouched, naturally aligned run of the size of a huge page: no page table can exist for it."""
        flags = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS | memory.MAP_NORESERVE
        start = memory.map_memory(2 * PMD_SIZE, flags=flags)
        self._stack.callback(memory.unmap_memory, start, 2 * PMD_SIZE)
        return Pages(start + -start % PMD_SIZE, PMD_SIZE // PAGE_SIZE)

    def memfd(self, count: int, *, shared: bool) -> Pages:
        """Pages of a new file in memory."""
        fd = os.memfd_create("pagescan-trial", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, count * PAGE_SIZE)
            return self.pages(count, flags=memory.MAP_SHARED if shared else memory.MAP_PRIVATE, fd=fd)
        finally:
            os.close(fd)

    def huge_page(self) -> Pages | None:
        """One populated hugetlb page of the default size, counted in base pages; None if none is free."""
        size = default_huge_page()
        if size == 0:
            return None
        flags = memory.MAP_PRIVATE | memory.MAP_ANONYMOUS | memory.MAP_HUGETLB
        try:
            start = memory.map_memory(size, flags=flags)
        except OSError:
            return None
        self._stack.callback(memory.unmap_memory, start, size)
        try:
            # Not by writing: where a control group forbids the page, that would be SIGBUS.
            memory.madvise(start, size, memory.Advice.POPULATE_WRITE)
        except OSError:
            return None
        return Pages(start, size // PAGE_SIZE)

    # Tracking ---------------------------------------------------------------------------------------------------------

    def register(self, pages: Pages, *, mode: int = RegisterMode.WP, features: int = TRACKING_FEATURES) -> Userfaultfd:
        """Put pages under this trial's userfaultfd, which the first call opens."""
        if self._uffd is None:
            self._uffd = self._stack.enter_context(open_userfaultfd(features))
        self._uffd.register(pages.start, pages.length, mode)
        return self._uffd

    def protect(self, pages: Pages) -> None:
        """Write-protect all of the pages through PAGEMAP_SCAN, whatever they are."""
        flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC
        self.scan(pages, flags=flags)
        # Empty entries of a page table that exists are reached only by the form that asks for WRITTEN alone, before
        # "fs/proc/task_mmu: written state for unpopulated ptes" (7.2, 6.12.103).
        self.scan(pages, mask=Category.WRITTEN, returned=Category.WRITTEN, flags=flags)

    def written(self, pages: Pages, *, protect: bool = False) -> list[int]:
        """The indices of the written pages, asked for in the fast form (only WRITTEN, in both masks)."""
        flags = PM_SCAN_CHECK_WPASYNC | (PM_SCAN_WP_MATCHING if protect else 0)
        return list(self.scan(pages, mask=Category.WRITTEN, returned=Category.WRITTEN, flags=flags))

    def scan(
        self,
        pages: Pages,
        *,
        mask: int = 0,
        inverted: int = 0,
        returned: int = 0,
        flags: int = 0,
        vec_len: int = 1024,
    ) -> dict[int, Category]:
        """One PAGEMAP_SCAN in the kernel's own masks: the categories of the matching pages by their index."""
        vec = np.zeros(max(vec_len, 1), REGION_DTYPE)
        argument = pack_scan_argument(
            flags=flags,
            start=pages.start,
            end=pages.end,
            vec=vec.ctypes.data if vec_len else 0,
            vec_len=vec_len,
            category_mask=mask,
            category_inverted=inverted,
            return_mask=returned,
        )
        count = self.pagemap.ioctl_scan(argument, vec)
        self.walk_end = memoryview(argument).cast("Q")[WALK_END]
        return {
            (address - pages.start) // PAGE_SIZE: Category(categories)
            for start, end, categories in vec[:count].tolist()
            for address in range(start, end, PAGE_SIZE)
        }


def default_huge_page() -> int:
    """Bytes of a hugetlb page of the default size; 0 without hugetlb."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next((1024 * int(line.split()[1]) for line in file if line.startswith("Hugepagesize:")), 0)


# --- processes to look at ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Child:
    """A process of our own that does nothing but wait.

    Attributes:
        pid: its process id.
        answer: what its work returned.
        descriptor: a number that is open in it.
    """

    pid: int
    answer: str
    descriptor: int


@contextlib.contextmanager
def child(work: Callable[[], str] = lambda: "", *, orphan: bool = False) -> Iterator[Child]:
    """Fork a process that does ``work`` and then waits, until the block ends or this process does.

    Args:
        work: runs in the child; an error there is answered as its text after "error: ".
        orphan: make it nobody's child (its parent exits at once), hence no descendant of this process.
    """
    answers, answer_in = os.pipe()
    hold, hold_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child_main(work, orphan, answer_in, hold, hold_in)
    os.close(answer_in)
    os.close(hold)
    own_pid = ""
    try:
        with open(answers, encoding="utf-8", errors="replace") as file:
            own_pid, _, answer = file.read().partition("\n")
        yield Child(int(own_pid or 0), answer, hold)
    finally:
        os.close(hold_in)
        if not orphan:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if orphan and own_pid:
            # In a container this process may be the one that inherits orphans.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(own_pid), 0)


def _child_main(work: Callable[[], str], orphan: bool, answer_in: int, hold: int, hold_in: int) -> None:
    """Never returns: no handler or buffer of the parent may run twice."""
    try:
        os.close(hold_in)
        if orphan and os.fork():
            os._exit(0)
        try:
            answer = work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells it
            answer = f"error: {error}"
        with open(answer_in, "w", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n{answer}")
        os.read(hold, 1)  # until the parent closes the other end, or dies
    finally:
        os._exit(0)
