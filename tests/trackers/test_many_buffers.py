"""Many buffers in one tracker: looked at together, registered together, and answered for one by one."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pagescan
from pagescan import CoverageLost, Quality, Regions
from pagescan.kernel.userfaultfd import open_userfaultfd
from pagescan.trackers.base import Extent
from pagescan.trackers.extents import BRIDGED_PAGES, TOGETHER, Extents, Group
from tests.conformance.kernel_memory import array_at, libc, raw_mmap

PAGE = mmap.PAGESIZE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_FIXED = 0x10
MADV_DONTNEED = 4
COUNT = 60


def every_third(count: int = COUNT) -> tuple[np.ndarray, list[np.ndarray]]:
    """Memory of its own mapping, and one page of every three as arrays."""
    base = array_at(raw_mmap(3 * count * PAGE, PRIVATE), 3 * count * PAGE)
    base[:] = 1
    return base, [base[3 * i * PAGE : (3 * i + 1) * PAGE] for i in range(count)]


def mapping_count() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


class TestGaps:
    def test_only_what_is_tracked_is_named_and_all_of_it(self):
        base, arrays = every_third()
        random = np.random.default_rng(5)
        with pagescan.track(*arrays) as tracker:
            for count in (0, 1, 2, 20, 150, 0, 180):
                written = sorted(random.choice(3 * COUNT, count, replace=False).tolist())
                for page in written:
                    base[page * PAGE] += 1
                expected = [slice(page * PAGE, (page + 1) * PAGE) for page in written if page % 3 == 0]
                assert tracker.changed() == bool(expected)
                assert tracker.peek().slices(arrays[0]) == [part for part in expected if part.start == 0]
                answer = tracker.take()
                assert answer.within(base) == expected
                assert answer.quality is Quality.EXACT
                assert len(tracker.take()) == 0

    def test_the_mapping_is_not_split_for_each_buffer(self):
        _, arrays = every_third()
        before = mapping_count()
        tracker = pagescan.track(*arrays)
        assert mapping_count() <= before + 2
        tracker.close()
        assert mapping_count() <= before

    def test_a_gap_that_is_unmapped_takes_no_buffer_along(self):
        base, arrays = every_third()
        with pagescan.track(*arrays) as tracker:
            libc.munmap(base.ctypes.data + PAGE, 2 * PAGE)
            arrays[0][0] = arrays[7][5] = 9
            assert [len(tracker.peek().slices(arrays[i])) for i in (0, 1, 7)] == [1, 0, 1]
            assert tracker.take().page_count == 2
            assert len(tracker.take()) == 0

    def test_memory_given_back_in_a_buffer_is_found(self):
        _, arrays = every_third()
        with pagescan.track(*arrays) as tracker:
            assert libc.madvise(arrays[9].ctypes.data, PAGE, MADV_DONTNEED) == 0
            assert tracker.take().slices(arrays[9]) == [slice(0, PAGE)]
            assert len(tracker.take()) == 0

    def test_another_tracker_of_the_gaps_is_not_disturbed(self):
        base, arrays = every_third()
        between = [base[(3 * i + 1) * PAGE : (3 * i + 2) * PAGE] for i in range(COUNT)]
        tracker, other = pagescan.track(*arrays), pagescan.track(*between)
        base[:] = 2
        assert other.take().page_count == tracker.take().page_count == COUNT
        tracker.close()
        between[3][0] = 1
        assert other.take().slices(between[3]) == [slice(0, PAGE)]
        other.close()

    def test_a_gap_that_belongs_to_somebody_else_is_left_alone(self):
        base, arrays = every_third()
        with open_userfaultfd() as foreign:
            foreign.register(base.ctypes.data + PAGE, PAGE)
            with pagescan.track(*arrays) as tracker:
                arrays[5][0] = 2
                assert tracker.take().slices(arrays[5]) == [slice(0, PAGE)]


class TestLoss:
    def test_one_of_many_that_was_mapped_anew_is_named_alone(self):
        _, arrays = every_third()
        at = arrays[8].ctypes.data
        with pagescan.track(*arrays) as tracker:
            arrays[3][0] = 2
            raw_mmap(PAGE, PRIVATE | MAP_FIXED, address=at)
            with pytest.raises(CoverageLost) as caught:
                tracker.take()
            assert (caught.value.start, caught.value.end) == (at, at + PAGE)

    def test_one_of_many_that_was_unmapped_is_reported_with_what_was_found_elsewhere(self):
        _, arrays = every_third()
        at = arrays[8].ctypes.data
        with pagescan.track(*arrays, on_lost="report") as tracker:
            arrays[3][0] = 2
            libc.munmap(at, PAGE)
            answer = tracker.take()
            assert answer.quality is Quality.LOST
            assert answer.slices(arrays[3]) == [slice(0, PAGE)]
            assert answer.page_count == 2
            assert at in answer
            arrays[4][0] = 2
            assert tracker.take().slices(arrays[4]) == [slice(0, PAGE)]


class TestMappingsSideBySide:
    def test_each_of_many_shared_mappings(self):
        maps = [mmap.mmap(-1, 2 * PAGE) for _ in range(40)]
        with pagescan.track(*maps) as tracker:
            for written in ([], [3], [0, 17, 39], list(range(40))):
                for i in written:
                    maps[i][PAGE] = 1
                answer = tracker.take()
                assert [i for i in range(40) if answer.slices(maps[i])] == written
                assert answer.page_count == len(written)


class TestGroups:
    """Pure: which extents are looked at together."""

    @staticmethod
    def extents(*starts: int, **fields: Any) -> Extents:
        values: dict[str, Any] = {"page_size": 4096, "private": True, **fields}
        return Extents(Extent(page * 4096, (page + 1) * 4096, **values) for page in starts)

    @staticmethod
    def registered(*pages: tuple[int, int]) -> Regions:
        return Regions.from_pairs((first * 4096, last * 4096) for first, last in pages)

    def test_neighbours_in_one_range(self):
        extents = self.extents(0, 2, 4, 6)
        assert extents.groups(self.registered((0, 7))) == [Group(0, 4, 0, 7 * 4096)]

    def test_too_few(self):
        assert self.extents(*range(0, 2 * TOGETHER - 2, 2)).groups(self.registered((0, 100))) == []

    def test_a_long_gap_parts_them(self):
        far = 7 + BRIDGED_PAGES
        extents = self.extents(0, 2, 4, 6, far + 1, far + 3, far + 5, far + 7)
        groups = extents.groups(self.registered((0, far + 8)))
        assert [(group.first, group.last) for group in groups] == [(0, 4), (4, 8)]
        near = self.extents(0, 2, 4, 6, far, far + 2, far + 4, far + 6)
        assert [(group.first, group.last) for group in near.groups(self.registered((0, far + 8)))] == [(0, 8)]

    def test_so_does_a_gap_that_is_not_registered(self):
        extents = self.extents(0, 2, 4, 6, 8, 10, 12, 14)
        groups = extents.groups(self.registered((0, 7), (8, 15)))
        assert [(group.first, group.last) for group in groups] == [(0, 4), (4, 8)]

    def test_sparse_and_huge_ones_are_asked_by_themselves(self):
        assert self.extents(0, 2, 4, 6, sparse=True).groups(self.registered((0, 7))) == []
        assert self.extents(0, 2, 4, 6, page_size=8192).groups(self.registered((0, 7))) == []

    def test_touched(self):
        extents = self.extents(0, 2, 4, 6, 8)
        found = Regions.from_pairs([(4096, 3 * 4096), (5 * 4096, 6 * 4096), (6 * 4096, 6 * 4096 + 1, 2)])
        assert extents.touched(found.to_records()) == [1, 3]
        assert extents.touched(Regions.span(0, 9 * 4096).to_records()) == [0, 1, 2, 3, 4]
        assert extents.touched(Regions.empty().to_records()) == []
