"""``changed()``: true if something is due, and equal to an earlier answer only if nothing was written in between."""

from __future__ import annotations

import copy
import functools
import mmap
import pickle

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import pagescan
from pagescan import Changed, Closed, CoverageLost, NoSuchProcess
from pagescan.model import Machine
from tests.conformance.kernel_memory import array_at, libc, raw_mmap

from .test_process_tracker import target as target
from .test_process_tracker import tracked as tracked

PAGE = mmap.PAGESIZE
PAGES = 8


@pytest.fixture
def array() -> np.ndarray:
    made = pagescan.zeros(PAGES * PAGE, np.uint8)
    made[:] = 1
    return made


class TestAsABool:
    def test_it_says_whether_anything_is_due(self, array):
        with pagescan.track(array) as tracker:
            assert not tracker.changed()
            array[0] = 2
            assert tracker.changed()
            assert tracker.changed()
            tracker.take()
            assert not tracker.changed()

    def test_it_equals_a_bool_of_its_value(self, array):
        with pagescan.track(array) as tracker:
            assert tracker.changed() == False  # noqa: E712 - that this is so is what is tested
            assert tracker.changed() != True  # noqa: E712
            array[0] = 2
            assert tracker.changed() == True  # noqa: E712
            assert tracker.changed().written is True

    def test_it_equals_nothing_else(self, array):
        with pagescan.track(array) as tracker:
            assert tracker.changed() != 0
            assert tracker.changed() != "x"


class TestAsAKey:
    def test_it_is_equal_while_nothing_is_written(self, array):
        with pagescan.track(array) as tracker:
            first, second = tracker.changed(), tracker.changed()
            assert first == second
            assert hash(first) == hash(second)

    def test_a_second_write_to_a_written_page_makes_it_unequal(self, array):
        """A look that changes nothing would find the page written both times."""
        with pagescan.track(array) as tracker:
            array[0] = 2
            first = tracker.changed()
            array[0] = 3
            assert tracker.changed() != first
            assert tracker.changed() == tracker.changed()

    def test_taking_is_not_writing(self, array):
        with pagescan.track(array) as tracker:
            array[0] = 2
            before = tracker.changed()
            tracker.take()
            after = tracker.changed()
            assert before == after
            assert (bool(before), bool(after)) == (True, False)

    @pytest.mark.parametrize("who", ["tracker", "cursor", "another tracker"])
    def test_a_write_that_somebody_took_in_between_makes_it_unequal(self, array, who):
        with pagescan.track(array) as tracker, pagescan.track(array) as another:
            cursor = tracker.cursor()
            before = tracker.changed()
            array[3 * PAGE] = 2
            {"tracker": tracker, "cursor": cursor, "another tracker": another}[who].take()
            assert tracker.changed() != before

    def test_a_write_that_becomes_covered_anew_in_between_makes_it_unequal(self, array):
        with pagescan.track(array) as tracker:
            before = tracker.changed()
            array[0] = 2
            with pagescan.track(array[: 2 * PAGE]):
                assert tracker.changed() != before

    def test_what_a_failed_body_gave_back_was_not_written(self, array):
        with pagescan.track(array) as tracker:
            array[0] = 2
            before = tracker.changed()
            with pytest.raises(ConnectionError), tracker.taking():
                raise ConnectionError
            assert tracker.changed() == before
            assert tracker.changed()

    def test_what_is_due_stays_due(self, array):
        with pagescan.track(array) as tracker:
            cursor = tracker.cursor()
            array[PAGE] = 2
            tracker.changed()
            array[5 * PAGE] = 2
            tracker.changed()
            expected = [slice(PAGE, 2 * PAGE), slice(5 * PAGE, 6 * PAGE)]
            assert tracker.peek().slices(array) == expected
            assert tracker.take().slices(array) == cursor.take().slices(array) == expected
            assert len(tracker.take()) == 0

    def test_readers_do_not_share_keys(self, array):
        with pagescan.track(array) as tracker, pagescan.track(array) as another:
            cursor = tracker.cursor()
            assert len({tracker.changed(), cursor.changed(), another.changed()}) == 3
        with pagescan.track(array) as later:
            assert later.changed() != tracker_key(array)

    def test_copied_it_stays_itself(self, array):
        with pagescan.track(array) as tracker:
            key = tracker.changed()
            assert key == copy.deepcopy(key) == pickle.loads(pickle.dumps(key)) == tracker.changed()

    def test_it_keys_a_cache(self, array):
        calls = []
        with pagescan.track(array) as tracker:

            @functools.lru_cache(maxsize=1)
            def total(key: Changed) -> int:
                calls.append(key)
                return int(array.sum())

            assert total(tracker.changed()) == total(tracker.changed()) == array.size
            array[7] += 3
            assert total(tracker.changed()) == array.size + 3
            array[7] += 3
            assert total(tracker.changed()) == total(tracker.changed()) == array.size + 6
        assert len(calls) == 3


def tracker_key(array: np.ndarray) -> Changed:
    with pagescan.track(array) as tracker:
        return tracker.changed()


