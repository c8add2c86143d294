"""What the engine soft-dirty repairs, each seen on the model, where it can be brought about at will."""

from __future__ import annotations

import itertools
import mmap
import sys

import pytest

import pagescan
from pagescan import KernelCannot, NotWriteProtectable, Quality
from pagescan.model import Buffer, Machine

PAGE = 4096


@pytest.fixture
def buffer() -> Buffer:
    process = Machine(behaviour="6.7", soft_dirty=True).process()
    made = process.buffer(process.mmap(8 * PAGE), 8 * PAGE)
    made[:] = 1
    return made


def pages(written: pagescan.Regions, buffer: Buffer) -> list[int]:
    return [(int(address) - buffer.address) // PAGE for address in written.pages()]


def test_one_reset_serves_all_trackers(buffer):
    with (
        pagescan.track(buffer, engine="soft-dirty") as left,
        pagescan.track(buffer.space.buffer(buffer.address + 4 * PAGE, 4 * PAGE), engine="soft-dirty") as right,
    ):
        buffer[0] = buffer[5 * PAGE] = 2
        assert pages(right.take(), buffer) == [5]
        written = left.take()
        assert pages(written, buffer) == [0, 5]
        assert written.quality is Quality.SUPERSET
        assert "soft-dirty bits" in written.reason
        assert len(left.take()) == len(right.take()) == 0


def test_a_fault_of_somebody_else_during_the_look_makes_everything_written(buffer, monkeypatch):
    with pagescan.track(buffer, engine="soft-dirty") as tracker:
        assert len(tracker.take()) == 0
        monkeypatch.setattr(buffer.space, "foreign_faults", itertools.count().__next__)
        written = tracker.take()
        assert (written.page_count, written.quality) == (8, Quality.SUPERSET)
        monkeypatch.undo()
        assert len(tracker.take()) == 0


def test_a_fault_while_reading_is_no_matter_if_a_second_reading_is_quiet(buffer, monkeypatch):
    faults = iter([1, 2, 2, 2, 2, 2])
    with pagescan.track(buffer, engine="soft-dirty") as tracker:
        buffer[PAGE] = 3
        monkeypatch.setattr(buffer.space, "foreign_faults", faults.__next__)
        assert pages(tracker.take(), buffer) == [1]


def test_memory_given_back_is_named_until_it_is_populated(buffer):
    with pagescan.track(buffer, engine="soft-dirty") as tracker:
        buffer.space.madvise(buffer.address + 2 * PAGE, PAGE, "dontneed")
        assert pages(tracker.take(), buffer) == [2]
        assert buffer[2 * PAGE] == b"\0"
        assert pages(tracker.take(), buffer) == [2]
        buffer[2 * PAGE] = 7
        assert pages(tracker.take(), buffer) == [2]
        assert len(tracker.take()) == 0


def test_pages_swapped_out_stay_what_they_are(buffer):
    with pagescan.track(buffer, engine="soft-dirty") as tracker:
        buffer[PAGE] = 3
        buffer.space.swap_out(buffer.address, buffer.nbytes)
        assert pages(tracker.take(), buffer) == [1]
        assert buffer[3 * PAGE] == b"\1"
        assert len(tracker.take()) == 0


def test_a_merge_with_new_memory_makes_everything_written(buffer):
    with pagescan.track(buffer, engine="soft-dirty") as tracker:
        assert len(tracker.take()) == 0
        buffer.space.mmap(PAGE, fixed=buffer.address + buffer.nbytes)
        assert tracker.take().page_count == 8
        assert len(tracker.take()) == 0


@pytest.mark.parametrize(
    ("how", "why"), [({"kind": "shmem"}, "forgets the bits"), ({"kind": "hugetlb"}, "no soft-dirty bits")]
)
def test_memory_whose_bits_cannot_be_trusted_is_refused(how, why):
    process = Machine(behaviour="6.7", soft_dirty=True).process()
    buffer = process.buffer(process.mmap(2 << 20, **how), 2 << 20)
    with pytest.raises(NotWriteProtectable, match=why):
        pagescan.track(buffer, engine="soft-dirty")


def test_a_machine_without_the_bits_is_found_out():
    process = Machine(behaviour="6.7").process()
    process.clear_soft_dirty()
    with pytest.raises(KernelCannot, match="instead of"):
        pagescan.track(process.buffer(process.mmap(PAGE), PAGE), engine="soft-dirty")


@pytest.mark.skipif(sys.platform != "linux", reason="this needs /proc/PID/clear_refs")
def test_who_else_resets_the_bits_is_noticed():
    from pagescan.process.current import current_space

    array = pagescan.zeros(8 * mmap.PAGESIZE, "uint8")
    try:
        tracker = pagescan.track(array, engine="soft-dirty")
    except KernelCannot as error:
        pytest.skip(error.message)
    with tracker:
        array[mmap.PAGESIZE] = 1
        current_space().clear_soft_dirty()
        written = tracker.peek()
        assert (written.page_count, written.quality) == (8, Quality.SUPERSET)
        assert tracker.take().page_count == 8
        assert len(tracker.take()) < 8


@pytest.mark.skipif(sys.platform != "linux", reason="this needs /proc/PID/clear_refs")
def test_in_a_quiet_process_answers_are_exact_all_the_same():
    """The reset protects every page of the process, so asking takes faults of its own, which must not count."""
    array = pagescan.zeros(16 * mmap.PAGESIZE, "uint8")
    try:
        tracker = pagescan.track(array, engine="soft-dirty")
    except KernelCannot as error:
        pytest.skip(error.message)
    with tracker:
        counts = []
        for page in range(12):
            array[page * mmap.PAGESIZE] = 5
            counts.append(tracker.take().page_count)
    assert sorted(counts)[:10] == [1] * 10, counts
