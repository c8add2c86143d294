"""``PAGEMAP_SCAN``: the call, from its argument structure to the regions it writes.

The order of checks and effects is that of ``do_pagemap_scan()`` in ``fs/proc/task_mmu.c``. Where the kernel goes page
by page, the model asks one table look-up of a whole mapping, finds the runs of equal answers, and cuts them where the
output is full. Arguments that cannot be are refused in ``scan_arguments``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..abi import WALK_END
from ..errors import Closed, NoSuchProcess
from ..query import Category
from . import behaviour as bugs
from .categories import Masks, Rules, vma_categories
from .entries import read_entries
from .mm import KernelFailure, Mm, error
from .pages import HUGE
from .protect import protect_hole, protect_hugetlb
from .scan_arguments import Arguments, read_arguments
from .scan_output import Output, Runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .process import Process
    from .vma import Vma


class Pagemap:
    """An open pagemap of a model process: bound to the address space it was opened for, whatever becomes of it.

    Attributes:
        space: the process.
        known: the categories this release knows.
        prepared_scans: for the layer above.
    """

    def __init__(self, process: Process):
        self.space = process
        self.known: Category = process.mm.behaviour.known
        self.prepared_scans: Any = None
        self._mm = process.mm
        self._bugs = process.machine.bugs
        self._closed = False

    def ioctl_scan(self, argument: bytearray, vec: NDArray[np.void] | None) -> int:
        """One ``PAGEMAP_SCAN`` on a 96-byte ``struct pm_scan_arg``; see :class:`pagescan.abi.Pagemap`."""
        if self._closed:
            raise Closed("the pagemap is closed", hint="open another one: process.open_pagemap()")
        if not self._mm.alive and self._mm.behaviour.pins_mm:
            raise error(errno.ESRCH, "the process has exited")
        arguments = read_arguments(argument, int(self.known), self._mm.page_size)
        words = memoryview(argument).cast("Q")
        call = _Call(self._mm, self._bugs, arguments, vec)
        try:
            count = call.run()
        except OSError:
            words[WALK_END] = call.walk_end
            raise
        words[WALK_END] = call.walk_end
        return count

    def bind(self, argument: bytearray, vec: NDArray[np.void] | None) -> Callable[[], int]:
        """The same call made ready: calling the result is :meth:`ioctl_scan` of these two."""
        return lambda: self.ioctl_scan(argument, vec)

    def read_entries(self, start: int, end: int) -> NDArray[np.uint64]:
        """The file's entries of the pages of [start, end); see :class:`pagescan.abi.Pagemap`."""
        if self._closed:
            raise Closed("the pagemap is closed", hint="open another one: process.open_pagemap()")
        if not self._mm.alive:
            raise NoSuchProcess(f"{self.space.label} has exited", errno=errno.ESRCH)
        return read_entries(self._mm, start, end)

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Call:
    """One call under way. ``walk_end`` is what it writes back, also on an error."""

    def __init__(self, mm: Mm, bugs_on: frozenset[str], arguments: Arguments, vec: NDArray[np.void] | None):
        self._mm = mm
        self._bugs = bugs_on
        self._arguments = arguments
        self._vec = vec
        self._masks = Masks(arguments.inverted, arguments.mask, arguments.anyof, arguments.returned)
        self._output = Output(arguments.vec_len, arguments.max_pages, mm.page_size, mm.fanout)
        self._stop: int | None = None
        self.walk_end = arguments.start

    def run(self) -> int:
        clean = bugs.ERROR_AFTER_WORK not in self._bugs
        if clean:
            self._check_beforehand()
        problem = self._walk()
        self.walk_end = self._final_walk_end()
        problem = self._copy_out() or problem
        if problem is not None:
            raise problem
        return self._output.count

    def _check_beforehand(self) -> None:
        """The clean machine refuses before it changes anything."""
        a = self._arguments
        for vma, _, _ in self._mm.pieces(a.start, a.end):
            self._check_wp_async(vma)
        if a.vec_len and (self._vec is None or not self._vec.flags.writeable):
            raise error(errno.EFAULT, "PAGEMAP_SCAN: the output buffer cannot be written to")

    def _check_wp_async(self, vma: Vma) -> None:
        if self._arguments.check_wp_async and not vma.wp_allowed:
            raise error(
                errno.EPERM, f"PAGEMAP_SCAN: {vma.start:#x}-{vma.end:#x} is not under asynchronous write protection"
            )

    def _walk(self) -> OSError | None:
        a = self._arguments
        for vma, first, last in list(self._mm.pieces(a.start, a.end)):
            try:
                if self._skips(vma):
                    continue
                rules = Rules.of(vma, self._mm.behaviour, self._masks, exclusive=self._exclusive)
                self._walk_vma(vma, rules, first, last)
            except OSError as problem:
                return problem
            if self._stop is not None:
                break
        return None

    def _skips(self, vma: Vma) -> bool:
        """``pagemap_scan_test_walk()``, in its order."""
        if vma.rwp and self._arguments.protects:
            return True
        self._check_wp_async(vma)
        if self._arguments.protects and not vma.wp_allowed:
            return True
        if vma.pfnmap:
            return True
        allowed = int(Category.WPALLOWED)
        required = self._masks.mask & allowed
        return bool(required and not (vma_categories(vma) ^ self._masks.inverted) & allowed)

    @property
    def _exclusive(self) -> bool:
        """WP without an output buffer, with the fast path that ignores the masks."""
        a = self._arguments
        return a.protects and not a.vec_len and bugs.EXCLUSIVE_WP_IGNORES_MASKS in self._bugs

    def _walk_vma(self, vma: Vma, rules: Rules, first: int, last: int) -> None:
        if vma.hugetlb:
            self._walk_hugetlb(vma, rules, first, last)
            return
        while True:
            runs = self._runs(rules, first, last)
            stop = self._output.room_for(runs)
            if not self._arguments.protects:
                break
            # A huge page that would be protected in part is split, and looked at again as single pages.
            pmd = self._cut_huge_page(rules, first, last if stop is None else stop)
            if pmd is None:
                break
            if not self._arguments.vec_len and bugs.EXCLUSIVE_WP_OOPS in self._bugs:
                raise KernelFailure("oops: NULL dereference in pagemap_scan_backout_range()")
            self._split(rules, pmd, first, stop)
        self._output.add(runs, stop)
        end = last if stop is None else stop
        if self._arguments.protects:
            self._protect(rules, first, end)
        if stop is not None:
            self._stop = stop * self._mm.page_size

    def _split(self, rules: Rules, pmd: int, first: int, stop: int | None) -> None:
        tables = self._mm.tables
        if stop is not None and stop // tables.fanout == pmd and bugs.STALE_WALK_END in self._bugs:
            # walk_end was set where the output was full, and stays if the single pages do not match after all.
            self._output.note(stop * self._mm.page_size)
        entry = int(tables.entries[tables.row(pmd), 0])
        self._mm.split_huge(pmd)
        changed = rules.output[entry] != rules.output[entry & ~HUGE]
        if changed and bugs.SPLIT_KEEPS_APART in self._bugs:
            self._output.apart_at.add(max(pmd * tables.fanout, first))

    def _runs(self, rules: Rules, first: int, last: int) -> Runs:
        """The matching pages of [first, last) as runs of equal output."""
        tables = self._mm.tables
        keys, rows = tables.over(first, last)
        parts = []
        if len(keys):
            parts.append(_table_runs(tables.entries, keys, rows, rules.output, tables.fanout).clip(first, last))
        if rules.hole >= 0:
            parts.append(_hole_runs(keys, rules.hole, tables.fanout, first, last))
        return Runs.joined(parts).cut(self._output.apart_at)

    def _cut_huge_page(self, rules: Rules, first: int, last: int) -> int | None:
        """The PMD number of a huge page that is to be protected and lies in part outside [first, last)."""
        tables = self._mm.tables
        if first >= last:
            return None
        for pmd in {first // tables.fanout, (last - 1) // tables.fanout}:
            low, high = pmd * tables.fanout, (pmd + 1) * tables.fanout
            row = tables.row(pmd)
            if (
                row >= 0
                and (low < first or high > last)
                and tables.is_huge(row)
                and rules.protects[tables.entries[row, 0]]
            ):
                return pmd
        return None

    def _protect(self, rules: Rules, first: int, last: int) -> None:
        if first >= last:
            return
        tables = self._mm.tables
        keys, _ = tables.over(first, last)
        tables.transform(first, last, rules.protected)
        if rules.hole >= 0:
            holes = _hole_runs(keys, 0, tables.fanout, first, last)
            for low, high in zip(holes.starts.tolist(), holes.ends.tolist(), strict=True):
                protect_hole(self._mm, low, high)

    # -- hugetlb: few pages, each with rules of its own, so one after another ----------------------------------------

    def _walk_hugetlb(self, vma: Vma, rules: Rules, first: int, last: int) -> None:
        fanout = self._mm.fanout
        page = first
        while page < last:
            end = min((page // fanout + 1) * fanout, last)
            if self._hugetlb_page(vma, rules, page, end):
                return
            page = end

    def _hugetlb_page(self, vma: Vma, rules: Rules, page: int, end: int) -> bool:
        """One huge page, or the part [page, end) of it. True if the output is full."""
        tables = self._mm.tables
        fanout = self._mm.fanout
        row = tables.row(page // fanout)
        hole = row < 0 and page // fanout // fanout not in tables.puds
        entry = HUGE if row < 0 else int(tables.entries[row, 0])
        output = rules.hole if hole else int(rules.output[entry])
        if output < 0:
            return False
        stop = self._output.room_for(Runs.one(page, end, output))
        cut = end if stop is None else stop
        if hole and cut > page and self._arguments.protects:
            if bugs.HUGETLB_HOLE_DEADLOCK in self._bugs:
                raise KernelFailure("the process waits for ever in pagemap_scan_pte_hole()")
            # hugetlb_change_protection() marks the whole huge page, also for part of it.
            protect_hugetlb(self._mm, page // fanout * fanout, (page // fanout + 1) * fanout)
        elif cut > page and self._arguments.protects and rules.protects[entry]:
            if cut - page != fanout or page % fanout:
                return self._hugetlb_partial(page, cut, stop)
            protect_hugetlb(self._mm, page, cut)
        self._output.add(Runs.one(page, end, output), stop)
        if stop is not None:
            self._stop = stop * self._mm.page_size
        return stop is not None

    def _hugetlb_partial(self, page: int, cut: int, stop: int | None) -> bool:
        """Part of a huge page cannot be protected."""
        if bugs.PARTIAL_HUGETLB_PROGRESS in self._bugs:
            self._output.note(page * self._mm.page_size)
            return False
        if stop is None:
            raise error(errno.EPERM, f"PAGEMAP_SCAN: {page * self._mm.page_size:#x} is part of a hugetlb page")
        self._stop = page * self._mm.page_size
        return True

    # -- the answer ------------------------------------------------------------------------------------------------

    def _final_walk_end(self) -> int:
        if self._stop is not None:
            return self._stop
        noted = self._output.noted
        if bugs.STALE_WALK_END in self._bugs:
            noted = max(noted, self._output.last_full_batch)
        return noted or self._arguments.end

    def _copy_out(self) -> OSError | None:
        regions = self._output.regions()
        if not len(regions):
            return None
        vec = self._vec
        if vec is None or not vec.flags.writeable or len(vec) < len(regions):
            return error(errno.EFAULT, "PAGEMAP_SCAN: the output buffer cannot be written to")
        vec[: len(regions)] = regions
        return None


def _table_runs(
    entries: NDArray[np.uint8], keys: NDArray[np.int64], rows: NDArray[np.int64], lut: NDArray[np.int16], fanout: int
) -> Runs:
    """Runs of equal output over whole tables; those that do not match are left out."""
    consecutive = rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all())
    view = entries[rows[0] : rows[-1] + 1] if consecutive else entries[rows]
    output = lut[view].reshape(-1)
    changes = output[1:] != output[:-1]
    jumps = np.flatnonzero(np.diff(keys) != 1)
    changes[(jumps + 1) * fanout - 1] = True
    begins = np.concatenate([[0], np.flatnonzero(changes) + 1])
    ends = np.concatenate([begins[1:], [len(output)]])
    values = output[begins]
    keep = values >= 0
    begins, ends, values = begins[keep], ends[keep], values[keep]
    starts = keys[begins // fanout] * fanout + begins % fanout
    return Runs(starts, starts + (ends - begins), values.astype(np.int64))


def _hole_runs(keys: NDArray[np.int64], output: int, fanout: int, first: int, last: int) -> Runs:
    """What lies between the tables with these PMD numbers, in [first, last)."""
    starts = np.concatenate([[first], (keys + 1) * fanout])
    ends = np.concatenate([keys * fanout, [last]])
    keep = starts < ends
    starts, ends = starts[keep], ends[keep]
    return Runs(starts, ends, np.full(len(starts), output, dtype=np.int64))
