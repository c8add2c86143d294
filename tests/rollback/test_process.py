"""Marks of another process: a real child, whatever it does to its address space in between."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import pagescan
from pagescan import Closed, CoverageLost, InvalidArgument, NoSuchProcess, PagescanError, ProcessTracker, Regions
from pagescan.abi import Mapping
from tests.trackers.target import PAGE, TARGET, Target

pytestmark = pytest.mark.usefixtures("tracking")

#: Pages of the area that is marked, between two mappings without access.
PAGES = 16


class Marked:
    """A target, its tracker, and an area in it of which every page holds ones; ``area`` chooses it as mappings=."""

    def __init__(self, target: Target, tracker: ProcessTracker, at: int):
        self.target, self.tracker, self.at = target, tracker, at
        self.do = target.do

    def area(self, mapping: Mapping) -> bool:
        return self.at <= mapping.start < self.at + PAGES * PAGE

    def put(self, page: int, value: int) -> None:
        self.do(f"put({self.at}, {page}, {value})")

    def look(self) -> list[int]:
        """The first byte of each page."""
        data = self.tracker.read(Regions.span(self.at, self.at + PAGES * PAGE, page_size=PAGE))
        return data.reshape(PAGES, PAGE)[:, 0].tolist()


@pytest.fixture
def marked() -> Iterator[Marked]:
    target = Target()
    try:
        at = target.area(PAGES)
        try:
            tracker = pagescan.attach(target.pid)
        except PagescanError as error:
            if error.errno is None and not error.hint:
                raise
            pytest.skip(f"attaching: {error.message}")
        with tracker:
            yield Marked(target, tracker, at)
    finally:
        target.end()


ONES = [1] * PAGES


class TestPutBack:
    def test_exactly_the_written_pages(self, marked):
        with pagescan.mark(marked.tracker, mappings=marked.area) as mark:
            assert mark.nbytes == PAGES * PAGE
            assert mark.restore() == 0
            marked.put(3, 7)
            marked.put(9, 8)
            assert mark.restore() == 2 * PAGE
            assert marked.look() == ONES
            assert marked.do(f"ctypes.string_at({marked.at} + 3 * PAGE, 1)[0]") == 1
            assert mark.restore() == 0

    def test_advance(self, marked):
        with pagescan.mark(marked.tracker, mappings=marked.area) as mark:
            marked.put(3, 7)
            assert mark.advance() == PAGE
            marked.put(3, 8)
            marked.put(4, 8)
            assert mark.restore() == 2 * PAGE
            assert marked.look() == [*ONES[:3], 7, *ONES[4:]]

    def test_marks_and_the_tracker_are_independent(self, marked):
        span = marked.at, marked.at + PAGES * PAGE
        with pagescan.mark(marked.tracker, mappings=marked.area) as older:
            marked.put(1, 2)
            with pagescan.mark(marked.tracker, mappings=marked.area) as newer:
                marked.tracker.take()
                marked.put(2, 3)
                assert newer.restore() == PAGE
                assert marked.look() == [1, 2, *ONES[2:]]
                assert marked.tracker.take().clip(*span).page_count == 1
                assert older.restore() == 2 * PAGE
                assert marked.look() == ONES
                assert newer.restore() == 2 * PAGE
                assert marked.look() == [1, 2, *ONES[2:]]

    def test_a_page_that_was_never_touched_is_zeros_again(self, marked):
        at = marked.do("new(64)")
        span = Regions.span(at, at + 64 * PAGE, page_size=PAGE)
        with pagescan.mark(marked.tracker, mappings=lambda m: m.start <= at < m.end) as mark:
            marked.do(f"put({at}, 40, 9)")
            mark.restore()
            assert not marked.tracker.read(span).any()

    def test_memory_given_back_is_put_back(self, marked):
        with pagescan.mark(marked.tracker, mappings=marked.area) as mark:
            marked.do(f"libc.madvise({marked.at} + 5 * PAGE, 2 * PAGE, 4)")
            assert marked.look()[5] == 0
            assert mark.restore() == 2 * PAGE
            assert marked.look() == ONES

    def test_everything_in_a_process_that_waits(self, marked):
        """Its heap and stack as well: it waits for a line before and after, and goes on as before."""
        with pagescan.mark(marked.tracker) as mark:
            assert mark.nbytes > PAGES * PAGE
            with marked.tracker.frozen():
                marked.tracker.space.write(
                    Regions.span(marked.at, marked.at + PAGE, page_size=PAGE), np.full(PAGE, 9, np.uint8)
                )
            assert mark.restore() >= PAGE  # the kernel itself may write: to the area of restartable sequences
            assert marked.look() == ONES
            assert marked.do("6 * 7") == 42

    def test_it_stands_still_only_meanwhile(self, marked):
        with pagescan.mark(marked.tracker, mappings=marked.area) as mark:
            marked.put(0, 2)
            mark.restore()
            mark.advance()
            assert marked.do("1") == 1
            os.kill(marked.target.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, marked.target.pid, os.WSTOPPED)
            mark.restore()
            with open(f"/proc/{marked.target.pid}/stat") as file:
                assert file.read().rpartition(")")[2].split()[0] == "T"
            os.kill(marked.target.pid, signal.SIGCONT)


class TestMappingsThatChange:
    def test_a_new_one_is_left_as_it_is_until_the_mark_advances(self, marked):
        new: list[int] = []

        def area(mapping: Mapping) -> bool:
            return marked.area(mapping) or (bool(new) and mapping.start <= new[0] < mapping.end)

        with pagescan.mark(marked.tracker, mappings=area) as mark:
            new.append(marked.target.area(4))
            span = Regions.span(new[0], new[0] + 4 * PAGE, page_size=PAGE)
            marked.put(2, 5)
            assert mark.restore() == PAGE
            assert marked.tracker.read(span)[0] == 1
            assert mark.advance() == 4 * PAGE
            marked.do(f"put({new[0]}, 0, 7)")
            assert mark.restore() == PAGE
            assert marked.tracker.read(span)[0] == 1

    def test_one_replaced_at_the_same_place_is_put_back_in_full(self, marked):
        with pagescan.mark(marked.tracker, mappings=marked.area) as mark:
            marked.do(f"new(4, at={marked.at} + 2 * PAGE)")
            assert marked.look() == [1, 1, 0, 0, 0, 0, *ONES[6:]]
            assert mark.restore() >= 4 * PAGE
            assert marked.look() == ONES
            marked.put(3, 4)
            assert mark.restore() == PAGE

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ("libc.munmap({at} + 4 * PAGE, PAGE)", "is no longer mapped"),
            ("libc.mprotect({at} + 4 * PAGE, PAGE, 1)", "is now .* r--p"),
            ("new(1, at={at} + 4 * PAGE, flags=0x21)", "is now .* rw-s"),
        ],
    )
    def test_one_that_cannot_be_put_back_is_an_error_and_nothing_is_written(self, marked, change, why):
        with pagescan.mark(marked.tracker, mappings=marked.area) as mark:
            marked.put(0, 7)
            marked.do(change.format(at=marked.at))
            with pytest.raises(CoverageLost, match=f"(?s){why}.*nothing was changed") as raised:
                mark.restore()
            assert (raised.value.start, raised.value.end) == (marked.at + 4 * PAGE, marked.at + 5 * PAGE)
            assert marked.do(f"ctypes.string_at({marked.at}, 1)[0]") == 7
            marked.do(f"new(1, at={marked.at} + 4 * PAGE)")
            assert mark.restore() >= 2 * PAGE  # it is all due still
            assert marked.look() == ONES

    def test_advancing_drops_what_is_gone(self, marked):
        with pagescan.mark(marked.tracker, mappings=marked.area) as mark:
            marked.put(0, 7)
            marked.put(15, 7)
            marked.do(f"libc.munmap({marked.at} + 4 * PAGE, PAGE)")
            assert mark.advance() == 2 * PAGE
            assert mark.nbytes == 15 * PAGE
            marked.put(0, 8)
            marked.put(15, 8)
            assert mark.restore() == 2 * PAGE
            ends = Regions.from_pages([marked.at, marked.at + 15 * PAGE], page_size=PAGE)
            assert marked.tracker.read(ends)[::PAGE].tolist() == [7, 7]


class TestEnds:
    def test_another_program(self, marked):
        with pagescan.mark(marked.tracker, mappings=marked.area) as mark:
            marked.target.stdin.write(f"os.execv({sys.executable!r}, ['python', '-c', {TARGET!r}])\n")
            marked.target.stdin.flush()
            assert marked.target.stdout.readline() == "ready\n"
            with pytest.raises(CoverageLost, match="executed another program"):
                mark.restore()
            assert marked.do("6 * 7") == 42

    def test_its_exit(self, marked):
        with pagescan.mark(marked.tracker, mappings=marked.area) as mark:
            marked.target.end()
            with pytest.raises(NoSuchProcess):
                mark.restore()

    def test_closed(self, marked):
        mark = pagescan.mark(marked.tracker, mappings=marked.area)
        mark.close()
        for ask in (mark.restore, mark.advance):
            with pytest.raises(Closed):
                ask()
        assert "closed" in repr(mark)
        assert not marked.tracker.closed
        mark = pagescan.mark(marked.tracker, mappings=marked.area)
        marked.tracker.detach()
        with pytest.raises(Closed):
            mark.restore()

    def test_one_process_alone(self, marked):
        with pytest.raises(InvalidArgument, match="one process"):
            pagescan.mark(marked.tracker, bytearray(5))
