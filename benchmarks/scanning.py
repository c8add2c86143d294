"""``pagemap_scan`` against the same ioctl from C: whole ranges, and one page on a prepared scan."""

from __future__ import annotations

import fcntl
import struct
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

import pagescan
from harness import Effort, Goal, Report, interleave, size_name, timed
from native import CHECK_WPASYNC, PAGE, PAGEMAP_SCAN, WRITTEN, Memory, Native, regions
from pagescan import Category
from workload import SHARES, page_indexes, percent, random_pages, require_same

MIB = 1 << 20
#: Room for regions in one call, on both sides: whatever the range holds is one answer (1 GiB at 10 %: 23,600 regions).
VEC_LEN = 1 << 15
#: Goals by size in bytes. Below 16 MiB the interpreter's own microsecond decides, and no goal is set.
GOALS = {PAGE: None, MIB: None, 16 * MIB: 1.2, 64 * MIB: 1.05, 256 * MIB: 1.05, 1024 * MIB: 1.05}


def scan_ranges(report: Report, native: Native, effort: Effort) -> None:
    """GET of the written pages over several sizes and shares of dirty pages. Both sides look at the same memory."""
    for size, goal in GOALS.items():
        memory = Memory(size)
        native.register(memory)
        with pagescan.Pagemap.open("self") as pagemap:
            for share in SHARES if size >= MIB else (0.0, 1.0):
                _scan_range(report, native, effort, pagemap, memory, share, goal)


def _scan_range(
    report: Report,
    native: Native,
    effort: Effort,
    pagemap: pagescan.Pagemap,
    memory: Memory,
    share: float,
    goal: float | None,
) -> None:
    native.protect(memory.start, memory.size)
    pages = random_pages(memory.pages, share)
    native.write(memory, pages)
    vec_len = min(VEC_LEN, max(512, memory.pages))
    vec = regions(vec_len)
    scan, start, size, written = pagescan.pagemap_scan, memory.start, memory.size, Category.WRITTEN

    answer = scan(pagemap, start, size, required_mask=written, return_mask=written, vec_len=vec_len)
    count = native.scan(memory, vec, vec_len)[1]
    assert answer.complete
    assert len(answer.regions) == count < vec_len
    require_same(page_indexes(answer.regions, memory.start), pages, "pagemap_scan")
    require_same(page_indexes(vec[:count], memory.start), pages, "the C loop")
    # Nothing changes by looking: several looks in one sample drown the clock's own cost.
    repeats = min(256, max(4, 512 * MIB // memory.size))
    theirs = lambda: native.scan(memory, vec, vec_len, repeats=repeats)[0]  # noqa: E731

    def ours() -> int:
        began = time.perf_counter_ns()
        for _ in range(repeats):
            scan(pagemap, start, size, required_mask=written, return_mask=written, vec_len=vec_len)
        return time.perf_counter_ns() - began

    def kept() -> int:
        began = time.perf_counter_ns()
        for _ in range(repeats):
            found = scan(pagemap, start, size, required_mask=written, return_mask=written, vec_len=vec_len)
            len(found.regions)
        return time.perf_counter_ns() - began

    def compare(ours: Callable[[], int], what: str, goal: Goal | None = None, note: str = "") -> None:
        pairs = interleave(ours, theirs, effort, repeats=repeats)
        report.add("scan", f"{what} {size_name(size)}, {percent(share)} written", "ioctl in C", pairs, goal, note)

    compare(ours, "pagemap_scan", Goal(times=goal))
    if size != 64 * MIB:
        return
    compare(kept, "the same, looked at, kept until the next,")
    prepared = pagescan.prepare_scan(pagemap, start, size, required_mask=written, return_mask=written, vec_len=vec_len)
    compare(timed(prepared.scan, repeats), "prepared scan of")
    compare(timed(_bare(native, start, start + size, vec), repeats), "bare fcntl.ioctl of", note=_PYTHON)


_PYTHON = "(what Python itself adds)"


def _bare(native: Native, start: int, end: int, vec: NDArray[np.void]) -> Callable[[], object]:
    """The ioctl by fcntl with everything made ready."""
    argument = bytearray(struct.pack("=12Q", 96, CHECK_WPASYNC, start, end, 0, vec.ctypes.data, len(vec),
                                     0, 0, WRITTEN, 0, WRITTEN))  # fmt: skip
    return partial(fcntl.ioctl, native.pagemap, PAGEMAP_SCAN, argument)


def one_page(report: Report, native: Native, effort: Effort) -> None:
    """A prepared scan of one page, run again and again, against nothing but the ioctl in a C loop."""
    memory = Memory(PAGE)
    native.register(memory)
    with pagescan.Pagemap.open("self") as pagemap:
        for share in (0.0, 1.0):
            native.protect(memory.start, memory.size)
            pages = random_pages(1, share)
            native.write(memory, pages)
            _one_page(report, native, effort, pagemap, memory, pages)


def _one_page(
    report: Report,
    native: Native,
    effort: Effort,
    pagemap: pagescan.Pagemap,
    memory: Memory,
    pages: NDArray[np.uint32],
) -> None:
    prepared = pagescan.prepare_scan(
        pagemap, memory.start, memory.size, required_mask=Category.WRITTEN, return_mask=Category.WRITTEN, vec_len=1
    )
    vec = regions(1)
    assert prepared.run() == native.call(memory.start, memory.end, vec, 1)[1] == len(pages)
    require_same(page_indexes(prepared.regions, memory.start), pages, "the prepared scan")
    repeats = 2000
    pairs = interleave(
        timed(prepared.run, repeats),
        lambda: native.call(memory.start, memory.end, vec, repeats)[0],
        effort,
        repeats=repeats,
    )
    state = "written" if len(pages) else "clean"
    report.add("call", f"prepared scan of one page, {state}", "ioctl in C", pairs, Goal(more=300))
    pairs = interleave(
        timed(_bare(native, memory.start, memory.end, vec), repeats),
        lambda: native.call(memory.start, memory.end, vec, repeats)[0],
        effort,
        repeats=repeats,
    )
    report.add("call", f"bare fcntl.ioctl of one page, {state}", "ioctl in C", pairs, note=_PYTHON)
