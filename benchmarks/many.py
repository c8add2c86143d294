"""Many buffers in one tracker, and many trackers: what a take costs by their number, their size, and what is written.

The arrays are slices of one memory, each half of its share, so that nothing joins them but pagescan. The C side gets
and protects a memory of the same size as a whole, in which as many pages are written.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time

import numpy as np
from numpy.typing import NDArray

import pagescan
from harness import Effort, Pairs, Report, Row, interleave, size_name, timed
from native import PAGE, REGION, Memory, Native
from pagescan.units import format_count
from taking import VEC_LEN

MIB = 1 << 20
COUNTS = (1, 100, 10_000)
SIZES = (MIB, 16 * MIB, 256 * MIB, 1024 * MIB, 16 * 1024 * MIB)
#: Memory that is larger is mapped and not filled: nothing but what is written is there.
FILLED = 1024 * MIB
#: Arrays that are written to before each take, one page each.
WRITTEN = 16


def many(report: Report, native: Native, effort: Effort) -> None:
    """The curve of take(), and of setting up."""
    for size in SIZES:
        if size > FILLED:
            ours, theirs = _unfilled(size), _unfilled(size)
        else:
            ours, theirs = Memory(size), Memory(size)
        native.register(theirs)
        for count in COUNTS:
            what = f"take() of {format_count(count, 'array')} in {size_name(size)}"
            if count * 2 * PAGE > size and count > 1:
                reason = "they would share their pages, and be one run"
                report.rows.append(Row("many", what, "get + protect of one array in C", skipped=reason))
                continue
            _curve(report, native, effort, ours, theirs, count)
    _set_up(report, effort)
    _trackers(report, effort)


def _curve(report: Report, native: Native, effort: Effort, ours: Memory, theirs: Memory, count: int) -> None:
    arrays = _slices(ours.array, count)
    chosen = np.random.default_rng(count).choice(count, min(WRITTEN, count), replace=False)
    starts = np.array([arrays[i].ctypes.data for i in sorted(chosen)])
    pages = ((starts - ours.start) // PAGE).astype(np.uint32)
    vec = np.zeros(4 * VEC_LEN, dtype=REGION)
    native.protect(theirs.start, theirs.size)
    with pagescan.track(*arrays) as tracker:
        for written in (pages[:0], pages):

            def write(written: NDArray[np.uint32] = written) -> None:
                native.write(ours, written)
                native.write(theirs, written)

            write()
            assert tracker.take().page_count == len(written)
            pairs = interleave(
                timed(tracker.take), lambda: native.scan(theirs, vec, VEC_LEN, wp=True)[0], effort, prepare=write
            )
            state = f"{format_count(len(written), 'page')} written" if len(written) else "clean"
            what = f"take() of {format_count(count, 'array')} in {size_name(ours.size)}, {state}"
            report.add("many", what, "get + protect of one array in C", pairs)


def _slices(array: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    if count == 1:
        return [array]
    share = len(array) // count // PAGE * PAGE
    half = max(PAGE, share // 2 // PAGE * PAGE)
    return [array[i * share : i * share + half] for i in range(count)]


def _set_up(report: Report, effort: Effort) -> None:
    """track() and close() of many arrays, against one array over all of them."""
    memory = Memory(256 * MIB)
    one, many = [memory.array], _slices(memory.array, 10_000)
    few = Effort(effort.seconds, min(effort.least, 5), effort.most)
    pairs = interleave(timed(lambda: pagescan.track(*many).close()), timed(lambda: pagescan.track(*one).close()), few)
    report.add("many", f"track() and close() of 10,000 arrays in {size_name(memory.size)}", "one array", pairs)
    with pagescan.track(*many) as tracker:
        many[77][0] += 1
        answer = tracker.take()
        pairs = interleave(
            timed(lambda: [answer.slices(array) for array in many]),
            timed(lambda: [array.ctypes.data for array in many]),
            few,
        )
    report.add("many", "written.slices(array) of 10,000 arrays", "array.ctypes.data of each", pairs)


def _trackers(report: Report, effort: Effort) -> None:
    """Trackers of one array each: what one costs, among many and among few."""
    costs: dict[int, NDArray[np.float64]] = {}
    rounds = max(3, effort.least // 3)
    for count in (10, 1000):
        arrays = [pagescan.zeros(4 * PAGE, np.uint8) for _ in range(count)]
        taken = []
        for _ in range(rounds):
            began = time.perf_counter_ns()
            with contextlib.ExitStack() as stack:
                trackers = [stack.enter_context(pagescan.track(array)) for array in arrays]
                for tracker in trackers:
                    tracker.take()
            taken.append((time.perf_counter_ns() - began) / count)
        costs[count] = np.array(taken)
    report.add("many", "track, take and close: each of 1,000 trackers", "each of 10", Pairs(costs[1000], costs[10]))


def _unfilled(size: int) -> Memory:
    """Memory of which nothing is populated. Raises KernelCannot where so much cannot be mapped."""
    free = os.sysconf("SC_AVPHYS_PAGES") * PAGE
    if free < 1024 * MIB:
        raise pagescan.KernelCannot(f"{size_name(size)} need some page tables, and only {size_name(free)} are free")
    memory = Memory.__new__(Memory)
    memory.size, memory.pages = size, size // PAGE
    noreserve = 0x4000
    memory.map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | noreserve)
    with contextlib.suppress(OSError):
        memory.map.madvise(mmap.MADV_NOHUGEPAGE)
    memory.array = np.frombuffer(memory.map, dtype=np.uint8)
    memory.start = memory.array.ctypes.data
    memory.end = memory.start + size
    return memory
