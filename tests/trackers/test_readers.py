"""Trackers that share memory, and their cursors: each is told of exactly what was written since it last asked."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import pagescan
from pagescan.model import KERNEL_BUGS, Machine
from tests.conformance.model_memory import BEHAVIOURS

PAGE = 4096
PAGES = 24
numbers = st.integers(0, PAGES - 1)


class Readers(RuleBasedStateMachine):
    """On the model, so that it is quick; what a reader is due is kept beside it as a set of page numbers."""

    @initialize(behaviour=st.sampled_from(BEHAVIOURS))
    def start(self, behaviour):
        self.process: Any = Machine(behaviour=behaviour, bugs=KERNEL_BUGS[behaviour]).process()
        self.at = self.process.mmap(PAGES * PAGE, kind="anonymous")
        #: Tracker, the pages it covers, and each of its readers with what it is due.
        self.trackers: list[tuple[Any, set[int], list[tuple[Any, set[int]]]]] = []

    @rule(runs=st.lists(st.tuples(numbers, st.integers(1, 4)), min_size=1, max_size=7))
    def track(self, runs):
        runs = [(first, min(count, PAGES - first)) for first, count in runs]
        buffers = [self.process.buffer(self.at + first * PAGE, count * PAGE) for first, count in runs]
        tracker = pagescan.track(*buffers)
        covered = {page for first, count in runs for page in range(first, first + count)}
        self.trackers.append((tracker, covered, [(tracker, set())]))

    @rule(which=numbers)
    def cursor(self, which):
        if self.trackers:
            tracker, _, readers = self.trackers[which % len(self.trackers)]
            readers.append((tracker.cursor(), set()))

    @rule(page=numbers)
    def write(self, page):
        self.process.write(self.at + page * PAGE, b"x")
        for _, covered, readers in self.trackers:
            for _, due in readers:
                due.update({page} & covered)

    @rule(which=numbers, reader=numbers, how=st.sampled_from(["take", "peek", "changed"]))
    def look(self, which, reader, how):
        if not self.trackers:
            return
        readers = self.trackers[which % len(self.trackers)][2]
        asked, due = readers[reader % len(readers)]
        answer = getattr(asked, how)()
        if how == "changed":
            assert answer == bool(due)
            return
        assert {int(page - self.at) // PAGE for page in answer.pages()} == due
        if how == "take":
            due.clear()

    @rule(which=numbers)
    def close(self, which):
        if self.trackers:
            self.trackers.pop(which % len(self.trackers))[0].close()

    @invariant()
    def what_is_covered_is_registered_and_nothing_beside_it(self):
        registered = {
            page
            for vma, first, last in self.process.mm.pieces(self.at, self.at + PAGES * PAGE)
            for page in range(first - self.at // PAGE, last - self.at // PAGE)
            if vma.context is not None
        }
        covered = set().union(*(covered for _, covered, _ in self.trackers), set())
        assert covered <= registered <= set(range(min(covered, default=0), max(covered, default=-1) + 1))

    def teardown(self):
        for tracker, _, _ in self.trackers:
            tracker.close()


TestReaders = Readers.TestCase
TestReaders.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
