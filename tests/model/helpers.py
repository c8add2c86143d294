"""Short words for the tests of the model: one scan, its regions in pages from a base address."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pagescan.abi import (
    PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING,
    REGION_DTYPE,
    TRACKING_FEATURES,
    WALK_END,
    pack_scan_argument,
)
from pagescan.model import KERNEL_BUGS, Machine, Process, Userfaultfd
from pagescan.query import Category

PAGE = 4096
HUGE = 2 << 20
WP, CHECK = PM_SCAN_WP_MATCHING, PM_SCAN_CHECK_WPASYNC

WPALLOWED, WRITTEN, FILE, PRESENT = Category.WPALLOWED, Category.WRITTEN, Category.FILE, Category.PRESENT
SWAPPED, PFNZERO, HUGE_PAGE, GUARD, ACCESSED = (
    Category.SWAPPED,
    Category.PFNZERO,
    Category.HUGE,
    Category.GUARD,
    Category.ACCESSED,
)


def refused(number: int) -> pytest.RaisesExc[OSError]:
    """``with refused(errno.EINVAL): ...`` passes if the block raises OSError with this errno."""
    return pytest.raises(OSError, check=lambda problem: problem.errno == number)


@dataclass
class Answer:
    """Regions as (first page, last page exclusive, categories), and walk_end in pages, all counted from the base."""

    regions: list[tuple[int, int, Category]]
    walk_end: int

    @property
    def pages(self) -> list[int]:
        return [page for first, last, _ in self.regions for page in range(first, last)]


@dataclass
class Arena:
    """A process with one mapping of ``pages`` pages."""

    pages: int = 16
    kind: str = "anonymous"
    behaviour: str = "6.18"
    real: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bugs = KERNEL_BUGS[self.behaviour] if self.real else ()
        self.machine = Machine(behaviour=self.behaviour, bugs=bugs)
        self.process: Process = self.machine.process()
        self.at = self.process.mmap(self.pages * PAGE, self.kind, **self.options)

    def register(self, first: int = 0, last: int | None = None) -> Userfaultfd:
        """Open a userfaultfd and register pages [first, last)."""
        uffd = self.process.open_userfaultfd(TRACKING_FEATURES)
        uffd.register(self.at + first * PAGE, ((self.pages if last is None else last) - first) * PAGE)
        return uffd

    def armed(self) -> Arena:
        """Everything registered and protected by the ioctl."""
        self.uffd = self.register()
        self.uffd.writeprotect(self.at, self.pages * PAGE)
        return self

    def write(self, *pages: int) -> None:
        for page in pages:
            self.process.write(self.at + page * PAGE, b"w")

    def read(self, *pages: int) -> None:
        for page in pages:
            self.process.read(self.at + page * PAGE, 1)

    def advise(self, what: str, first: int = 0, last: int | None = None) -> None:
        last = self.pages if last is None else last
        self.process.madvise(self.at + first * PAGE, (last - first) * PAGE, what)

    def scan(
        self,
        first: int = 0,
        last: int | None = None,
        *,
        process: Process | None = None,
        flags: int = 0,
        mask: int = 0,
        inverted: int = 0,
        anyof: int = 0,
        returned: int | None = None,
        vec_len: int = 4096,
        max_pages: int = 0,
    ) -> Answer:
        who = process or self.process
        vec = np.zeros(max(vec_len, 1), dtype=REGION_DTYPE)
        argument = pack_scan_argument(
            flags=flags,
            start=self.at + first * PAGE,
            end=self.at + (self.pages if last is None else last) * PAGE,
            vec=vec.ctypes.data if vec_len else 0,
            vec_len=vec_len,
            max_pages=max_pages,
            category_inverted=inverted,
            category_mask=mask,
            category_anyof_mask=anyof,
            return_mask=int(who.pagemap.known) if returned is None else returned,
        )
        found = vec[: who.pagemap.ioctl_scan(argument, vec if vec_len else None)]
        regions = [((s - self.at) // PAGE, (e - self.at) // PAGE, Category(c)) for s, e, c in found.tolist()]
        return Answer(regions, (memoryview(argument).cast("Q")[WALK_END] - self.at) // PAGE)

    def written(self, **options: Any) -> list[int]:
        """The pages that are WRITTEN, by the fast path."""
        return self.scan(mask=WRITTEN, returned=WRITTEN, **options).pages

    def take(self, **options: Any) -> list[int]:
        """The same, and protect them again."""
        return self.written(flags=WP | CHECK, **options)

    def of(self, page: int, **options: Any) -> Category:
        """Every category of one page."""
        [(_, _, categories)] = self.scan(page, page + 1, **options).regions
        return categories
