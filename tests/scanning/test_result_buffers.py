"""An answer never changes, whatever is asked later and whoever still reads it; yet buffers are used again."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pagescan import Category, PreparedScan, Regions, pagemap_scan, prepare_scan
from pagescan.query import ALL_CATEGORIES
from pagescan.records import REGION_DTYPE
from pagescan.scanning.result_buffers import ResultBuffer

PAGE = 4096
ROOM = 4096
#: Counts on either side of what is copied rather than left in its buffer, and of none.
COUNTS = (0, 1, 5, 512, 513, 2000)
SHORT, LONG = 5, 2000


class Numbered:
    """A pagemap whose kernel writes other regions each time: the n-th call's begin at page 100,000 n."""

    known = ALL_CATEGORIES

    def __init__(self) -> None:
        self.space = self
        self.page_size = PAGE
        self.label = "a numbered kernel"
        self.prepared_scans = None
        self.count = 1
        self.calls = 0

    def mappings(self) -> list[Any]:
        return []

    def mapping_at(self, address: int) -> None:
        return None

    def bind(self, argument: bytearray, vec: np.ndarray) -> Callable[[], int]:
        words = memoryview(argument).cast("Q")

        def call() -> int:
            end, address, count = words[3], words[5], self.count
            self.calls += 1
            first = starts(self.calls, count)
            room: Any = (ctypes.c_char * (count * REGION_DTYPE.itemsize)).from_address(address)
            found = np.frombuffer(room, REGION_DTYPE)
            found["start"], found["end"], found["categories"] = first, first + np.uint64(PAGE), int(Category.PRESENT)
            words[4] = end  # walk_end
            return count

        return call


def starts(call: int, count: int) -> np.ndarray:
    """Where the regions of a call begin; no two touch."""
    return (np.uint64(call * 100_000) + np.arange(0, 2 * count, 2, dtype=np.uint64)) * np.uint64(PAGE)


def prepared(kernel: Numbered, **how: Any) -> PreparedScan:
    found: Any = kernel
    return prepare_scan(found, 0, 1 << 40, vec_len=ROOM, return_mask=Category.PRESENT, **how)


def buffers(scan: PreparedScan) -> list[ResultBuffer]:
    return scan._buffers


