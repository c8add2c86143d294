"""Fork, lost coverage, threads, many buffers: the rules of test_rules.py that every engine has to keep."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest

import pagescan
from pagescan import CoverageLost, KernelCannot, Quality
from pagescan.kernel.memory import PROT_NONE, READ_WRITE, protect_memory
from pagescan.kernel.space import LinuxSpace
from pagescan.trackers.pagemap_scan import PagemapScanEngine
from tests.conformance.kernel_memory import array_at, libc, raw_mmap

from .test_rules import MAP_FIXED, PAGE, PRIVATE, apart, in_child


@pytest.fixture(params=["pagemap-scan", "pagemap-read", "soft-dirty", "compare"])
def engine(request: pytest.FixtureRequest) -> str:
    try:
        pagescan.track(pagescan.zeros(1), engine=request.param).close()
    except KernelCannot as error:
        pytest.skip(f"{request.param}: {error.message}")
    return str(request.param)


@pytest.fixture
def array() -> np.ndarray:
    made = pagescan.zeros(16 * PAGE, np.uint8)
    made[:] = 1
    return made


def named(written: pagescan.Written, array: np.ndarray) -> list[int]:
    """The written pages of an array."""
    span = pagescan.Regions.span(array.ctypes.data, array.ctypes.data + array.nbytes, page_size=PAGE)
    return [(int(page) - array.ctypes.data) // PAGE for page in (written & span).pages()]


def exactly(written: pagescan.Written, array: np.ndarray, *pages: int) -> bool:
    """Whether the answer names these pages and no others, or owns to naming more."""
    found = set(named(written, array))
    return found == set(pages) or (found > set(pages) and written.quality is Quality.SUPERSET)


class TestFork:
    def test_a_child_cannot_take_and_does_not_take_from_the_parent(self, engine, array):
        with pagescan.track(array, engine=engine) as tracker:
            array[3 * PAGE] = 2
            assert "forked child" in in_child(lambda: repr(tracker.take()))
            assert exactly(tracker.take(), array, 3)

    def test_a_child_can_track_anew(self, engine, array):
        def body() -> str:
            with pagescan.track(array, engine=engine) as mine:
                array[5 * PAGE] = 7
                return str(exactly(mine.take(), array, 5))

        with pagescan.track(array, engine=engine) as tracker:
            assert in_child(body) == "True"
            assert exactly(tracker.take(), array)

    def test_closing_in_a_child_leaves_the_parent_tracked(self, engine, array):
        with pagescan.track(array, engine=engine) as tracker:

            def body() -> str:
                tracker.close()
                return "closed"

            assert in_child(body) == "closed"
            array[PAGE] = 2
            assert exactly(tracker.take(), array, 1)


class TestLost:
    def test_unmapped_memory_is_a_loss(self, engine):
        at = apart()
        tracker = pagescan.track(array_at(at, 4 * PAGE), engine=engine)
        libc.munmap(at + PAGE, PAGE)
        with pytest.raises(CoverageLost):
            tracker.take()
        with pytest.raises(CoverageLost):
            tracker.peek()
        tracker.close()
        libc.munmap(at, 4 * PAGE)

    def test_what_was_found_elsewhere_is_kept(self, engine, array):
        at = apart()
        with pagescan.track(array, array_at(at, 4 * PAGE), engine=engine, on_lost="report") as tracker:
            array[PAGE] = 2
            libc.munmap(at, 4 * PAGE)
            written = tracker.take()
            assert written.quality is Quality.LOST
            assert "mapped" in written.reason
            assert 1 in named(written, array)
            assert (written & pagescan.Regions.span(at, at + 4 * PAGE, page_size=PAGE)).page_count == 4
            assert tracker.take().quality is Quality.LOST

    def test_raising_loses_nothing(self, engine, array):
        at = apart()
        with pagescan.track(array, array_at(at, 4 * PAGE), engine=engine) as tracker:
            cursor = tracker.cursor()
            array[PAGE] = 2
            libc.munmap(at, 4 * PAGE)
            for reader in (tracker, cursor):
                with pytest.raises(CoverageLost):
                    reader.take()
                assert array.ctypes.data + PAGE in reader._reader.pending

    def test_memory_mapped_anew_is_lost_or_named(self, engine):
        at = apart()
        memory = array_at(at, 4 * PAGE)
        memory[:] = 1
        with pagescan.track(memory, engine=engine, on_lost="report") as tracker:
            raw_mmap(PAGE, PRIVATE | MAP_FIXED, address=at + 2 * PAGE)
            memory[2 * PAGE] = 5
            written = tracker.take()
            assert 2 in named(written, memory)
        libc.munmap(at, 4 * PAGE)

    def test_memory_that_cannot_be_read_for_a_while_is_never_missed(self, engine, array):
        with pagescan.track(array, engine=engine, on_lost="report") as tracker:
            array[2 * PAGE] = 9
            protect_memory(array.ctypes.data, array.nbytes, PROT_NONE)
            written = tracker.take()
            protect_memory(array.ctypes.data, array.nbytes, READ_WRITE)
            assert 2 in named(written, array)


def test_a_thousand_buffers_in_one_tracker(engine):
    block = pagescan.zeros((2000, PAGE), np.uint8)
    buffers = [block[2 * i] for i in range(1000)]
    with pagescan.track(*buffers, engine=engine) as tracker:
        for i in (3, 700, 999):
            buffers[i][5] = 1
        block[1] = 1  # between two of them
        written = tracker.take()
        assert exactly(written, block, 6, 1400, 1998)
        assert exactly(tracker.take(), block)


@pytest.mark.parametrize("engine", ["pagemap-scan", "pagemap-read"], indirect=True)
def test_no_update_is_lost_under_writers(engine):
    """Copy what each take names while threads write; at the end nothing differs. (`compare` does not promise that.)"""
    array = pagescan.zeros((256, PAGE), np.uint8)
    array[:] = 1
    replica = array.copy()
    stop = threading.Event()

    def write(seed: int) -> None:
        random = np.random.default_rng(seed)
        while not stop.is_set():
            array[int(random.integers(256)), random.integers(PAGE, size=8)] += 1

    def copy(written: pagescan.Written) -> None:
        for part in written.slices(array):
            replica.reshape(-1)[part] = array.reshape(-1)[part]

    writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    with pagescan.track(array, engine=engine) as tracker:
        for writer in writers:
            writer.start()
        found = 0
        while found < 2000:
            written = tracker.take()
            found += written.page_count
            copy(written)
        stop.set()
        for writer in writers:
            writer.join()
        copy(tracker.take())
    assert np.array_equal(array, replica)


@pytest.mark.parametrize("step", ["gap_finder", "open_userfaultfd"])
def test_an_engine_that_cannot_be_made_leaves_nothing_open(monkeypatch, tracking, step):
    space = LinuxSpace.current()

    def fail(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(space, step, fail)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Too many open files"):
        PagemapScanEngine(space)
    assert sorted(os.listdir("/proc/self/fd")) == before
