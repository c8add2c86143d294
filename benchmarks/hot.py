"""Memory that is rewritten in every interval, left unprotected (``hot="exempt"``) and protected.

An exempted region is protected again now and then, and costs its faults in that one interval. So what is timed here is
a whole cycle, from one such probe to the next; by the thread's processor time, as no median over so few cycles would
leave out what others do on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import pagescan
from harness import Effort, Goal, Pairs, Report, interleave, size_name, timed
from native import Memory, Native
from pagescan.trackers.hot import ANSWERS, INTERVALS
from workload import random_pages

MIB = 1 << 20
SIZE = 256 * MIB
CYCLE = INTERVALS[-1] + 1


def hot(report: Report, native: Native, effort: Effort) -> None:
    """Rewriting everything, with and without exemption; one byte a page; a sparse writer; and the takes themselves."""
    tracked, plain = Memory(SIZE), Memory(SIZE)
    everything = np.arange(tracked.pages, dtype=np.uint32)
    fills = (lambda: tracked.array.fill(7)), (lambda: plain.array.fill(7))
    bytes_ = (lambda: native.write(tracked, everything)), (lambda: native.write(plain, everything))
    what, untracked = f"rewriting all of {size_name(SIZE)} every interval", "the same writes, untracked"
    with pagescan.track(tracked.array) as tracker:
        pairs = _cycles(tracker, fills, effort, length=5)
    report.add("hot", f"{what}, protected", untracked, pairs)
    with pagescan.track(tracked.array, hot="exempt") as tracker:
        _warm(tracker, bytes_[0])
        pairs = _cycles(tracker, fills, effort)
        report.add("hot", f"{what}, exempt", untracked, pairs, Goal(times=1.10), "(probes included)")
        pairs = _cycles(tracker, bytes_, effort)
        report.add("hot", f"one byte in each page of {size_name(SIZE)}, exempt", untracked, pairs, None, "(likewise)")
    with pagescan.track(tracked.array) as tracker:
        pairs = _cycles(tracker, bytes_, effort, length=5)
    report.add("hot", f"one byte in each page of {size_name(SIZE)}, protected", untracked, pairs)
    _beside(report, native, effort, tracked, plain)


def _beside(report: Report, native: Native, effort: Effort, one: Memory, other: Memory) -> None:
    """What exemption costs who does not need it, and what it saves the taker of hot memory."""
    everything, few = np.arange(one.pages, dtype=np.uint32), random_pages(one.pages, 0.01)
    with pagescan.track(one.array, hot="exempt") as exempt, pagescan.track(other.array) as protected:
        _warm(exempt, lambda: native.write(one, few))

        def again() -> None:
            exempt.take()
            protected.take()

        pairs = interleave(
            lambda: native.write(one, few), lambda: native.write(other, few), effort, prepare=again, repeats=len(few)
        )
        report.add("hot", 'a write, 1 % written at random, "exempt"', 'the same, "protect"', pairs, Goal(times=1.05))

        def both(pages: NDArray[np.uint32]) -> None:
            native.write(one, pages)
            native.write(other, pages)

        pairs = interleave(timed(exempt.take), timed(protected.take), effort, prepare=lambda: both(few))
        report.add("hot", 'take(), 1 % written at random, "exempt"', 'the same, "protect"', pairs)
        _warm(exempt, lambda: native.write(one, everything))
        pairs = interleave(timed(exempt.take), timed(protected.take), effort, prepare=lambda: both(everything))
        report.add("hot", 'take(), everything written, "exempt"', 'the same, "protect"', pairs)


def _warm(tracker: pagescan.Tracker, write: Callable[[], object]) -> None:
    """Until hot memory is probed as seldom as it ever is, and was probed just now."""
    for _ in range(ANSWERS + sum(interval + 1 for interval in INTERVALS)):
        write()
        tracker.take()


def _cycles(
    tracker: pagescan.Tracker,
    writes: tuple[Callable[[], object], Callable[[], object]],
    effort: Effort,
    length: int = CYCLE,
) -> Pairs:
    """Both writes in turn, with a take before each of the tracked ones; a round is ``length`` intervals."""
    rounds: list[tuple[int, int]] = []
    least, deadline = max(1, effort.least // 7), time.monotonic() + effort.seconds
    while len(rounds) < least or time.monotonic() < deadline:
        ours = theirs = 0
        for _ in range(length):
            tracker.take()
            began = time.thread_time_ns()
            writes[0]()
            between = time.thread_time_ns()
            writes[1]()
            ours, theirs = ours + between - began, theirs + time.thread_time_ns() - between
        rounds.append((ours, theirs))
    both = np.array(rounds, np.float64) / length
    return Pairs(both[:, 0], both[:, 1])
