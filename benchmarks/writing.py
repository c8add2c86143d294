"""What tracking costs the writer: the first write to a protected page, and memory that is rewritten all the time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import pagescan
from harness import Effort, Goal, Pairs, Report, duration, interleave, size_name, timed
from native import PAGE, Memory, Native
from taking import Shadow
from workload import percent, random_pages

MIB = 1 << 20


def first_write(report: Report, native: Native, effort: Effort) -> None:
    """One byte in each page, in C, under pagescan's protection and under mprotect + SIGSEGV.

    In ascending order over every page is the best case of mprotect: the pages it opens join one mapping. At random,
    each opened page splits a mapping.
    """
    tracked, guarded = Memory(64 * MIB), Memory(64 * MIB)
    seen = np.zeros(guarded.pages, dtype=np.uint8)
    with pagescan.track(tracked.array) as tracker:
        for share, how in ((1.0, "every page in order"), (0.1, "10 % of the pages at random")):
            pages = random_pages(tracked.pages, share)
            if share < 1:
                pages = np.random.default_rng(1).permutation(pages)
            tracker.take()
            native.write(tracked, pages)
            assert tracker.take().page_count == len(pages)
            native.write_mprotect(guarded, pages, seen)
            assert np.array_equal(np.flatnonzero(seen), np.sort(pages))
            pairs = interleave(
                lambda pages=pages: native.write(tracked, pages),  # type: ignore[misc]
                lambda pages=pages: native.write_mprotect(guarded, pages, seen),  # type: ignore[misc]
                effort,
                prepare=tracker.take,
                repeats=len(pages),
            )
            what = f"first write to a protected page, {how}"
            report.add("write", what, "mprotect + SIGSEGV", pairs, Goal(faster=5))


def dense(report: Report, native: Native, effort: Effort) -> None:
    """Where tracking loses: so much is written in every interval that comparing with a copy would cost less."""
    size = 256 * MIB
    tracked, plain = Memory(size), Memory(size)
    shadow = Shadow(plain)
    with pagescan.track(tracked.array) as tracker:
        costs = []
        for share in (0.01, 0.1, 0.5, 1.0):
            pages = random_pages(tracked.pages, share)

            def interval(pages: NDArray[np.uint32] = pages) -> int:
                return native.write(tracked, pages) + timed(tracker.take)()

            def untracked(pages: NDArray[np.uint32] = pages) -> int:
                return native.write(plain, pages)

            def compared(pages: NDArray[np.uint32] = pages) -> int:
                shadow.renew(pages)
                return native.write(plain, pages) + timed(shadow.find)()

            what = f"write {percent(share)} of {size_name(size)} + take()"
            report.add("dense", what, "the writes alone, untracked", interleave(interval, untracked, effort))
            against_compare = interleave(interval, compared, effort)
            report.add("dense", what, "the writes + numpy compare", against_compare)
            costs.append((share, against_compare))
    report.notes.append(break_even(costs))


def tiny(report: Report, native: Native, effort: Effort) -> None:
    """Where tracking loses, too: a buffer so small that comparing it costs less than asking."""
    for size in (PAGE, 16 * PAGE, MIB):
        memory = Memory(size)
        copy = memory.array.copy()
        pages = random_pages(memory.pages, 1.0)[:1]

        def write(memory: Memory = memory, pages: NDArray[np.uint32] = pages) -> None:
            native.write(memory, pages)

        def compare(memory: Memory = memory, copy: NDArray[np.uint8] = copy) -> NDArray[np.intp]:
            return np.flatnonzero((memory.array != copy).reshape(-1, PAGE).any(axis=1))

        with pagescan.track(memory.array) as tracker:
            write()
            assert tracker.take().page_count == len(compare()) == 1
            pairs = interleave(timed(tracker.take), timed(compare), effort, prepare=write)
        what = f"take() {size_name(size)}, 1 page written"
        report.add("tiny", what, "numpy compare with a copy", pairs)


def break_even(costs: list[tuple[float, Pairs]]) -> str:
    """The share of written pages from which on writes + compare cost less than tracked writes + take()."""
    below = None
    for share, pairs in costs:
        if pairs.ratio < 1:
            below = (share, pairs)
            continue
        if below is None:
            return f"Break-even with numpy compare: below {percent(share)} of the pages written in every interval."
        (low, before), gap = below, float(np.median(below[1].theirs - below[1].ours))
        at = low + (share - low) * gap / (gap + pairs.more)
        return (
            f"Break-even with numpy compare: about {percent(round(at, 2))} of the pages written in every interval "
            f"(an interval with tracking and with comparing: {_both(before)} at {percent(low)}, {_both(pairs)} at "
            f"{percent(share)})."
        )
    return "Break-even with numpy compare: none, tracking costs less even if every page is written in every interval."


def _both(pairs: Pairs) -> str:
    return f"{duration(float(np.median(pairs.ours)))} and {duration(float(np.median(pairs.theirs)))}"
