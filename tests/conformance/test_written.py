"""The same cases on every kind of memory: after a write exactly its page is written, once; nothing else ever is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import pagescan
from pagescan import Category, Quality
from pagescan.query import ALL_CATEGORIES

from .kinds import KIND_NAMES, PAGE, Memory, libc, memory_of

MADV_DONTNEED = 4


@pytest.fixture(params=KIND_NAMES)
def memory(request: pytest.FixtureRequest, tracking: None) -> Iterator[Memory]:
    with memory_of(request.param) as made:
        yield made


def units(written: pagescan.Written, memory: Memory) -> list[int]:
    """The numbers of the written units (pages, or huge pages) in the memory."""
    assert not written.byte_count % memory.unit
    starts = np.arange(memory.units, dtype=np.uint64) * np.uint64(memory.unit) + np.uint64(memory.address)
    return [number for number, start in enumerate(starts.tolist()) if start in written]


def quality_of(memory: Memory) -> Quality:
    return Quality.SUPERSET if memory.unit > PAGE else Quality.EXACT


@pytest.mark.parametrize("arm", ["scan", "ioctl"])
class TestPopulated:
    """Every page was written to before tracking began."""

    def test_nothing_is_written_at_first(self, memory, arm):
        memory.buffer[:] = 1
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            assert not tracker.changed()
            assert len(tracker.take()) == 0

    def test_one_byte_is_one_page_once(self, memory, arm):
        memory.buffer[:] = 1
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            memory.buffer[memory.unit + 7] = 2
            assert tracker.changed()
            written = tracker.take()
            assert units(written, memory) == [1]
            assert written.quality is quality_of(memory)
            assert not tracker.changed()
            assert len(tracker.take()) == 0

    def test_reading_is_not_writing(self, memory, arm):
        memory.buffer[:] = 1
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            assert int(memory.buffer.sum(dtype=np.int64)) == memory.buffer.nbytes
            assert len(tracker.take()) == 0

    def test_the_same_value_written_again_is_written(self, memory, arm):
        memory.buffer[:] = 1
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            memory.buffer[0] = 1
            assert units(tracker.take(), memory) == [0]

    def test_every_page_every_time(self, memory, arm):
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            for value in range(3):
                memory.buffer[:: memory.unit] = value
                assert units(tracker.take(), memory) == list(range(memory.units))

    def test_peek_changes_nothing(self, memory, arm):
        memory.buffer[:] = 1
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            memory.buffer[-1] = 2
            assert tracker.peek() == tracker.peek() == tracker.take()
            assert len(tracker.peek()) == 0


@pytest.mark.parametrize("arm", ["scan", "ioctl"])
class TestNeverTouched:
    """No page was touched before tracking began (but the first of a transparent huge page)."""

    def test_nothing_is_written_at_first(self, memory, arm):
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            assert len(tracker.take()) == 0

    def test_first_touch_is_written(self, memory, arm):
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            memory.buffer[2 * memory.unit] = 1
            assert units(tracker.take(), memory) == [2]

    def test_first_read_is_not(self, memory, arm):
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            assert not int(memory.buffer[2 * memory.unit]) or memory.kind == "heap"
            assert len(tracker.take()) == 0
            memory.buffer[2 * memory.unit] = 1
            assert units(tracker.take(), memory) == [2]


def drop(memory: Memory, unit: int) -> None:
    """Give one unit back to the system."""
    assert libc.madvise(memory.address + unit * memory.unit, memory.unit, MADV_DONTNEED) == 0


# A page of a privately mapped file is left out: the kernel keeps its marker, so the change cannot be seen (caveats).
@pytest.mark.parametrize("memory", ["anonymous-private", "heap", "thp", "hugetlb-private"], indirect=True)
def test_private_memory_given_back_is_written(memory):
    memory.buffer[:] = 1
    with pagescan.track(memory.buffer) as tracker:
        drop(memory, 1)
        assert units(tracker.peek(), memory) == [1]
        assert tracker.changed()
        assert units(tracker.take(), memory) == [1]
        assert len(tracker.take()) == 0
        assert not memory.buffer[memory.unit : 2 * memory.unit].any()
        assert len(tracker.take()) == 0
        memory.buffer[memory.unit] = 1
        assert units(tracker.take(), memory) == [1]


@pytest.mark.parametrize("memory", ["thp"], indirect=True)
def test_a_whole_huge_page_given_back_is_written(memory):
    memory.buffer[:] = 1
    with pagescan.track(memory.buffer) as tracker:
        assert libc.madvise(memory.address, memory.buffer.nbytes, MADV_DONTNEED) == 0
        assert units(tracker.take(), memory) == list(range(memory.units))
        assert len(tracker.take()) == 0


@pytest.mark.parametrize("memory", ["anonymous-shared", "memfd-shared", "file-shared", "sysv"], indirect=True)
def test_shared_memory_unmapped_from_the_tables_is_unchanged_and_not_written(memory):
    memory.buffer[:] = 1
    with pagescan.track(memory.buffer) as tracker:
        drop(memory, 1)
        assert len(tracker.take()) == 0
        assert memory.buffer[memory.unit] == 1
        assert len(tracker.take()) == 0


def test_scan_tells_the_categories(memory):
    memory.buffer[: memory.unit] = 1
    with pagescan.track(memory.buffer) as tracker:
        memory.buffer[0] = 2
        found = pagescan.scan(memory.buffer, required_mask=Category.WRITTEN, return_mask=ALL_CATEGORIES)
        assert units(pagescan.Written.of(found, tracker.pages), memory) == [0]
        shared = memory.kind.endswith("shared") or memory.kind == "sysv"
        for region in found:
            assert Category.WPALLOWED | Category.WRITTEN | Category.PRESENT in region.categories
            assert bool(region.categories & Category.FILE) == shared
            assert bool(region.categories & Category.HUGE) == memory.kind.startswith("hugetlb")