class Answers(RuleBasedStateMachine):
    """Scans, walks and runs in any order, whose answers, arrays and views are held for any time."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = Numbered()
        self.scan = prepared(self.kernel)
        #: What is held, how to read it, and what it has to say.
        self.held: list[tuple[Any, Callable[[Any], Any], list[int]]] = []

    def hold(self, what: Any, read: Callable[[Any], Any], count: int) -> None:
        self.held.append((what, read, starts(self.kernel.calls, count).tolist()))

    @rule(count=st.sampled_from(COUNTS))
    def keep_a_scan(self, count: int) -> None:
        self.kernel.count = count
        self.hold(self.scan.scan(), lambda scan: scan.regions["start"], count)

    @rule(count=st.sampled_from(COUNTS))
    def keep_a_scan_of_a_pagemap(self, count: int) -> None:
        self.kernel.count = count
        kernel: Any = self.kernel
        scan = pagemap_scan(kernel, 0, 1 << 40, vec_len=ROOM, return_mask=Category.PRESENT)
        self.hold(scan, lambda scan: scan.to_regions().starts, count)

    @rule(count=st.sampled_from(COUNTS))
    def keep_a_walk(self, count: int) -> None:
        self.kernel.count = count
        self.hold(self.scan.walk(0, 1 << 40), lambda regions: regions.starts, count)

    @rule(count=st.sampled_from(COUNTS))
    def keep_the_array_alone(self, count: int) -> None:
        self.kernel.count = count
        self.hold(self.scan.scan().regions, lambda array: array["start"], count)

    @rule(count=st.sampled_from(COUNTS))
    def keep_a_view_of_the_array(self, count: int) -> None:
        self.kernel.count = count
        self.hold(self.scan.scan().regions["start"][::2], lambda view: view, count)
        what, read, expected = self.held.pop()
        self.held.append((what, read, expected[::2]))

    @rule(count=st.sampled_from(COUNTS))
    def keep_a_memoryview(self, count: int) -> None:
        self.kernel.count = count
        view = self.scan.scan().regions.view(np.uint8).data
        self.hold(view, lambda view: np.frombuffer(view, REGION_DTYPE)["start"] if count else [], count)

    @rule(count=st.sampled_from(COUNTS), deep=st.booleans())
    def keep_a_copy(self, count: int, deep: bool) -> None:
        self.kernel.count = count
        scan = self.scan.scan()
        self.hold(copy.deepcopy(scan) if deep else copy.copy(scan), lambda scan: scan.regions["start"], count)

    @rule(count=st.sampled_from(COUNTS))
    def keep_nothing(self, count: int) -> None:
        self.kernel.count = count
        assert len(self.scan.scan().regions) == count

    @rule(count=st.sampled_from(COUNTS))
    def run(self, count: int) -> None:
        self.kernel.count = count
        assert self.scan.run() == count
        assert self.scan.regions["start"].tolist() == starts(self.kernel.calls, count).tolist()

    @precondition(lambda self: self.held)
    @rule(at=st.integers(0, 1 << 16))
    def drop(self, at: int) -> None:
        del self.held[at % len(self.held)]

    @invariant()
    def all_that_is_held_says_what_it_said(self) -> None:
        for what, read, expected in self.held:
            assert np.asarray(read(what)).tolist() == expected


TestAnswers = Answers.TestCase
TestAnswers.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.fixture
def kernel() -> Numbered:
    return Numbered()


class TestBuffersAreUsedAgain:
    @pytest.mark.parametrize("count", COUNTS)
    def test_one_is_enough_if_nothing_is_held(self, kernel, count):
        scan = prepared(kernel)
        kernel.count = count
        for _ in range(10):
            assert scan.scan().count == count
        assert len(buffers(scan)) == 1

    @pytest.mark.parametrize("count", [0, LONG])
    def test_the_same_answer_is_used_again(self, kernel, count):
        """Which is why a look costs no more than it does."""
        scan = prepared(kernel)
        kernel.count = count
        scan.scan()
        scan.scan()
        before = id(scan.scan())
        assert id(scan.scan()) == before

    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("looked_at", [False, True])
    def test_two_are_enough_if_the_last_answer_is_held(self, kernel, count, looked_at):
        scan = prepared(kernel)
        kernel.count = count
        last = None
        for _ in range(10):
            last = scan.scan()
            if looked_at:
                assert len(last.regions) == count
        assert len(buffers(scan)) <= 2

    def test_short_answers_that_are_kept_do_not_keep_buffers(self, kernel):
        scan = prepared(kernel)
        kernel.count = SHORT
        kept = [scan.scan() for _ in range(50)]
        arrays = [scan.scan().regions for _ in range(50)]
        assert len(buffers(scan)) == 1
        assert [each.regions["start"][0] // PAGE for each in kept] == [100_000 * call for call in range(1, 51)]
        assert [each["start"][0] // PAGE for each in arrays] == [100_000 * call for call in range(51, 101)]
        assert not any(np.shares_memory(each, buffer.vec) for each in arrays for buffer in buffers(scan))

    def test_the_first_short_answer_does_not_keep_the_buffer(self, kernel):
        """A scan that is made for one look, and an answer that is kept."""
        kernel.count = SHORT
        scan = prepared(kernel)
        answer = scan.scan()
        assert not np.shares_memory(answer.regions, buffers(scan)[0].vec)

    def test_long_answers_that_are_kept_keep_theirs_until_they_go(self, kernel):
        scan = prepared(kernel)
        kernel.count = LONG
        kept = [scan.scan() for _ in range(5)]
        assert len(buffers(scan)) == 5
        assert all(np.shares_memory(each.regions, buffer.vec) for each, buffer in zip(kept, buffers(scan), strict=True))
        del kept
        gc.collect()
        for _ in range(10):
            scan.scan()
        assert len(buffers(scan)) == 5

    def test_buffers_do_not_pile_up(self, kernel):
        scan = prepared(kernel)
        kernel.count = LONG
        kept = [scan.scan() for _ in range(100)]
        assert len(buffers(scan)) <= 32
        for call, each in enumerate(kept, 1):
            assert each.regions["start"].tolist() == starts(call, LONG).tolist()

    def test_an_answer_under_a_trace_function_stays_as_well(self, kernel):
        """A debugger or a coverage tool refers to local variables, too."""
        scan, kept, before = prepared(kernel), [], sys.gettrace()

        def trace(frame: Any, event: str, argument: Any) -> Any:
            assert frame.f_locals is not None
            return trace

        sys.settrace(trace)
        try:
            for count in (SHORT, LONG, SHORT, LONG, LONG):
                kernel.count = count
                kept.append(scan.scan())
        finally:
            sys.settrace(before)
        for call, answer in enumerate(kept, 1):
            assert answer.regions["start"].tolist() == starts(call, answer.count).tolist()


class TestThreads:
    def test_answers_are_read_while_another_thread_asks(self, kernel):
        scan, wrong, interval = prepared(kernel), [], sys.getswitchinterval()
        offered: list[tuple[Any, int, int]] = []
        more, done = threading.Semaphore(0), threading.Semaphore(0)

        def read() -> None:
            while True:
                more.acquire()
                if not offered:
                    return
                answer, call, count = offered.pop()
                if answer.regions["start"].tolist() != starts(call, count).tolist():
                    wrong.append(call)
                del answer
                done.release()

        threads = [threading.Thread(target=read) for _ in range(2)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for at in range(600):
                kernel.count = count = (SHORT, LONG, 512)[at % 3]
                answer = scan.scan()
                offered += [(answer, kernel.calls, count)] * 2
                del answer
                more.release(2)
                scan.scan()
                scan.run()
                for _ in range(2):
                    done.acquire()
        finally:
            sys.setswitchinterval(interval)
            offered.clear()
            more.release(2)
            for thread in threads:
                thread.join()
        assert not wrong

    def test_threads_that_ask_the_same_at_the_same_time_do_not_share_a_buffer(self, kernel):
        found: Any = kernel
        kernel.count, mixed, interval = LONG, [], sys.getswitchinterval()

        def ask() -> None:
            for _ in range(200):
                before = kernel.calls
                scan = pagemap_scan(found, 0, 1 << 40, vec_len=ROOM, return_mask=Category.PRESENT)
                first = scan.regions["start"]
                stale = first[0] <= starts(before, 1)[0]
                if stale or np.any(first - first[0] != starts(0, LONG)) or np.any(scan.regions["end"] - first != PAGE):
                    mixed.append(first.copy())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert not mixed


def test_a_scan_can_be_pickled(kernel):
    kernel.count = SHORT
    scan = prepared(kernel).scan()
    again = pickle.loads(pickle.dumps(scan))
    assert np.array_equal(again.regions, scan.regions)
    assert (again.walk_end, again.complete, again.unknown) == (scan.walk_end, scan.complete, scan.unknown)
    assert again.to_regions() == scan.to_regions()
    assert isinstance(again.to_regions(), Regions)
