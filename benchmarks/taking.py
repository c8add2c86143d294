"""``tracker.take()`` against get + protect in C, and against the other ways to find what was written."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import pagescan
from harness import Effort, Goal, Report, Row, interleave, size_name, timed
from native import CHECK_WPASYNC, PAGE, PAGEMAP_SCAN, WP_MATCHING, WRITTEN, Memory, Native, regions
from workload import SHARES, page_indexes, percent, random_pages, require_same

MIB = 1 << 20
#: Regions a call, on the C side: the room that pagescan's trackers give the kernel.
VEC_LEN = 1 << 14
PROCMAP_QUERY = 0xC0686611  # where requests are encoded as on x86 and arm


def take(report: Report, native: Native, effort: Effort) -> None:
    """256 MiB, several shares of dirty pages. Both sides work on the same tracked memory, in turn."""
    memory = Memory(256 * MIB)
    vec = regions(4 * VEC_LEN)
    with pagescan.track(memory.array) as tracker:
        for share in SHARES:
            pages = random_pages(memory.pages, share)
            native.write(memory, pages)
            require_same(page_indexes(tracker.take().to_records(), memory.start), pages, "take()")
            native.write(memory, pages)
            count = native.scan(memory, vec, VEC_LEN, wp=True)[1]
            require_same(page_indexes(vec[:count], memory.start), pages, "the C loop")
            assert len(tracker.take()) == 0
            pairs = interleave(
                timed(tracker.take),
                lambda: native.scan(memory, vec, VEC_LEN, wp=True)[0],
                effort,
                prepare=lambda pages=pages: native.write(memory, pages),  # type: ignore[misc]
            )
            what = f"take() {size_name(memory.size)}, {percent(share)} written"
            report.add("take", what, "get + protect in C", pairs, Goal(times=1.10, more=15_000))
            _calls_alone(report, native, effort, memory, vec, share)
            _right_after(report, native, effort, memory, vec, share)


def _calls_alone(
    report: Report, native: Native, effort: Effort, memory: Memory, vec: NDArray[np.void], share: float
) -> None:
    """The system calls of a take by fcntl, with everything made ready: what no Python does without. (The other tells
    whether the memory is still mapped, which the C side does not ask.)"""
    scan = bytearray(struct.pack("=12Q", 96, WP_MATCHING | CHECK_WPASYNC, memory.start, memory.end, 0,
                                 vec.ctypes.data, VEC_LEN, 0, 0, WRITTEN, 0, WRITTEN))  # fmt: skip
    query = bytearray(struct.pack("=13Q", 104, 0, memory.start, *10 * [0]))
    pages, ioctl = random_pages(memory.pages, share), fcntl.ioctl
    with open("/proc/self/maps", "rb") as maps:
        descriptor = maps.fileno()
        try:
            ioctl(descriptor, PROCMAP_QUERY, query)
        except OSError:
            return  # before Linux 6.11

        def both() -> None:
            ioctl(native.pagemap, PAGEMAP_SCAN, scan)
            ioctl(descriptor, PROCMAP_QUERY, query)

        pairs = interleave(
            timed(both),
            lambda: native.scan(memory, vec, VEC_LEN, wp=True)[0],
            effort,
            prepare=lambda: native.write(memory, pages),
        )
    what = f"its system calls alone by fcntl, {percent(share)} written"
    report.add("take", what, "get + protect in C", pairs, note="(what Python itself adds)")


def _right_after(
    report: Report, native: Native, effort: Effort, memory: Memory, vec: NDArray[np.void], share: float
) -> None:
    """What Python costs at that moment, whatever it does: take() of one clean page, right after C has looked at the
    large memory, and once more. By then the processor has cached other things than the interpreter."""
    page, pages = pagescan.zeros(PAGE, np.uint8), random_pages(memory.pages, share)
    with pagescan.track(page) as tracker:
        once = timed(tracker.take)

        def first() -> int:
            native.write(memory, pages)
            native.scan(memory, vec, VEC_LEN, wp=True)
            return once()

        pairs = interleave(first, once, effort)
    what = f"take() of one clean page, right after C's at {percent(share)} written"
    report.add("take", what, "the same once more", pairs, note="(what Python costs then)")


# The other ways -----------------------------------------------------------------------------------------------------


class PagemapFile:
    """Bit 57 of /proc/self/pagemap with numpy, and UFFDIO_WRITEPROTECT: what one did before PAGEMAP_SCAN."""

    def __init__(self, native: Native, memory: Memory):
        self._native, self._memory = native, memory
        self._entries = np.zeros(memory.pages, dtype=np.uint64)
        self._file = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def find(self) -> NDArray[np.int64]:
        """The written pages; protected again, not atomically."""
        os.preadv(self._file, [self._entries.data], self._memory.start // PAGE * 8)
        found = np.flatnonzero((self._entries & np.uint64(1 << 57)) == 0)
        if len(found) > 2000:  # from there on one call over everything is cheaper than one for each run
            self._native.protect(self._memory.start, self._memory.size)
        else:
            for page in found.tolist():
                self._native.protect(self._memory.start + page * PAGE, PAGE)
        return found


class Shadow:
    """A second copy of everything, compared with numpy chunk by chunk (chunks stay in the cache)."""

    CHUNK = MIB

    def __init__(self, memory: Memory):
        self._now = memory.array.view(np.uint64).reshape(-1, self.CHUNK // 8)
        self._before = self._now.copy()
        self._differs = np.zeros(self.CHUNK // 8, dtype=bool)
        self._pages = np.zeros((len(self._now), self.CHUNK // PAGE), dtype=bool)

    def find(self) -> NDArray[np.int64]:
        """The pages that differ from the copy."""
        by_page = self._differs.reshape(-1, PAGE // 8)
        for now, before, pages in zip(self._now, self._before, self._pages, strict=True):
            np.not_equal(now, before, out=self._differs)
            by_page.any(axis=1, out=pages)
        return np.flatnonzero(self._pages)

    def renew(self, pages: NDArray[np.uint32]) -> None:
        """Copy these pages over."""
        self._before.reshape(-1, PAGE // 8)[pages] = self._now.reshape(-1, PAGE // 8)[pages]


class BlockHashes:
    """xxh3 of every 64 KiB, compared with the last ones."""

    BLOCK = 64 << 10

    def __init__(self, memory: Memory, digest: Callable[[memoryview], int]):
        self._view, self._digest = memory.array.data, digest
        self._before = self._hash()

    def _hash(self) -> NDArray[np.uint64]:
        view, digest, block = self._view, self._digest, self.BLOCK
        return np.array([digest(view[at : at + block]) for at in range(0, len(view), block)], dtype=np.uint64)

    def find(self) -> NDArray[np.int64]:
        """The blocks that changed."""
        now = self._hash()
        changed = np.flatnonzero(now != self._before)
        self._before = now
        return changed


def rivals(report: Report, native: Native, effort: Effort) -> None:
    """1 GiB of which 1 % of the pages, at random, were written: take() against four ways to do without."""
    memory = Memory(1024 * MIB)
    pages = random_pages(memory.pages, 0.01)
    with pagescan.track(memory.array) as tracker:
        write = lambda: native.write(memory, pages)  # noqa: E731
        write()
        require_same(page_indexes(tracker.take().to_records(), memory.start), pages, "take()")
        _floor(report, native, effort, tracker, memory, pages)
        _pagemap_file(report, native, effort, tracker, write)
        _hashes(report, effort, tracker, memory, pages, write)
        _compare(report, effort, tracker, memory, pages, write)
        _joblib(report, effort, tracker, memory, write)


def _what() -> str:
    return "take() 1 GiB, 1 % written"


def _floor(
    report: Report,
    native: Native,
    effort: Effort,
    tracker: pagescan.Tracker,
    memory: Memory,
    pages: NDArray[np.uint32],
) -> None:
    """What is left to gain: C over the same memory. No factor below can be larger than with this in place of take()."""
    vec = regions(4 * VEC_LEN)
    pairs = interleave(
        timed(tracker.take),
        lambda: native.scan(memory, vec, VEC_LEN, wp=True)[0],
        effort,
        prepare=lambda: native.write(memory, pages),
    )
    report.add("rivals", _what(), "get + protect in C", pairs)


def _pagemap_file(
    report: Report, native: Native, effort: Effort, tracker: pagescan.Tracker, write_tracked: Callable[[], int]
) -> None:
    """On memory of its own: the tracked memory has a userfaultfd already, and the kernel allows one."""
    memory = Memory(1024 * MIB)
    native.register(memory)
    native.protect(memory.start, memory.size)
    pages = random_pages(memory.pages, 0.01)
    other = PagemapFile(native, memory)
    native.write(memory, pages)
    require_same(other.find(), pages, "the pagemap file")

    def write() -> None:
        native.write(memory, pages)
        write_tracked()

    report.add(
        "rivals", _what(), "pagemap file + numpy + protect",
        interleave(timed(tracker.take), timed(other.find), effort, prepare=write), Goal(faster=10),
    )  # fmt: skip


def _hashes(
    report: Report,
    effort: Effort,
    tracker: pagescan.Tracker,
    memory: Memory,
    pages: NDArray[np.uint32],
    write: Callable[[], int],
) -> None:
    against, goal = "xxh3 of each 64 KiB", Goal(faster=150)
    try:
        from xxhash import xxh3_64_intdigest
    except ImportError:
        report.rows.append(Row("rivals", _what(), against, str(goal), skipped="the package xxhash is not installed"))
        return
    other = BlockHashes(memory, xxh3_64_intdigest)
    write()
    require_same(other.find(), np.unique(pages // np.uint32(other.BLOCK // PAGE)), "xxh3")
    report.add(
        "rivals", _what(), against, interleave(timed(tracker.take), timed(other.find), effort, prepare=write), goal
    )


def _compare(
    report: Report,
    effort: Effort,
    tracker: pagescan.Tracker,
    memory: Memory,
    pages: NDArray[np.uint32],
    write: Callable[[], int],
) -> None:
    other = Shadow(memory)
    write()
    require_same(other.find(), pages, "the comparison")

    def prepare() -> None:
        other.renew(pages)
        write()

    pairs = interleave(timed(tracker.take), timed(other.find), effort, prepare=prepare)
    report.add("rivals", _what(), "numpy compare with a copy", pairs, Goal(faster=300))


def _joblib(
    report: Report, effort: Effort, tracker: pagescan.Tracker, memory: Memory, write: Callable[[], int]
) -> None:
    against, goal = "joblib.hash (changed at all?)", Goal(faster=3000)
    try:
        import joblib
    except ImportError:
        report.rows.append(Row("rivals", _what(), against, str(goal), skipped="the package joblib is not installed"))
        return
    before = joblib.hash(memory.array)
    write()
    assert joblib.hash(memory.array) != before
    few = Effort(effort.seconds, min(effort.least, 5), effort.most)
    pairs = interleave(timed(tracker.take), timed(lambda: joblib.hash(memory.array)), few, prepare=write)
    report.add("rivals", _what(), against, pairs, goal)
