"""The meter of copy on write: a forked child writes k pages, and k pages are un-shared."""

from __future__ import annotations

import mmap
import os
import signal
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("processes are forked, and looked at, on Linux", allow_module_level=True)

import pagescan
from pagescan import CowSample, InvalidArgument, NoSuchProcess, Regions, cow_meter
from pagescan.model import Machine

PAGE = mmap.PAGESIZE
PAGES = 64


@pytest.fixture(autouse=True)
def _scanning() -> None:
    try:
        cow_meter().close()
    except (pagescan.KernelCannot, pagescan.AccessDenied) as error:
        pytest.skip(f"looking at pages: {error.message}")


@pytest.fixture
def array() -> np.ndarray:
    made = pagescan.zeros(PAGES * PAGE, np.uint8)
    made[: PAGES // 2 * PAGE] = 1  # the rest was never touched
    return made


class Child:
    """A forked child that does what it is told, a step at a time."""

    def __init__(self, *steps: Callable[[], object]):
        self._told, tell = os.pipe()
        answer, self._say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(tell)
                for step in steps:
                    if not os.read(self._told, 1):
                        break
                    step()
                    os.write(self._say, b".")
                os.read(self._told, 1)
            finally:
                os._exit(0)
        os.close(self._told)
        os.close(self._say)
        self._tell, self._answer = tell, answer

    def step(self) -> None:
        os.write(self._tell, b".")
        assert os.read(self._answer, 1), "the child died"

    def end(self) -> None:
        os.close(self._tell)
        os.close(self._answer)
        os.kill(self.pid, signal.SIGKILL)  # a later child may hold its pipe open
        os.waitpid(self.pid, 0)


def pages(found: Regions | None, array: np.ndarray) -> list[int]:
    """Page numbers in the array."""
    assert found is not None
    base = array.ctypes.data
    return [(int(page) - base) // PAGE for page in found.clip(base, base + array.nbytes).pages().tolist()]


def sees_frames() -> bool:
    return cow_meter().last.copied is not None


@pytest.fixture
def child_of(request: pytest.FixtureRequest) -> Iterator[Callable[..., Child]]:
    made: list[Child] = []

    def fork(*steps: Callable[[], object]) -> Child:
        made.append(Child(*steps))
        return made[-1]

    yield fork
    for child in made:
        child.end()


def write(array: np.ndarray, *numbers: int) -> Callable[[], None]:
    def step() -> None:
        for number in numbers:
            array[number * PAGE] += 1

    return step


class TestAChild:
    def test_k_written_pages_are_k_unshared_pages(self, array, child_of):
        child = child_of(write(array, 0, 5, 6, 31), write(array, 5, 7), lambda: None)
        with cow_meter(child.pid) as meter:
            assert pages(meter.last.shared, array) == list(range(32))
            assert pages(meter.last.unshared, array) == []
            child.step()
            sample = meter.read()
            assert pages(sample.unshared, array) == [0, 5, 6, 31]
            assert pages(sample.alone, array) == [0, 5, 6, 31]
            assert len(pages(sample.shared, array)) == 28
            child.step()
            assert pages(meter.read().unshared, array) == [7]
            child.step()
            assert pages(meter.read().unshared, array) == []

    def test_pages_that_are_new_were_never_shared(self, array, child_of):
        child = child_of(write(array, 40, 41))
        with cow_meter(child.pid) as meter:
            child.step()
            sample = meter.read()
            assert pages(sample.unshared, array) == []
            assert pages(sample.alone, array) == [40, 41]

    def test_the_page_of_zeros_is_nobodys(self, array, child_of):
        assert array[32 * PAGE :].sum() == 0  # maps it
        child = child_of(write(array, 33))
        with cow_meter(child.pid) as meter:
            assert pages(meter.last.shared, array) == list(range(32))
            child.step()
            assert pages(meter.read().unshared, array) == []

    def test_shared_memory_does_not_count(self, child_of):
        buffer = mmap.mmap(-1, 4 * PAGE)
        shared = np.frombuffer(buffer, np.uint8)
        shared[:] = 1
        child = child_of(write(shared, 0))
        with cow_meter(child.pid) as meter:
            child.step()
            sample = meter.read()
            assert pages(sample.shared | sample.alone | sample.unshared, shared) == []

    def test_what_the_parent_writes_to_is_left_to_the_child(self, array, child_of):
        child = child_of()
        with cow_meter(child.pid) as meter:
            write(array, 3, 4)()
            sample = meter.read()
            assert pages(sample.unshared, array) == [3, 4]
            if sample.copied is not None:
                assert pages(sample.copied, array) == []

    def test_copies_are_told_from_what_was_left(self, array, child_of):
        if not sees_frames():
            pytest.skip("frame numbers need CAP_SYS_ADMIN")
        child = child_of(write(array, 1, 2))
        with cow_meter(child.pid) as meter:
            write(array, 9)()
            child.step()
            sample = meter.read()
            assert pages(sample.unshared, array) == [1, 2, 9]
            assert pages(sample.copied, array) == [1, 2]

    def test_by_mapping(self, array, child_of):
        child = child_of(write(array, 1, 2, 3))
        with cow_meter(child.pid) as meter:
            child.step()
            base = array.ctypes.data
            (row,) = [row for row in meter.read().by_mapping() if row.mapping.start <= base < row.mapping.end]
            assert row.unshared >= 3 * PAGE  # the mapping may hold more than the array
            assert row.alone >= row.unshared
            assert row.shared >= 29 * PAGE

    def test_its_end(self, child_of):
        child = child_of()
        with cow_meter(child.pid) as meter:
            os.kill(child.pid, signal.SIGKILL)
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(NoSuchProcess):
                meter.read()


class TestAroundAFork:
    """A meter of this process, made before the fork."""

    def test_the_parent_counts_from_the_fork_on(self, array, child_of):
        with cow_meter() as meter:
            child = child_of()
            assert child.pid
            write(array, 2, 30)()
            assert pages(meter.read().unshared, array) == [2, 30]
            write(array, 2, 8)()
            assert pages(meter.read().unshared, array) == [8]

    def test_the_child_goes_on_with_it_as_its_own(self, array):
        reading, writing = os.pipe()
        with cow_meter() as meter:
            pid = os.fork()
            if pid == 0:
                try:
                    write(array, 4, 6)()
                    answer = repr(pages(meter.read().unshared, array))
                except BaseException as error:  # noqa: BLE001 - the parent's assert shows it
                    answer = repr(error)
                os.write(writing, answer.encode())
                os._exit(0)
            os.close(writing)
            with open(reading) as file:
                assert file.read() == "[4, 6]"
            os.waitpid(pid, 0)

    def test_when_the_child_ends_all_is_the_parents(self, array, child_of):
        with cow_meter() as meter:
            child = Child()
            child.end()
            sample = meter.read()
            assert pages(sample.unshared, array) == list(range(32))
            if sample.copied is not None:
                assert pages(sample.copied, array) == []

    def test_what_a_child_does_not_get_was_never_shared(self, child_of):
        buffer = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        kept = np.frombuffer(buffer, np.uint8)
        kept[:] = 1
        buffer.madvise(mmap.MADV_DONTFORK, 0, 4 * PAGE)
        with cow_meter() as meter:
            child_of()
            write(kept, 0, 5)()
            assert pages(meter.read().unshared, kept) == [5]

    def test_a_second_fork_forgets_nothing(self, array, child_of):
        with cow_meter() as meter:
            first = child_of()
            write(array, 3)()
            second = child_of()
            write(array, 3, 9)()
            assert first.pid != second.pid
            assert pages(meter.read().unshared, array) == [3, 9]
            assert pages(meter.read().unshared, array) == []

    def test_a_closed_meter_is_left_alone(self, array, child_of):
        meter = cow_meter()
        meter.close()
        meter.close()
        child_of()
        write(array, 0)()
        assert pages(meter.read().unshared, array) == []


class TestSwap:
    def test_a_page_that_comes_back_from_the_swap_written_to_is_unshared(self, monkeypatch):
        """On the model: to swap on this kernel takes a swap device."""
        machine = Machine()
        parent = machine.process()
        at = parent.mmap(4 * 4096)
        parent.write(at, b"x" * 4 * 4096)
        child = parent.fork()
        meter = cow_meter(child)
        child.swap_out(at + 4096, 4096)
        assert meter.read().unshared.page_count == 0
        child.write(at + 4096, b"y")
        assert [int(page) - at for page in meter.read().unshared.pages()] == [4096]


def test_on_the_model_it_says_the_same():
    machine = Machine()
    parent = machine.process()
    at = parent.mmap(16 * 4096)
    parent.write(at, b"x" * 8 * 4096)
    child = parent.fork()
    assert parent.read(at + 9 * 4096, 1) == b"\0"

    def numbers(sample: CowSample) -> list[int]:
        return [(int(page) - at) // 4096 for page in sample.unshared.pages().tolist()]

    with cow_meter(child) as meter, cow_meter(parent) as other:
        assert meter.last.shared.page_count == other.last.shared.page_count == 8
        child.write(at + 4096, b"yy")
        child.write(at + 9 * 4096, b"new")
        parent.write(at + 5 * 4096, b"z")
        assert numbers(meter.read()) == [1, 5]
        assert numbers(other.read()) == [1, 5]
        assert meter.last.copied is None
        child.exit()
        assert numbers(other.read()) == [0, 2, 3, 4, 6, 7]


class TestManyRegions:
    def test_regions_far_apart_and_longer_than_a_chunk(self, monkeypatch, child_of):
        monkeypatch.setattr("pagescan.cow._CHUNK", 8)
        monkeypatch.setattr("pagescan.cow._NEAR", 2)
        array = pagescan.zeros(300 * PAGE, np.uint8)
        used = [*range(20), 21, 30, *range(100, 140), 299]
        write(array, *used)()
        chosen = [3, 7, 8, 21, 100, 115, 116, 139, 299]
        child = child_of(write(array, *chosen))
        with cow_meter(child.pid) as meter:
            assert pages(meter.last.shared, array) == used
            child.step()
            assert pages(meter.read().unshared, array) == chosen


def test_wrong_targets_are_named():
    with pytest.raises(InvalidArgument, match="target = 'other'"):
        cow_meter("other")
    with pytest.raises(NoSuchProcess):
        cow_meter(1 << 22)
