"""``mark.restore()`` against copying everything back, and against C that does the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import pagescan
from harness import Effort, Goal, Report, interleave, size_name, timed
from native import REGION, Memory, Native
from taking import VEC_LEN
from workload import page_indexes, percent, random_pages, require_same

MIB = 1 << 20


@dataclass
class Case:
    """A mark of 256 MiB of which some pages are written to before each restore, and plain copies of the same."""

    native: Native
    share: float

    def __post_init__(self) -> None:
        self.memory = Memory(256 * MIB)
        self.saved = self.memory.array.copy()
        self.mark = pagescan.mark(self.memory.array)
        self.pages = random_pages(self.memory.pages, self.share)
        self.vec = np.zeros(4 * VEC_LEN, dtype=REGION)
        self.what = f"restore() {size_name(self.memory.size)}, {percent(self.share)} written"

    def write(self) -> None:
        self.native.write(self.memory, self.pages)

    def check(self) -> NDArray[np.void]:
        """That either side puts back all of it, and nothing else; returns the runs."""
        self.write()
        runs = self.mark.peek().to_records().copy()
        require_same(page_indexes(runs, self.memory.start), self.pages, "the mark")
        assert self.mark.restore() == self.saved.nbytes // self.memory.pages * len(self.pages)
        assert np.array_equal(self.memory.array, self.saved)
        self.write()
        assert self.in_c()[1] == len(runs)
        assert np.array_equal(self.memory.array, self.saved)
        assert self.mark.restore() == 0
        return runs

    def restore(self, *, recheck: bool | None = None) -> Callable[[], int]:
        return timed(lambda: self.mark.restore(recheck=recheck))

    def in_c(self, *, compare: bool = False) -> tuple[int, int]:
        return self.native.put_back(self.memory, self.saved, self.vec, VEC_LEN, compare=compare)


def rollback(report: Report, native: Native, effort: Effort) -> None:
    """1 % of the pages in every way, then few and many."""
    _one_percent(report, native, effort)
    for share in (0.0001, 0.1, 1.0):
        # Copied over in memory of its own: the marked memory would count as written to.
        case, plain = Case(native, share), Memory(256 * MIB)
        with case.mark:
            case.check()
            everything = timed(lambda case=case, plain=plain: np.copyto(plain.array, case.saved))  # type: ignore[misc]
            pairs = interleave(case.restore(), everything, effort, prepare=case.write)
        report.add("rollback", case.what, "copying everything back, untracked", pairs)


def _one_percent(report: Report, native: Native, effort: Effort) -> None:
    """As it is called, with no other thread that runs; and where what was put back is compared once more."""
    case, plain = Case(native, 0.01), Memory(256 * MIB)
    memory, saved = case.memory, case.saved
    with case.mark:
        runs = case.check()

        def protected() -> int:
            """A look that protects, as take() does, comes before; each page then costs a fault."""
            native.scan(memory, case.vec, VEC_LEN, wp=True)
            return native.copy_runs(memory, saved, runs)

        everything = timed(lambda: np.copyto(plain.array, saved))
        rows: tuple[tuple[bool | None, str, Callable[[], int], Goal | None], ...] = (
            (None, "copying everything back, untracked", everything, Goal(faster=20)),
            (None, "find + memcpy of each run + protect in C", lambda: case.in_c()[0], Goal(times=1.3)),
            (None, "memcpy of each run in C, protected", protected, Goal(times=1.3)),
            (None, "memcpy of each run in C, open", lambda: native.copy_runs(memory, saved, runs), None),
            (True, "copying everything back, untracked", everything, None),
            (True, "the same and memcmp of each run in C", lambda: case.in_c(compare=True)[0], None),
        )
        for recheck, against, theirs, goal in rows:
            pairs = interleave(case.restore(recheck=recheck), theirs, effort, prepare=case.write)
            report.add("rollback", case.what + (", rechecked" if recheck else ""), against, pairs, goal)
