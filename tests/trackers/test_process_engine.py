"""Many mappings of another process, asked about in one call: what may be joined, what is lost, what was written to."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

import pagescan
from pagescan import Quality
from pagescan.abi import Mapping
from pagescan.ranges import REGION_DTYPE
from pagescan.trackers.process_engine import _lost, find_bridges, process_extent
from pagescan.trackers.registration import HOLES_LIMIT

from .target import PAGE
from .test_process_tracker import pages, target, tracked  # noqa: F401 - fixtures


def mapping(start: int, end: int, perms: str = "rw-p", inode: int = 0, page_size: int = 1) -> Mapping:
    return Mapping(start, end, perms, inode=inode, page_size=page_size)


def extents(*mappings: Mapping):
    return [process_extent(m, m.start, m.end, 1) for m in mappings]


class TestBridges:
    ONE, OTHER = mapping(10, 20), mapping(40, 50)

    @pytest.mark.parametrize(
        ("between", "harmless"),
        [
            ([], True),
            ([mapping(20, 40, "---p")], True),
            ([mapping(20, 30, "r-xp", inode=7), mapping(30, 40, "r--p", inode=7)], True),
            ([mapping(20, 30)], False),  # somebody else may have registered it
            ([mapping(20, 30, "r--p")], False),  # it may have been writable
            ([mapping(20, 30, "r-xp", inode=7), mapping(30, 40, "rw-s", inode=7)], False),
        ],
    )
    def test_what_may_lie_in_a_gap(self, between, harmless):
        found = find_bridges(extents(self.ONE, self.OTHER), [self.ONE, *between, self.OTHER])
        assert found == (frozenset({(20, 40)}) if harmless else frozenset())

    def test_droppable_memory_is_nobodys(self):
        between = mapping(20, 30)
        for droppable, found in (((between,), {(20, 40)}), ((mapping(20, 25),), set())):
            assert find_bridges(extents(self.ONE, self.OTHER), [self.ONE, between, self.OTHER], droppable) == found

    def test_each_gap_for_itself(self):
        third = mapping(60, 70)
        found = find_bridges(
            extents(self.ONE, self.OTHER, third),
            [self.ONE, mapping(25, 30), self.OTHER, mapping(50, 60, "---p"), third],
        )
        assert found == {(50, 60)}


class TestLost:
    @pytest.mark.parametrize(
        ("registered", "lost"),
        [
            ([(10, 20), (40, 50)], []),
            ([(5, 60)], []),
            ([(10, 15), (15, 20), (40, 50)], []),
            ([(10, 20)], [1]),
            ([(10, 19), (40, 50)], [0]),
            ([(10, 14), (15, 20), (41, 50)], [0, 1]),
            ([], [0, 1]),
        ],
    )
    def test_what_is_not_registered_in_full(self, registered, lost):
        run = extents(TestBridges.ONE, TestBridges.OTHER)
        records = np.array([(start, end, 0) for start, end in registered], REGION_DTYPE)
        assert [run.index(loss.extent) for loss in _lost(run, records)] == lost


def test_private_memory_is_sparse_and_huge_pages_are_whole():
    assert process_extent(mapping(0, 64), 8, 16, 1).sparse
    assert not process_extent(mapping(0, 64, "rw-s"), 8, 16, 1).sparse
    whole = process_extent(mapping(0, 64, page_size=32), 8, 40, 1)
    assert (whole.start, whole.end, whole.sparse) == (0, 64, False)


class TestFiles:
    """A private mapping of a file: reading it maps the file's pages, writing copies them."""

    @pytest.fixture
    def mapped(self, tracked, tmp_path):  # noqa: F811
        process, tracker, _ = tracked
        path = tmp_path / "file"
        path.write_bytes(bytes(range(16)) * (PAGE // 16) * 16)
        process.do(f"globals().update(fd=os.open({str(path)!r}, os.O_RDWR))")
        at = process.do(f"libc.mmap(None, {16 * PAGE}, 3, 2, fd, 0)")
        tracker.take()
        return process, tracker, at

    def test_reading_is_no_writing(self, mapped):
        process, tracker, at = mapped
        process.do(f"ctypes.c_char.from_address({at + 3 * PAGE}).value[0]")
        process.do(f"put({at}, 5)")
        assert pages(tracker.peek(), at) == [5]
        assert pages(tracker.take(), at) == [5]
        process.do(f"put({at}, 3)")  # the page that was read before
        assert pages(tracker.take(), at) == [3]

    def test_what_was_written_since_and_given_back_is_named(self, mapped):
        process, tracker, at = mapped
        process.do(f"put({at}, 5)")
        tracker.take()
        process.do(f"put({at}, 5) or libc.madvise({at + 5 * PAGE}, {PAGE}, 4)")
        process.do(f"ctypes.c_char.from_address({at + 5 * PAGE}).value[0]")
        assert pages(tracker.take(), at) == [5]


class TestHugePages:
    SIZE = 2 << 20

    @pytest.fixture
    def block(self, tracked):  # noqa: F811
        """A process, its tracker, and 2 MiB for a huge page in it that was never touched."""
        if PAGE != 4096:
            pytest.skip("the size of a huge page here is not 2 MiB")
        process, tracker, _ = tracked
        count = self.SIZE // PAGE
        whole = process.do(f"new({3 * count})")
        at = -(-whole // self.SIZE) * self.SIZE
        process.do(f"libc.madvise({at}, {self.SIZE}, 14)")  # MADV_HUGEPAGE
        tracker.take()
        process.do(f"put({at}, 9)")
        if (
            pagescan.scan(process.pid, start=at, end=at + self.SIZE, return_mask=pagescan.Category.HUGE).page_count
            < count
        ):
            pytest.skip("the kernel gave no huge page here")
        return process, tracker, at, count

    def test_a_first_write_names_all_of_it_and_says_so(self, block):
        process, tracker, at, count = block
        written = tracker.take()
        assert pages(written, at, count) == list(range(count))
        assert written.quality is Quality.SUPERSET
        assert "huge page" in written.reason
        assert set(written.categories.tolist()) == {int(pagescan.Category.WRITTEN)}
        process.do(f"put({at}, 11)")
        again = tracker.take()
        assert pages(again, at, count) == [11]
        assert again.quality is Quality.EXACT


def test_what_the_process_tracks_by_itself_is_left_alone(tracked):  # noqa: F811
    """Its own userfaultfd has the memory; we must not protect its pages, which would hide writes from it."""
    code = f"""
import os, sys, pagescan
arrays = [pagescan.zeros({8 * PAGE}, "u1") for _ in range(3)]
tracker = pagescan.track(arrays[1])
print(arrays[1].ctypes.data, flush=True)
for line in sys.stdin:
    if line == "write\\n":
        for array in arrays:
            array[{5 * PAGE}] = 1
        print("done", flush=True)
    else:
        print(tracker.take().page_count, flush=True)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=env
    ) as process:
        assert process.stdin
        assert process.stdout
        at = int(process.stdout.readline())
        with pagescan.attach(process.pid) as tracker:
            assert any(m.start <= at < m.end for m, _ in tracker.untracked)
            process.stdin.write("write\n")
            assert process.stdout.readline() == "done\n"
            assert not pages(tracker.take(), at, 8)
            process.stdin.write("take\n")
            assert process.stdout.readline() == "1\n"
        process.stdin.close()


def test_a_huge_page_filled_at_once_in_a_large_buffer_of_this_process():
    """Above the limit of holes that are protected, ``track`` covers sparsely as well."""
    if PAGE != 4096:
        pytest.skip("the size of a huge page here is not 2 MiB")
    size = 2 << 20
    memory = mmap.mmap(-1, HOLES_LIMIT + 2 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    block = -array.ctypes.data % size
    with pagescan.track(array) as tracker:
        array[block] = 1
        if pagescan.scan(array[block : block + size], return_mask=pagescan.Category.HUGE).categories[0] == 0:
            pytest.skip("the kernel gave no huge page here")
        written = tracker.take()
        assert (written.byte_count, written.quality) == (size, Quality.SUPERSET)
        assert "huge page" in written.reason
        array[block + PAGE] = 1
        assert (tracker.take().byte_count, tracker.peek().quality) == (PAGE, Quality.EXACT)