@pytest.mark.parametrize("engine", ["auto", "compare"])
class TestLoss:
    def test_lost_coverage_raises(self, engine):
        at = raw_mmap(4 * PAGE, 0x22)
        with pagescan.track(array_at(at, 4 * PAGE), engine=engine) as tracker:
            libc.munmap(at, 4 * PAGE)
            with pytest.raises(CoverageLost):
                tracker.changed()

    def test_reported_it_is_true_and_never_equal(self, array, engine):
        at = raw_mmap(4 * PAGE, 0x22)
        with pagescan.track(array, array_at(at, 4 * PAGE), engine=engine, on_lost="report") as tracker:
            keys = [tracker.changed()]
            libc.munmap(at, 4 * PAGE)
            keys += [tracker.changed(), tracker.changed()]
            tracker.take()
            keys.append(tracker.changed())
            assert len(set(keys)) == 4
            assert [bool(key) for key in keys] == [False, True, True, True]


class TestClosed:
    def test_a_closed_tracker(self, array):
        tracker = pagescan.track(array)
        tracker.close()
        with pytest.raises(Closed):
            tracker.changed()


class TestAnotherProcess:
    def test_it_is_equal_while_the_process_writes_nothing_more(self, tracked):
        target, tracker, at = tracked
        target.process.send_signal(19)  # a Python program at rest still writes
        cursor = tracker.cursor()
        wait_until_stopped(target.pid)
        tracker.take()
        key = tracker.changed()
        assert not key
        cursor.take()
        assert tracker.changed() == key
        target.process.send_signal(18)
        target.do(f"put({at}, 3)")
        assert tracker.changed()
        written = tracker.changed()
        assert written != key
        target.do(f"put({at}, 3)")
        assert tracker.changed() != written
        assert at + 3 * PAGE in tracker.take()

    def test_memory_that_went_makes_it_unequal(self, tracked):
        target, tracker, _ = tracked
        at = target.area(4)
        tracker.take()
        key = tracker.changed()
        target.do(f"libc.munmap({at}, {4 * PAGE})")
        assert tracker.changed() != key

    def test_after_its_end_there_is_no_answer_and_the_last_pages_stay_due(self, tracked):
        target, tracker, at = tracked
        target.do(f"put({at}, 3)")
        tracker.changed()
        target.end()
        for _ in range(2):
            with pytest.raises(NoSuchProcess):
                tracker.changed()
        assert at + 3 * PAGE in tracker.take()


def wait_until_stopped(pid: int) -> None:
    from pagescan.kernel.procfs import read_stat

    while read_stat(pid).state != "T":
        pass


class Keys(RuleBasedStateMachine):
    """Random writes, takes and keys of several readers, on the kernel and on the model.

    What is known: how many writes there were when each key was made, and what is due to each reader.
    """

    engine = "auto"

    def memory(self):
        """The buffer, and a function that changes a byte of one of its pages."""
        array = pagescan.zeros(PAGES * PAGE, np.uint8)
        array[:] = 1

        def write(page):
            array[page * PAGE] += 1

        return array, write

    @initialize()
    def begin(self):
        self.buffer, self.write_page = self.memory()
        self.tracker = pagescan.track(self.buffer, engine=self.engine)
        self.readers: list[pagescan.Cursor] = [self.tracker]
        self.due: list[set[int]] = [set()]
        self.keys: list[list[tuple[int, Changed]]] = [[]]
        self.writes = 0

    @rule(page=st.integers(0, PAGES - 1))
    def write(self, page):
        self.write_page(page)
        self.writes += 1
        for due in self.due:
            due.add(page)

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def new_reader(self):
        self.readers.append(self.tracker.cursor())
        self.due.append(set())
        self.keys.append([])

    @rule(data=st.data(), fail=st.booleans())
    def take(self, data, fail):
        who = data.draw(st.integers(0, len(self.readers) - 1))
        try:
            with self.readers[who].taking() as written:
                assert self.numbers(written) == self.due[who]
                if fail:
                    raise ConnectionError
        except ConnectionError:
            return
        self.due[who].clear()

    @rule(data=st.data())
    def ask(self, data):
        who = data.draw(st.integers(0, len(self.readers) - 1))
        key = self.readers[who].changed()
        assert bool(key) == bool(self.due[who])
        for writes, earlier in self.keys[who]:
            assert (key == earlier) == (writes == self.writes)
        self.keys[who].append((self.writes, key))

    @invariant()
    def peeks_agree(self):
        for reader, due in zip(getattr(self, "readers", ()), getattr(self, "due", ()), strict=True):
            assert self.numbers(reader.peek()) == due

    def numbers(self, written) -> set[int]:
        base = pagescan.ranges.locate(self.buffer).address
        return {(int(page) - base) // written.page_size for page in written.pages().tolist()}

    def teardown(self):
        if hasattr(self, "tracker"):
            self.tracker.close()


class CompareKeys(Keys):
    engine = "compare"


class ModelKeys(Keys):
    engine = "model"

    def memory(self):
        process = Machine().process()
        at = process.mmap(PAGES * 4096)
        process.write(at, b"x" * PAGES * 4096)
        return process.buffer(at, PAGES * 4096), lambda page: process.write(at + page * 4096, b"y")


TestKeys = Keys.TestCase
TestCompareKeys = CompareKeys.TestCase
TestModelKeys = ModelKeys.TestCase
TestKeys.settings = TestCompareKeys.settings = TestModelKeys.settings = settings(
    max_examples=20, stateful_step_count=20
)
