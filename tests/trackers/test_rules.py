"""The rules every tracker keeps, each of which was measured to go wrong otherwise (docs/kernel-facts.md)."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pagescan
from pagescan import (
    CoverageLost,
    DroppableMemory,
    InvalidArgument,
    NotWriteProtectable,
    Quality,
    RegisteredElsewhere,
)
from pagescan.kernel.userfaultfd import open_userfaultfd
from pagescan.scanning.walk import WALK_VEC_LEN
from tests.conformance.kernel_memory import array_at, libc, raw_mmap
from tests.droppable import droppable as droppable
from tests.droppable import refused_droppable as refused_droppable

PAGE = mmap.PAGESIZE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
NORESERVE = 0x4000
MAP_FIXED = 0x10
MADV_DONTNEED = 4

libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)


def in_child(body) -> str:
    """What ``body`` returns in a forked child."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = body()
        except BaseException as error:  # noqa: BLE001 - the parent's assert shows it
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = file.read()
    assert os.waitpid(pid, 0)[1] == 0
    return answer


def page_tables() -> int:
    """VmPTE of this process, bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmPTE")]
    return int(line.split()[1]) * 1024


@pytest.fixture
def array() -> np.ndarray:
    made = pagescan.zeros(16 * PAGE, np.uint8)
    made[:] = 1
    return made


class TestOneUserfaultfd:
    @staticmethod
    def descriptors() -> int:
        gc.collect()
        entries = (entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
        return sum("userfaultfd" in os.readlink(entry) for entry in entries)

    def test_trackers_share_it_and_the_last_closes_it(self, array):
        before = self.descriptors()
        other = pagescan.zeros(PAGE)
        with pagescan.track(array), pagescan.track(other), pagescan.track(array):
            assert self.descriptors() == before + 1
        assert self.descriptors() == before

    def test_memory_that_cannot_be_tracked_leaves_none_open(self):
        class Nowhere:
            address, nbytes, itemsize = 16 * PAGE, PAGE, 1

        before = self.descriptors()
        with pytest.raises(InvalidArgument, match="not mapped"):
            pagescan.track(Nowhere())
        assert self.descriptors() == before

    def test_memory_of_another_userfaultfd_is_refused_by_name(self, array):
        with open_userfaultfd() as foreign:
            foreign.register(array.ctypes.data, array.nbytes)
            with pytest.raises(RegisteredElsewhere, match="another userfaultfd owns it"):
                pagescan.track(array, engine="pagemap-scan")
        with pagescan.track(array) as tracker:
            array[0] = 2
            assert tracker.take().page_count == 1


class TestFork:
    def test_a_child_cannot_take_and_does_not_take_from_the_parent(self, array):
        with pagescan.track(array) as tracker:
            array[3 * PAGE] = 2
            answer = in_child(lambda: repr(tracker.take()))
            assert "CoverageLost" in answer
            assert "forked child" in answer
            assert tracker.take().slices(array) == [slice(3 * PAGE, 4 * PAGE)]

    def test_a_child_can_track_anew(self, array):
        def body() -> str:
            with pagescan.track(array) as mine:
                array[5 * PAGE] = 7
                return str(mine.take().slices(array))

        with pagescan.track(array) as tracker:
            assert in_child(body) == str([slice(5 * PAGE, 6 * PAGE)])
            assert len(tracker.take()) == 0

    def test_closing_in_a_child_leaves_the_parent_tracked(self, array):
        with pagescan.track(array) as tracker:

            def body() -> str:
                tracker.close()
                return "closed"

            assert in_child(body) == "closed"
            array[PAGE] = 2
            assert tracker.take().slices(array) == [slice(PAGE, 2 * PAGE)]

    def test_a_fork_is_not_a_write_and_the_copy_that_follows_is(self, array):
        with pagescan.track(array) as tracker:
            pid = os.fork()
            if pid == 0:
                signal_wait = os.read(0, 0)
                os._exit(len(signal_wait))
            os.waitpid(pid, 0)
            assert len(tracker.take()) == 0
            array[2 * PAGE] = 2
            assert tracker.take().slices(array) == [slice(2 * PAGE, 3 * PAGE)]

    def test_a_child_scans_itself_not_its_parent(self, array):
        pagescan.scan(array)
        with pagescan.track(array):
            answer = in_child(lambda: str(pagescan.scan(array, return_mask=pagescan.Category.WPALLOWED).categories))
            assert answer == "[0]"


def apart() -> int:
    """Four pages of private memory between two mappings without access, so that they merge with no neighbour."""
    whole = raw_mmap(6 * PAGE, PRIVATE, prot=0)
    return raw_mmap(4 * PAGE, PRIVATE | MAP_FIXED, address=whole + PAGE)


@pytest.mark.usefixtures("refused_droppable")
class TestDroppableMemory:
    @pytest.mark.parametrize("engine", ["pagemap-scan", "pagemap-read"])
    def test_the_error_says_what_it_is(self, droppable, engine):
        with pytest.raises(DroppableMemory, match=r"MAP_DROPPABLE.*may empty its pages") as caught:
            pagescan.track(array_at(droppable, 8 * PAGE), engine=engine)
        assert isinstance(caught.value, NotWriteProtectable)
        assert "ordinary memory" in (caught.value.hint or "")

    def test_without_a_named_engine_another_one_finds_what_changed(self, droppable):
        array = array_at(droppable, 8 * PAGE)
        array[:] = 1
        with pagescan.track(array) as tracker:
            assert tracker.engine in ("soft-dirty", "compare")
            assert "MAP_DROPPABLE" in tracker.why
            array[5 * PAGE] = 2
            assert slice(5 * PAGE, 6 * PAGE) in tracker.take().slices(array)


class TestLostCoverage:
    def test_a_mapping_that_was_moved(self):
        at = apart()
        array = array_at(at, 4 * PAGE)
        array[:] = 1
        with pagescan.track(array) as tracker:
            new = raw_mmap(4 * PAGE, PRIVATE)
            assert libc.mremap(at, 4 * PAGE, 4 * PAGE, 3, new) == new
            for _ in range(2):
                with pytest.raises(CoverageLost) as caught:
                    tracker.take()
                assert (caught.value.start, caught.value.end) == (at, at + 4 * PAGE)
        libc.munmap(new, 4 * PAGE)

    def test_a_mapping_that_was_replaced(self):
        at = apart()
        with pagescan.track(array_at(at, 4 * PAGE)) as tracker:
            raw_mmap(4 * PAGE, PRIVATE | MAP_FIXED, address=at)
            with pytest.raises(CoverageLost, match="mapped anew"):
                tracker.take()
        libc.munmap(at, 4 * PAGE)

    def test_memory_that_was_unmapped_is_not_taken_for_clean(self):
        at = apart()
        tracker = pagescan.track(array_at(at, 4 * PAGE))
        libc.munmap(at + PAGE, PAGE)
        with pytest.raises(CoverageLost, match="no longer mapped"):
            tracker.take()
        with pytest.raises(CoverageLost):
            tracker.changed()
        tracker.close()
        libc.munmap(at, 4 * PAGE)

    def test_what_was_found_elsewhere_is_kept(self, array):
        at = apart()
        gone = array_at(at, 4 * PAGE)
        with pagescan.track(array, gone, on_lost="report") as tracker:
            array[PAGE] = 2
            libc.munmap(at, 4 * PAGE)
            written = tracker.take()
            assert written.quality is Quality.LOST
            assert "no longer mapped" in written.reason
            assert written.slices(array) == [slice(PAGE, 2 * PAGE)]
            assert (written & pagescan.Regions.span(at, at + 4 * PAGE, page_size=PAGE)).page_count == 4
            assert tracker.take().quality is Quality.LOST

    def test_raising_loses_nothing(self, array):
        at = apart()
        with pagescan.track(array, array_at(at, 4 * PAGE)) as tracker:
            cursor = tracker.cursor()
            array[PAGE] = 2
            libc.munmap(at, 4 * PAGE)
            with pytest.raises(CoverageLost):
                tracker.take()
            assert array.ctypes.data + PAGE in tracker._reader.pending
            with pytest.raises(CoverageLost):
                cursor.take()
            assert array.ctypes.data + PAGE in cursor._reader.pending

    def test_a_tensor_resized_behind_our_back(self):
        class Tensor:
            """What a torch tensor on the CPU looks like from outside."""

            device, layout, is_contiguous = "cpu", "torch.strided", staticmethod(lambda: True)

            def __init__(self) -> None:
                self.resize_(1 << 16)

            def resize_(self, size: int) -> None:
                self.array = np.ones(size, np.uint8)
                self.data_ptr, self.numel, self.element_size = lambda: self.array.ctypes.data, lambda: size, lambda: 1

        tensor = Tensor()
        with pagescan.track(tensor) as tracker:
            tensor.array[0] = 2
            assert tracker.take().slices(tensor.array)[0].start == 0  # its last page may hold other objects, too
            before = tensor.array
            tensor.resize_(1 << 26)
            with pytest.raises(CoverageLost, match="resized"):
                tracker.take()
            assert before.ctypes.data != tensor.data_ptr()

    def test_unregistered_by_somebody_else(self, array):
        with pagescan.track(array) as tracker:
            engine: Any = tracker._hub.engine
            engine._uffd.unregister(array.ctypes.data, PAGE)
            with pytest.raises(CoverageLost, match="unregistered"):
                tracker.take()


class TestHeld:
    def test_a_bytearray_cannot_be_resized_until_closed(self):
        buffer = bytearray(4 * PAGE)
        tracker = pagescan.track(buffer)
        with pytest.raises(BufferError):
            buffer.extend(b"x")
        tracker.close()
        buffer.extend(b"x")

    def test_an_array_cannot_be_resized_until_closed(self):
        array = np.ones(1 << 20, np.uint8)
        tracker = pagescan.track(array[PAGE:])
        with pytest.raises(ValueError, match="cannot resize"):
            array.resize(1 << 26, refcheck=False)
        tracker.close()
        array.resize(1 << 26, refcheck=False)


class TestHoles:
    def test_no_page_tables_are_spent_on_a_large_reserve(self):
        size = 64 << 30
        at = raw_mmap(size, PRIVATE | NORESERVE)
        madv_nohugepage = 15  # where huge pages come unasked, the first write to a hole fills one
        libc.madvise(at, size, madv_nohugepage)
        array = array_at(at, size)
        array[: 4 * PAGE] = 1
        before = page_tables()
        with pagescan.track(array) as tracker:
            assert len(tracker.take()) == 0
            assert page_tables() - before < 1 << 20
            array[10 << 30] = array[PAGE] = 1
            assert array[20 << 30] == 0
            written = tracker.take()
            assert written.slices(array) == [slice(PAGE, 2 * PAGE), slice(10 << 30, (10 << 30) + PAGE)]
            assert written.quality is Quality.EXACT
            assert libc.madvise(at, 2 * PAGE, MADV_DONTNEED) == 0
            assert tracker.peek().slices(array) == tracker.take().slices(array) == [slice(0, 2 * PAGE)]
            assert array[0] == 0
            assert len(tracker.take()) == 0
            assert page_tables() - before < 1 << 20
        libc.munmap(at, size)

    def test_a_page_dropped_and_only_read_again_is_written(self):
        size = 1 << 30
        at = raw_mmap(size, PRIVATE | NORESERVE)
        array = array_at(at, size)
        array[: 4 * PAGE] = 1
        with pagescan.track(array) as tracker:
            assert libc.madvise(at, PAGE, MADV_DONTNEED) == 0
            assert array[0] == 0
            assert tracker.take().slices(array) == [slice(0, PAGE)]
            assert len(tracker.take()) == 0
        libc.munmap(at, size)

    def test_a_page_given_back_twice_is_named_twice(self):
        """Who read it when it was first named may have seen what was written to it in between."""
        size = 1 << 30
        at = raw_mmap(size, PRIVATE | NORESERVE)
        array = array_at(at, size)
        array[: 4 * PAGE] = 1
        with pagescan.track(array) as tracker:
            assert libc.madvise(at, PAGE, MADV_DONTNEED) == 0
            assert tracker.take().slices(array) == [slice(0, PAGE)]
            array[0] = 7
            assert libc.madvise(at, PAGE, MADV_DONTNEED) == 0
            assert tracker.take().slices(array) == [slice(0, PAGE)]
            assert len(tracker.take()) == 0
        libc.munmap(at, size)


class TestHousekeeping:
    def test_merged_mappings_are_not_written(self):
        """Soft-dirty would call everything written after a merge of VMAs."""
        at = raw_mmap(8 * PAGE, PRIVATE)
        array = array_at(at, 8 * PAGE)
        array[:] = 1
        with pagescan.track(array) as tracker:
            libc.mprotect(ctypes.c_void_p(at + 2 * PAGE), ctypes.c_size_t(PAGE), 1)
            assert len(tracker.take()) == 0
            libc.mprotect(ctypes.c_void_p(at + 2 * PAGE), ctypes.c_size_t(PAGE), 3)
            assert len(tracker.take()) == 0
            array[5 * PAGE] = 2
            assert tracker.take().slices(array) == [slice(5 * PAGE, 6 * PAGE)]
        libc.munmap(at, 8 * PAGE)

    def test_more_regions_than_one_call_holds_are_counted_once(self):
        count = 40_000
        array = pagescan.zeros((2 * count, PAGE), np.uint8)
        array[:] = 1
        with pagescan.track(array) as tracker:
            array[::2, 0] = 2
            written = tracker.take()
            assert (len(written), written.page_count) == (count, count)
            assert len(tracker.take()) == 0


class TestManyRegions:
    def test_each_take_finds_more_runs_than_one_call_has_room_for(self):
        """Several calls an answer, take after take, whether or not earlier answers are kept."""
        runs = WALK_VEC_LEN + 1000
        array = pagescan.zeros(4 * runs * PAGE, np.uint8)
        array[::PAGE] = 1
        kept = []
        with pagescan.track(array) as tracker:
            for value, stride in enumerate((4, 2, 4, 3, 2), start=2):
                pages = array[:: stride * PAGE][:runs]
                pages[:] = value
                written = tracker.take()
                kept.append(written)
                assert written.slices(array) == [
                    slice(at, at + PAGE) for at in range(0, stride * runs * PAGE, stride * PAGE)
                ]
                assert len(tracker.take()) == 0
        assert kept[0] == kept[2] != kept[1] == kept[4]


class TestThreads:
    def test_no_update_is_lost_under_writers(self):
        """Copy what each take names while threads write and give memory back; at the end nothing differs."""
        count = 512
        array = pagescan.zeros((count, PAGE), np.uint8)
        array[:] = 1
        replica = array.copy()
        stop = threading.Event()

        def write(seed: int) -> None:
            random = np.random.default_rng(seed)
            base = array.ctypes.data
            while not stop.is_set():
                page = int(random.integers(count))
                if random.integers(16) == 0:
                    libc.madvise(base + page * PAGE, PAGE, MADV_DONTNEED)
                else:
                    array[page, random.integers(PAGE, size=8)] += 1

        def copy(written: pagescan.Written) -> None:
            for part in written.slices(array):
                replica.reshape(-1)[part] = array.reshape(-1)[part]

        writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
        rounds = found = 0
        with pagescan.track(array) as tracker:
            for writer in writers:
                writer.start()
            # However seldom a busy machine lets the writers run, there is something to lose.
            while rounds < 400 or found < 400:
                written = tracker.take()
                found += written.page_count
                copy(written)
                rounds += 1
            stop.set()
            for writer in writers:
                writer.join()
            copy(tracker.take())
        assert np.array_equal(array, replica)

    def test_readers_in_several_threads_together_miss_nothing(self, array):
        with pagescan.track(array) as tracker:
            cursors = [tracker.cursor() for _ in range(4)]
            seen: list[set[int]] = [set() for _ in cursors]

            def read(number: int) -> None:
                for _ in range(200):
                    seen[number].update(cursors[number].take().pages().tolist())

            threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for page in range(16):
                array[page * PAGE] = 5
            for thread in threads:
                thread.join()
            for number, cursor in enumerate(cursors):
                seen[number].update(cursor.take().pages().tolist())
            everything = {array.ctypes.data + page * PAGE for page in range(16)}
            assert seen == [everything] * 4
