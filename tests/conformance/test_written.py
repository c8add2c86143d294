"""The same cases on every kind of memory and every machine: after a write exactly its page is written, once.

The machines are this kernel, and the model with the behaviour and the bugs of several releases.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pagescan
from pagescan import Category, Quality
from pagescan.query import ALL_CATEGORIES

from . import model_memory

if sys.platform == "linux":
    from . import kernel_memory

    KERNEL_KINDS: tuple[str, ...] = kernel_memory.KIND_NAMES
else:  # kernel_memory calls the C library
    KERNEL_KINDS = ()

PAGE = mmap.PAGESIZE
MACHINES = ("kernel", *(f"model-{behaviour}" for behaviour in model_memory.BEHAVIOURS))
EVERYWHERE = [
    (machine, kind)
    for machine in MACHINES
    for kind in (KERNEL_KINDS if machine == "kernel" else model_memory.KIND_NAMES)
]


def on(*kinds: str) -> pytest.MarkDecorator:
    """These kinds only, on every machine that has them."""
    chosen = [(machine, kind) for machine, kind in EVERYWHERE if kind in kinds]
    return pytest.mark.parametrize("memory", chosen, indirect=True, ids="-".join)


@pytest.fixture(params=EVERYWHERE, ids="-".join)
def memory(request: pytest.FixtureRequest) -> Iterator[Any]:
    machine, kind = request.param
    if machine == "kernel":
        request.getfixturevalue("tracking")
        with kernel_memory.memory_of(kind) as made:
            yield made
    else:
        with model_memory.memory_of(kind, machine.removeprefix("model-")) as modelled:
            yield modelled


def units(written: pagescan.Regions, memory: Any) -> list[int]:
    """The numbers of the written units (pages, or huge pages) in the memory."""
    assert not written.byte_count % memory.unit
    starts = np.arange(memory.units, dtype=np.uint64) * np.uint64(memory.unit) + np.uint64(memory.address)
    return [number for number, start in enumerate(starts.tolist()) if start in written]


def quality_of(memory: Any) -> Quality:
    return Quality.SUPERSET if memory.unit > PAGE else Quality.EXACT


@pytest.mark.parametrize("arm", ["scan", "ioctl"])
class TestPopulated:
    """Every page was written to before tracking began."""

    def test_nothing_is_written_at_first(self, memory, arm):
        memory.fill(1)
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            assert not tracker.changed()
            assert len(tracker.take()) == 0

    def test_one_byte_is_one_page_once(self, memory, arm):
        memory.fill(1)
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            memory.poke(memory.unit + 7, 2)
            assert tracker.changed()
            written = tracker.take()
            assert units(written, memory) == [1]
            assert written.quality is quality_of(memory)
            assert not tracker.changed()
            assert len(tracker.take()) == 0

    def test_reading_is_not_writing(self, memory, arm):
        memory.fill(1)
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            assert memory.read_all() == memory.buffer.nbytes
            assert len(tracker.take()) == 0

    def test_the_same_value_written_again_is_written(self, memory, arm):
        memory.fill(1)
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            memory.poke(0, 1)
            assert units(tracker.take(), memory) == [0]

    def test_every_page_every_time(self, memory, arm):
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            for value in range(3):
                for unit in range(memory.units):
                    memory.poke(unit * memory.unit, value)
                assert units(tracker.take(), memory) == list(range(memory.units))

    def test_peek_changes_nothing(self, memory, arm):
        memory.fill(1)
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            memory.poke(memory.buffer.nbytes - 1, 2)
            assert tracker.peek() == tracker.peek() == tracker.take()
            assert len(tracker.peek()) == 0

    def test_every_reader_hears_of_it(self, memory, arm):
        memory.fill(1)
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            cursor = tracker.cursor()
            memory.poke(0, 2)
            assert units(tracker.take(), memory) == [0]
            memory.poke(memory.unit, 2)
            assert units(cursor.take(), memory) == [0, 1]
            assert units(tracker.take(), memory) == [1]


@pytest.mark.parametrize("arm", ["scan", "ioctl"])
class TestNeverTouched:
    """No page was touched before tracking began (but the first of a transparent huge page)."""

    def test_nothing_is_written_at_first(self, memory, arm):
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            assert len(tracker.take()) == 0

    def test_first_touch_is_written(self, memory, arm):
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            memory.poke(2 * memory.unit, 1)
            assert units(tracker.take(), memory) == [2]

    def test_first_read_is_not(self, memory, arm):
        with pagescan.track(memory.buffer, arm=arm) as tracker:
            assert not memory.look(2 * memory.unit) or memory.kind == "heap"
            assert len(tracker.take()) == 0
            memory.poke(2 * memory.unit, 1)
            assert units(tracker.take(), memory) == [2]


class TestGivenBack:
    """Memory given back with MADV_DONTNEED."""

    # A page of a privately mapped file is left out: the kernel keeps its marker, so this cannot be seen (caveats).
    @on("anonymous-private", "heap", "thp", "hugetlb-private")
    def test_private_memory_is_written(self, memory):
        memory.fill(1)
        with pagescan.track(memory.buffer) as tracker:
            memory.drop(memory.unit, memory.unit)
            assert units(tracker.peek(), memory) == [1]
            assert tracker.changed()
            assert units(tracker.take(), memory) == [1]
            assert len(tracker.take()) == 0
            assert memory.look(memory.unit) == memory.look(2 * memory.unit - 1) == 0
            assert len(tracker.take()) == 0
            memory.poke(memory.unit, 1)
            assert units(tracker.take(), memory) == [1]

    @on("thp", "anonymous-private")
    def test_down_to_the_page_table_it_is_written(self, memory):
        memory.fill(1)
        with pagescan.track(memory.buffer) as tracker:
            memory.drop(0, memory.buffer.nbytes)
            assert units(tracker.take(), memory) == list(range(memory.units))
            assert len(tracker.take()) == 0
            assert memory.look(0) == 0
            assert len(tracker.take()) == 0

    @on("anonymous-shared", "memfd-shared", "file-shared", "sysv")
    def test_shared_memory_is_unchanged_and_not_written(self, memory):
        memory.fill(1)
        with pagescan.track(memory.buffer) as tracker:
            memory.drop(memory.unit, memory.unit)
            assert len(tracker.take()) == 0
            assert memory.look(memory.unit) == 1
            assert len(tracker.take()) == 0


def test_partly_touched_memory(memory):
    """Untouched pages beside a touched one share its page table."""
    memory.poke(0, 1)
    with pagescan.track(memory.buffer) as tracker:
        assert len(tracker.take()) == 0
        memory.look(2 * memory.unit)
        memory.poke(3 * memory.unit, 1)
        assert units(tracker.take(), memory) == [3]


def test_scan_tells_the_categories(memory):
    memory.poke(0, 1)
    with pagescan.track(memory.buffer) as tracker:
        memory.poke(0, 2)
        found = pagescan.scan(memory.buffer, required_mask=Category.WRITTEN, return_mask=ALL_CATEGORIES)
        assert units(found, memory) == [0]
        assert tracker.take().page_count == found.page_count
        shared = memory.kind.endswith("shared") or memory.kind == "sysv"
        for region in found:
            assert Category.WPALLOWED | Category.WRITTEN | Category.PRESENT in region.categories
            assert bool(region.categories & Category.FILE) == shared
            assert bool(region.categories & Category.HUGE) == memory.kind.startswith("hugetlb")
