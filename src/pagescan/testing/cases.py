"""The conformance suite: what every engine has to keep, whatever it is made of and whatever memory it is asked about.

::

    class TestMyEngine(pagescan.testing.TrackerCases):
        engine = "compare"

        @pytest.fixture
        def memory(self):
            return pagescan.testing.BufferMemory(pagescan.zeros(16 * 4096, "uint8"), unit=4096)

There is one oracle, a comparison of all the bytes, and one promise: a unit whose contents changed is in the answer. An
answer that names what nobody wrote to must say so by its quality.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..errors import Closed
from ..trackers.tracker import Cursor, Tracker, track
from ..trackers.written import Quality
from .oracle import Oracle
from .strategies import Step, histories

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..trackers.written import Written
    from .memory import TrackedMemory


class TrackerCases:
    """Subclass it with a fixture ``memory`` that gives a new :class:`.TrackedMemory` of four units or more.

    Attributes:
        engine: the engine that is asked for, as ``engine=``.
    """

    engine = "auto"

    @pytest.fixture
    def memory(self) -> Any:
        raise NotImplementedError("give the class a fixture `memory`")

    @contextlib.contextmanager
    def tracking(self, memory: TrackedMemory) -> Iterator[tuple[Tracker, Oracle]]:
        """The memory, tracked, and an oracle that begins at the same moment."""
        with track(memory.buffer, engine=self.engine) as tracker:
            yield tracker, Oracle(memory)

    # One write, one answer ------------------------------------------------------------------------------------------

    def test_it_is_the_engine_that_was_asked_for(self, memory: TrackedMemory) -> None:
        with track(memory.buffer, engine=self.engine) as tracker:
            assert self.engine in ("auto", tracker.engine)
            assert tracker.why

    def test_nothing_is_written_at_first(self, memory: TrackedMemory) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (tracker, oracle):
            oracle.check(tracker.take(), [])

    def test_untouched_memory_is_not_written(self, memory: TrackedMemory) -> None:
        with self.tracking(memory) as (tracker, oracle):
            oracle.check(tracker.take(), [])
            memory.write(2 * memory.unit, b"x")
            oracle.check(tracker.take(), [2])

    @pytest.mark.parametrize("at", ["first", "last"])
    def test_one_byte_is_one_unit_once(self, memory: TrackedMemory, at: str) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (tracker, oracle):
            memory.write(memory.unit + (0 if at == "first" else memory.unit - 1), b"\2")
            oracle.check(tracker.take(), [1])
            oracle.check(tracker.take(), [])

    def test_a_write_over_a_border_is_two_units(self, memory: TrackedMemory) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (tracker, oracle):
            memory.write(2 * memory.unit - 1, b"\2\2")
            oracle.check(tracker.take(), [1, 2])

    def test_reading_is_not_writing(self, memory: TrackedMemory) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (tracker, oracle):
            memory.read(0, memory.nbytes)
            oracle.check(tracker.take(), [])

    def test_every_unit_every_time(self, memory: TrackedMemory) -> None:
        everything = range(memory.nbytes // memory.unit)
        with self.tracking(memory) as (tracker, oracle):
            for value in range(1, 4):
                fill(memory, value)
                oracle.check(tracker.take(), everything)

    def test_slices_are_the_written_bytes(self, memory: TrackedMemory) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (tracker, _):
            memory.write(memory.unit, b"\2")
            written = tracker.take()
            wanted = slice(memory.unit, memory.unit + 1)
            assert any(part.start <= wanted.start < part.stop for part in written.slices(memory.buffer))
            if written.quality is Quality.EXACT:
                assert written.byte_count <= memory.unit

    def test_given_back_memory_is_named(self, memory: TrackedMemory) -> None:
        if not memory.droppable:
            pytest.skip("this memory cannot be given back")
        fill(memory, 1)
        with self.tracking(memory) as (tracker, oracle):
            memory.drop(memory.unit, memory.unit)
            oracle.check(tracker.take(), [1])
            memory.read(0, memory.nbytes)
            oracle.check(tracker.take(), [])
            memory.write(memory.unit, b"\3")
            oracle.check(tracker.take(), [1])

    # Looking without taking -----------------------------------------------------------------------------------------

    def test_peek_and_changed_leave_everything_due(self, memory: TrackedMemory) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (tracker, oracle):
            memory.write(memory.nbytes - 1, b"\2")
            last = memory.nbytes // memory.unit - 1
            assert last in oracle.named(tracker.peek())
            assert tracker.changed()
            assert last in oracle.named(tracker.peek())
            assert tracker.changed()
            oracle.check(tracker.take(), [last])

    def test_after_a_take_nothing_is_due(self, memory: TrackedMemory) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (tracker, _):
            memory.write(0, b"\2")
            tracker.take()
            assert not tracker.peek() or tracker.peek().quality is Quality.SUPERSET
            assert bool(tracker.changed()) <= bool(tracker.peek())

    # Several readers ------------------------------------------------------------------------------------------------

    def test_each_reader_has_its_own_since_last_asked(self, memory: TrackedMemory) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (tracker, first):
            memory.write(0, b"\2")
            cursor, second = tracker.cursor(), Oracle(memory)
            memory.write(memory.unit, b"\2")
            first.check(tracker.take(), [0, 1])
            memory.write(2 * memory.unit, b"\2")
            second.check(cursor.take(), [1, 2])
            first.check(tracker.take(), [2])
            second.check(cursor.take(), [])

    def test_trackers_of_the_same_memory_take_nothing_from_each_other(self, memory: TrackedMemory) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (left, first):
            memory.write(0, b"\2")
            with self.tracking(memory) as (right, second):
                memory.write(memory.unit, b"\2")
                second.check(right.take(), [1])
                memory.write(2 * memory.unit, b"\2")
                first.check(left.take(), [0, 1, 2])
                memory.write(3 * memory.unit, b"\2")
            first.check(left.take(), [3])

    # Transactions ---------------------------------------------------------------------------------------------------

    def test_a_transaction_that_succeeds_takes(self, memory: TrackedMemory) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (tracker, oracle):
            memory.write(0, b"\2")
            with tracker.taking() as written:
                oracle.check(written, [0])
            oracle.check(tracker.take(), [])

    def test_a_transaction_that_fails_leaves_everything_due(self, memory: TrackedMemory) -> None:
        fill(memory, 1)
        with self.tracking(memory) as (tracker, oracle):
            memory.write(0, b"\2")
            with pytest.raises(ConnectionError), tracker.taking() as written:
                oracle.check(written, [0], keep=True)
                memory.write(memory.unit, b"\2")
                raise ConnectionError
            assert tracker.changed()
            oracle.check(tracker.peek(), [0, 1], keep=True)
            oracle.check(tracker.take(), [0, 1])

    def test_a_closed_tracker_says_so(self, memory: TrackedMemory) -> None:
        with self.tracking(memory) as (tracker, _):
            cursor = tracker.cursor()
        for call in (tracker.take, tracker.peek, tracker.changed, cursor.take):
            with pytest.raises(Closed):
                call()

    # Whatever happens -----------------------------------------------------------------------------------------------

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_history(self, memory: TrackedMemory, data: st.DataObject) -> None:
        fill(memory, 0)
        steps = data.draw(histories(memory.nbytes // memory.unit, droppable=memory.droppable))
        with self.tracking(memory) as (tracker, oracle):
            run = History(memory, tracker, oracle)
            for step in steps:
                run.do(step)
            run.finish()

    def test_a_replica_that_copies_what_is_named_stays_equal(self, memory: TrackedMemory) -> None:
        random = np.random.default_rng(5)
        fill(memory, 1)
        replica = bytearray(memory.read(0, memory.nbytes))
        with self.tracking(memory) as (tracker, _):
            for _ in range(8):
                for _ in range(random.integers(6)):
                    length = int(random.integers(1, 2 * memory.unit))
                    offset = int(random.integers(memory.nbytes - length))
                    memory.write(offset, random.bytes(length))
                for part in tracker.take().slices(memory.buffer):
                    replica[part] = memory.read(part.start, part.stop - part.start)
                assert replica == memory.read(0, memory.nbytes)


def fill(memory: TrackedMemory, value: int) -> None:
    """Write this byte everywhere."""
    memory.write(0, bytes([value]) * memory.nbytes)


class _Reader:
    """A cursor, what it has to name, and what it may name."""

    def __init__(self, cursor: Cursor, oracle: Oracle):
        self.cursor, self.oracle = cursor, oracle
        self.touched: set[int] = set()

    def check(self, written: Written, *, keep: bool) -> None:
        self.oracle.check(written, self.touched, keep=keep)
        if not keep:
            self.touched.clear()


class History:
    """Carries out steps, and checks every answer against the oracle of the reader that asked."""

    def __init__(self, memory: TrackedMemory, tracker: Tracker, oracle: Oracle):
        self._memory, self._tracker = memory, tracker
        self._readers = [_Reader(tracker, oracle)]

    def do(self, step: Step) -> None:
        """One step."""
        reader = self._readers[step.reader % len(self._readers)]
        offset, length = step.first * self._memory.unit, step.count * self._memory.unit
        match step.what:
            case "write":
                self._memory.write(offset + 1, bytes([step.value]) * (length - 1))
                self._touch(step)
            case "read":
                self._memory.read(offset, length)
            case "drop":
                self._memory.drop(offset, length)
                self._touch(step)
            case "cursor":
                self._readers.append(_Reader(self._tracker.cursor(), Oracle(self._memory)))
            case "changed":
                assert reader.cursor.changed() or not reader.oracle.changed()
            case "peek":
                reader.check(reader.cursor.peek(), keep=True)
            case "take":
                reader.check(reader.cursor.take(), keep=False)
            case "fail":
                with contextlib.suppress(ConnectionError), reader.cursor.taking() as written:
                    reader.check(written, keep=True)
                    raise ConnectionError

    def _touch(self, step: Step) -> None:
        for reader in self._readers:
            reader.touched |= set(range(step.first, step.first + step.count))

    def finish(self) -> None:
        """Every reader takes once more, and then has nothing due."""
        for reader in self._readers:
            reader.check(reader.cursor.take(), keep=False)
            reader.check(reader.cursor.take(), keep=False)
