"""``hot="exempt"``: what is written to in every interval costs its writer nothing, and nothing is ever missed."""

from __future__ import annotations

import mmap
import resource
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import pagescan
from pagescan import InvalidArgument, Quality, Regions
from pagescan.model import KERNEL_BUGS, Machine
from pagescan.trackers.hot import ANSWERS, BLOCK_PAGES, HOT_ANSWERS, INTERVALS, RUN_BLOCKS, HotPages
from tests.conformance.kernel_memory import libc
from tests.conformance.model_memory import BEHAVIOURS

PAGE = mmap.PAGESIZE
BLOCK = BLOCK_PAGES * PAGE
PAGES = 8 * BLOCK_PAGES


@pytest.fixture
def array() -> np.ndarray:
    """Eight blocks and their pages, (page, byte)."""
    memory = pagescan.zeros(2 * PAGES * PAGE, np.uint8)
    skip = -memory.ctypes.data % BLOCK
    part = memory[skip : skip + PAGES * PAGE]
    part[:] = 1
    return part.reshape(PAGES, PAGE)


def rewrite(array: np.ndarray) -> int:
    """Write to every page; returns the page faults that took."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    array[:, 0] += 1
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def heat(tracker: Any, array: np.ndarray, answers: int = ANSWERS) -> pagescan.Written:
    """So many intervals in which all of it is written to; the last answer."""
    for _ in range(answers):
        rewrite(array)
        written = tracker.take()
    return written


class TestOneReader:
    def test_hot_memory_costs_its_writer_no_faults_and_is_named(self, array):
        with pagescan.track(array, hot="exempt") as tracker:
            for _ in range(ANSWERS):
                assert rewrite(array) >= PAGES
                answer = tracker.take()
                assert (answer.quality, answer.page_count) == (Quality.EXACT, PAGES)
            for _ in range(INTERVALS[0] - 1):
                assert rewrite(array) < PAGES // 8
                answer = tracker.take()
                assert answer.page_count == answer.exempted.page_count == PAGES
                assert (answer.quality, answer.reason) == (
                    Quality.SUPERSET,
                    f"{PAGES} hot pages left unprotected and always named",
                )

    def test_probes_come_at_growing_intervals(self, array):
        with pagescan.track(array, hot="exempt") as tracker:
            probes = []
            for look in range(ANSWERS + sum(INTERVALS) + INTERVALS[-1] + 10):
                if rewrite(array) >= PAGES:
                    probes.append(look)
                assert tracker.take().page_count == PAGES
        gaps = np.diff(probes[ANSWERS - 1 :]).tolist()
        assert gaps == [interval + 1 for interval in (*INTERVALS, INTERVALS[-1])]

    @pytest.mark.parametrize("hot_for", [ANSWERS, 100, 300])
    def test_memory_that_cools_is_exact_again_after_a_bounded_number_of_takes(self, array, hot_for):
        with pagescan.track(array, hot="exempt") as tracker:
            heat(tracker, array, hot_for)
            answers = [tracker.take() for _ in range(INTERVALS[-1] + 1)]
            named = [answer.page_count for answer in answers]
            cooled = named.index(0)
            # Never longer than it had been hot, too.
            assert cooled <= min(INTERVALS[-1], hot_for)
            assert not any(named[cooled:])
            assert {answer.quality for answer in answers[:cooled]} == {Quality.SUPERSET}
            array[70, 0] = 3
            answer = tracker.take()
            assert answer.slices(array) == [slice(70 * PAGE, 71 * PAGE)]
            assert answer.quality is Quality.EXACT

    def test_what_is_written_to_seldom_is_exact_beside_what_is_hot(self, array):
        hot, cold = array[: PAGES // 2], array[PAGES // 2 :]
        with pagescan.track(array, hot="exempt") as tracker:
            heat(tracker, hot)
            for page in range(10):
                rewrite(hot)
                cold[page, 0] += 1
                answer = tracker.take()
                assert answer.slices(cold) == [slice(page * PAGE, (page + 1) * PAGE)]
                assert answer.slices(hot) == [slice(0, hot.size)]
                assert not answer.exempted.within(cold)

    def test_nothing_is_exempted_that_is_not_hot_in_nearly_every_answer(self, array):
        with pagescan.track(array, hot="exempt") as tracker:
            for look in range(6 * ANSWERS):
                if look % (ANSWERS - HOT_ANSWERS + 2):
                    rewrite(array)
                assert tracker.take().quality is Quality.EXACT

    def test_one_cold_answer_in_eight_is_forgiven(self, array):
        with pagescan.track(array, hot="exempt") as tracker:
            heat(tracker, array, 4)
            assert not tracker.take()
            assert heat(tracker, array, 3).quality is Quality.EXACT
            assert heat(tracker, array, 1).quality is Quality.SUPERSET

    def test_short_runs_and_pages_here_and_there_stay_protected(self, array):
        hot = array[3 * BLOCK_PAGES : (3 + RUN_BLOCKS) * BLOCK_PAGES - 1]
        with pagescan.track(array, hot="exempt") as tracker:
            for _ in range(3 * ANSWERS):
                rewrite(hot)
                array[::5, 0] += 1
                assert tracker.take().quality is Quality.EXACT

    def test_peek_and_changed_name_it_too(self, array):
        with pagescan.track(array, hot="exempt") as tracker:
            heat(tracker, array)
            assert tracker.peek().page_count == PAGES
            assert tracker.peek().quality is Quality.SUPERSET
            first, second = tracker.changed(), tracker.changed()
            assert first
            assert first != second

    def test_an_answer_given_back_is_due_again_and_as_unsure(self, array):
        with pagescan.track(array, hot="exempt") as tracker:
            heat(tracker, array, ANSWERS + INTERVALS[0] - 1)
            with pytest.raises(ZeroDivisionError), tracker.taking() as written:
                1 / (written.quality is not Quality.SUPERSET)
            answer = tracker.take()
            assert (answer.page_count, answer.quality) == (PAGES, Quality.SUPERSET)
            assert not tracker.take()

    def test_memory_unmapped_is_noticed_when_it_is_probed(self, array):
        with pagescan.track(array, hot="exempt", on_lost="report") as tracker:
            heat(tracker, array)
            at = array.ctypes.data
            libc.munmap(at, 2 * PAGE)
            for _ in range(INTERVALS[0] + 1):
                assert tracker.take().page_count == PAGES
            assert tracker.take().quality is Quality.LOST

    def test_a_word_that_is_neither(self, array):
        with pytest.raises(InvalidArgument, match="hot = 'yes'"):
            pagescan.track(array, hot="yes")  # type: ignore[arg-type]


class TestNothingIsMissed:
    @pytest.mark.parametrize("engine", ["pagemap-scan", "pagemap-read", "compare"])
    def test_contents_that_return_to_what_they_were(self, array, engine):
        """Who compares would call them unchanged; but the answers before had named other contents."""
        with pagescan.track(array, engine=engine, hot="exempt") as tracker:
            heat(tracker, array)
            replica = array.copy()
            for step in range(2 * INTERVALS[0]):
                array[:] = 77 if step == 3 else replica if step < 3 else array
                if step == 5:
                    array[:] = 8
                for part in tracker.take().slices(array):
                    replica.reshape(-1)[part] = array.reshape(-1)[part]
                assert np.array_equal(replica, array)
            assert not tracker.take()

    def test_no_update_is_lost_under_writers(self, array):
        """Copy what each take names while threads write, now to everything and now here and there."""
        replica = array.copy()
        stop, hot, wrote = threading.Event(), threading.Event(), threading.Event()

        def write(seed: int) -> None:
            random = np.random.default_rng(seed)
            while not stop.is_set():
                first = 0 if hot.is_set() else int(random.integers(PAGES))
                array[first : PAGES if hot.is_set() else first + 1, seed] += 1
                wrote.set()

        def copy(written: pagescan.Written) -> int:
            for part in written.slices(array):
                replica.reshape(-1)[part] = array.reshape(-1)[part]
            return written.exempted.page_count

        writers = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
        exempted = []
        with pagescan.track(array, hot="exempt") as tracker:
            for writer in writers:
                writer.start()
            for look in range(90):
                (hot.clear if look % 50 > 30 else hot.set)()
                for _ in range(2):
                    wrote.clear()
                    wrote.wait(5)
                exempted.append(copy(tracker.take()))
            stop.set()
            for writer in writers:
                writer.join()
            copy(tracker.take())
        assert np.array_equal(replica, array)
        assert max(exempted) > 0
        assert min(exempted[31:50]) == 0


class TestSeveralReaders:
    def test_another_tracker_of_the_same_memory_is_exact(self, array):
        with pagescan.track(array, hot="exempt") as tracker:
            heat(tracker, array)
            with pagescan.track(array[:20]) as other:
                array[3, 0] += 1
                answer = other.take()
                assert (answer.page_count, answer.quality) == (1, Quality.EXACT)
                answer = tracker.take()
                assert answer.page_count == PAGES
                assert answer.quality is Quality.SUPERSET
                for _ in range(3 * ANSWERS):
                    rewrite(array)
                    assert other.take().quality is Quality.EXACT
                    answer = tracker.take()
                    assert not answer.exempted.within(array[: 2 * BLOCK_PAGES])
            assert heat(tracker, array, 3).quality is Quality.SUPERSET
            rewrite(array)
            assert tracker.take().exempted.page_count == PAGES

    def test_cursors_that_take_in_turn_agree(self, array):
        with pagescan.track(array, hot="exempt") as tracker:
            cursor = tracker.cursor()
            faults = []
            for _ in range(3 * ANSWERS):
                faults.append(rewrite(array))
                assert tracker.take().page_count == PAGES
                assert cursor.take().page_count == PAGES
            assert sum(count >= PAGES for count in faults) < ANSWERS + 4

    def test_one_that_sees_it_cold_half_the_time_objects(self, array):
        with pagescan.track(array, hot="exempt") as tracker:
            often = tracker.cursor()
            for _ in range(3 * ANSWERS):
                rewrite(array)
                for expected in (PAGES, 0):
                    answer = often.take()
                    assert (answer.page_count, answer.quality) == (expected, Quality.EXACT)
                assert tracker.take().quality is Quality.EXACT

    def test_one_that_never_takes_does_not(self, array):
        with pagescan.track(array, hot="exempt") as tracker:
            cursor = tracker.cursor()
            heat(cursor, array)
            assert heat(cursor, array, 1).quality is Quality.SUPERSET
            assert tracker.take().page_count == PAGES


class TestHotPages:
    """The policy by itself."""

    def test_blocks_are_whole_and_of_one_range(self):
        pages = Regions.from_pairs([(PAGE, 6 * BLOCK), (6 * BLOCK + PAGE, 12 * BLOCK - PAGE)], page_size=PAGE)
        hot = HotPages(pages)
        reader = Reader()
        for _ in range(ANSWERS):
            hot.begin()
            hot.exempt_those_in(hot.candidates(reader) & pages)
            hot.done()
            hot.note(reader, pages)
        assert [(r.start, r.end) for r in hot.exempt] == [(BLOCK, 6 * BLOCK), (7 * BLOCK, 11 * BLOCK)]

    def test_pages_come_and_go_and_what_is_known_of_the_others_stays(self):
        blocks = Regions.span(0, 12 * BLOCK, page_size=PAGE)
        hot = HotPages(blocks)
        reader = Reader()

        def look(pages: Regions) -> None:
            hot.begin()
            hot.exempt_those_in(hot.candidates(reader) & pages)
            hot.done()
            hot.note(reader, pages)

        for _ in range(ANSWERS - 1):
            look(blocks)
        hot.follow(moved := Regions.span(4 * BLOCK, 20 * BLOCK, page_size=PAGE))
        look(moved)
        assert [(r.start, r.end) for r in hot.exempt] == [(4 * BLOCK, 12 * BLOCK)]
        hot.follow(Regions.span(4 * BLOCK, 10 * BLOCK + PAGE, page_size=PAGE))
        assert [(r.start, r.end) for r in hot.exempt] == [(4 * BLOCK, 10 * BLOCK)]
        assert [(r.start, r.end) for r in hot.unprotected] == [(4 * BLOCK, 10 * BLOCK + PAGE)]
        hot.follow(Regions.empty(page_size=PAGE))
        assert not hot.exempt
        hot.follow(blocks)
        look(blocks)
        assert not hot.exempt

    def test_nothing_to_exempt(self):
        hot = HotPages(Regions.span(PAGE, BLOCK, page_size=PAGE))
        reader = Reader()
        for _ in range(2 * ANSWERS):
            hot.begin()
            assert not hot.candidates(reader)
            hot.note(reader, Regions.span(0, BLOCK, page_size=PAGE))
            hot.bar(Regions.span(0, BLOCK, page_size=PAGE))
        assert not hot.exempt


class Reader:
    """Something that can be referred to weakly."""


numbers = st.integers(0, PAGES - 1)


class HotReaders(RuleBasedStateMachine):
    """Trackers of both sorts on the same memory, with their cursors; what each is due is kept beside it."""

    @initialize(behaviour=st.sampled_from(BEHAVIOURS))
    def start(self, behaviour):
        self.process: Any = Machine(behaviour=behaviour, bugs=KERNEL_BUGS[behaviour]).process()
        self.at = self.process.mmap(PAGES * PAGE, kind="anonymous")
        #: Tracker, whether it exempts, the pages it covers, and each of its readers with what it is due.
        self.trackers: list[tuple[Any, bool, set[int], list[tuple[Any, set[int]]]]] = []

    @rule(first=numbers, count=st.integers(PAGES // 2, PAGES), exempt=st.booleans())
    def track(self, first, count, exempt):
        count = min(count, PAGES - first)
        buffer = self.process.buffer(self.at + first * PAGE, count * PAGE)
        tracker = pagescan.track(buffer, hot="exempt" if exempt else "protect")
        self.trackers.append((tracker, exempt, set(range(first, first + count)), [(tracker, set())]))

    @rule(which=numbers)
    def cursor(self, which):
        if self.trackers:
            tracker, _, _, readers = self.trackers[which % len(self.trackers)]
            readers.append((tracker.cursor(), set()))

    @rule(first=numbers, count=st.integers(1, PAGES))
    def write(self, first, count):
        count = min(count, PAGES - first)
        self.process.write(self.at + first * PAGE, b"x" * count * PAGE)
        for _, _, covered, readers in self.trackers:
            for _, due in readers:
                due.update(covered.intersection(range(first, first + count)))

    @rule(which=numbers, reader=numbers, how=st.sampled_from(["take", "peek", "changed"]))
    def look(self, which, reader, how):
        if not self.trackers:
            return
        _, exempt, _, readers = self.trackers[which % len(self.trackers)]
        asked, due = readers[reader % len(readers)]
        answer = getattr(asked, how)()
        if how == "changed":
            assert answer or not due
            assert exempt or not answer or due
            return
        named, exempted = self.numbers_of(answer), self.numbers_of(answer.exempted)
        assert due <= named
        assert named - due <= exempted <= named
        assert (answer.quality is Quality.EXACT) == (not exempted)
        assert exempt or not exempted
        if how == "take":
            due.clear()

    @rule(which=numbers, reader=numbers, times=st.integers(1, ANSWERS + INTERVALS[0] + 3), first=numbers)
    def rounds(self, which, reader, times, first):
        for _ in range(times):
            self.write(first // 3, PAGES)
            self.look(which, reader, "take")

    @rule(which=numbers, reader=numbers, times=st.integers(1, INTERVALS[1] + 1))
    def idle(self, which, reader, times):
        for _ in range(times):
            self.look(which, reader, "take")

    @rule(which=numbers)
    def close(self, which):
        if self.trackers:
            self.trackers.pop(which % len(self.trackers))[0].close()

    def numbers_of(self, regions: Regions) -> set[int]:
        return {int(page - self.at) // PAGE for page in regions.pages()}

    def teardown(self):
        for tracker, *_ in self.trackers:
            tracker.close()


TestHotReaders = HotReaders.TestCase
TestHotReaders.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
