"""Which pages were touched: on the model of Linux 7.3, and on a kernel that has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import pagescan
from pagescan import Category, CoverageLost, InvalidArgument, KernelCannot, RegisteredElsewhere
from pagescan.kernel.userfaultfd import supported_features
from tests.conformance import kernel_memory, model_memory

PAGE = 4096


@pytest.fixture(params=["kernel", "model"])
def memory(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "model":
        with model_memory.memory_of("anonymous-private", "7.3") as modelled:
            yield modelled
        return
    if not supported_features() >> 18 & 1:
        pytest.skip("this kernel has no RWP_ASYNC, which Linux 7.3 brought")
    with kernel_memory.memory_of("anonymous-private") as made:
        yield made


def pages(found: pagescan.Regions, memory: Any) -> list[int]:
    return [(int(page) - memory.address) // memory.unit for page in found.pages().tolist()]


def test_reads_and_writes_are_touches(memory):
    memory.fill(1)
    with pagescan.track(memory.buffer, what="accessed") as tracker:
        assert tracker.engine == "accessed"
        assert not tracker.changed()
        memory.look(5 * memory.unit)
        memory.poke(9 * memory.unit, 2)
        assert pages(tracker.peek(), memory) == [5, 9]
        assert pages(tracker.take(), memory) == [5, 9]
        assert pages(tracker.take(), memory) == []
        memory.look(5 * memory.unit)
        assert pages(tracker.take(), memory) == [5]


def test_memory_never_touched_is_accessed_when_it_is(memory):
    with pagescan.track(memory.buffer, what="accessed") as tracker:
        assert pages(tracker.take(), memory) == []
        memory.poke(3 * memory.unit, 1)
        memory.look(7 * memory.unit)
        assert pages(tracker.take(), memory) == [3, 7]
        assert pages(tracker.take(), memory) == []


def test_each_reader_has_its_own(memory):
    memory.fill(1)
    with pagescan.track(memory.buffer, what="accessed") as tracker:
        cursor = tracker.cursor()
        memory.look(0)
        assert pages(tracker.take(), memory) == [0]
        memory.look(memory.unit)
        assert pages(cursor.take(), memory) == [0, 1]


def test_written_and_accessed_do_not_go_together(memory):
    memory.fill(1)
    with pagescan.track(memory.buffer), pytest.raises(RegisteredElsewhere):
        pagescan.track(memory.buffer, what="accessed")
    with pagescan.track(memory.buffer, what="accessed") as tracker:
        memory.look(0)
        assert pages(tracker.take(), memory) == [0]


def test_lost_coverage_is_found():
    with model_memory.memory_of("anonymous-private", "7.3") as memory:
        memory.fill(1)
        process = memory.process
        with pagescan.track(memory.buffer, what="accessed") as tracker:
            process.mmap(PAGE, fixed=memory.address + PAGE)
            with pytest.raises(CoverageLost, match="mapped anew"):
                tracker.take()
        with pagescan.track(memory.buffer, what="accessed") as tracker:
            process.munmap(memory.address, PAGE)
            with pytest.raises(CoverageLost, match="no longer mapped"):
                tracker.take()


def test_the_category_can_be_scanned_for():
    with model_memory.memory_of("anonymous-private", "7.3") as memory:
        memory.fill(1)
        with pagescan.track(memory.buffer, what="accessed"):
            memory.look(2 * PAGE)
            assert pages(pagescan.scan(memory.buffer, required_mask=Category.ACCESSED), memory) == [2]


@pytest.mark.parametrize("behaviour", ["6.7", "6.12", "6.18"])
def test_an_older_kernel_says_so(behaviour):
    with (
        model_memory.memory_of("anonymous-private", behaviour) as memory,
        pytest.raises(KernelCannot, match=r"Linux 7\.3"),
    ):
        pagescan.track(memory.buffer, what="accessed")


def test_this_kernel_says_so_if_it_cannot():
    if supported_features() >> 18 & 1:
        pytest.skip("this kernel can")
    with pytest.raises(KernelCannot, match=r"Linux 7\.3"):
        pagescan.track(pagescan.zeros(10), what="accessed")


def test_other_words_are_refused():
    array = pagescan.zeros(10)
    with pytest.raises(InvalidArgument, match="what = 'read'"):
        pagescan.track(array, what="read")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="engine of its own"):
        pagescan.track(array, what="accessed", engine="pagemap-scan")
