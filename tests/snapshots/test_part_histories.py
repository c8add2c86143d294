"""Random histories of two writers that make versions together, against plain copies."""

from __future__ import annotations

import os
import secrets
import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import pagescan
from pagescan import InvalidArgument, VersionConflict
from pagescan.snapshots.budget import Budget

from .conftest import needs_obstore

PAGE = os.sysconf("SC_PAGE_SIZE")
PAGES = 6
RANKS = st.integers(0, 1)


class PartHistories(RuleBasedStateMachine):
    """Parts are prepared, committed or not, settled or not, in any order; every version is kept as a copy."""

    def url(self) -> str:
        return f"{self.folder.name}/state.pagescan"

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.where = self.url()
        self.lead = pagescan.open_store(self.where)
        self.arrays = [pagescan.zeros(PAGES * PAGE, dtype=np.uint8) for _ in range(2)]
        self.stores: list[Any] = [None, None]
        self.series: list[Any] = [None, None]
        #: What each writer prepared last, and what its buffer held.
        self.prepared: list[Any] = [None, None]
        #: Whether the writer still knows of that: not one that was opened again, or restored, since.
        self.knows = [True, True]
        self.oracle: dict[int, list[np.ndarray]] = {}
        self.newest = 0

    @initialize(packs=st.sampled_from([2, 3, 64]))
    def start(self, packs):
        self.budget = Budget(packs=packs, overhead=0.5, spare=2)
        for rank in range(2):
            self.open(rank)

    def open(self, rank):
        self.stores[rank] = pagescan.open_store(self.where)
        part = f"rank{rank}"
        self.series[rank] = self.stores[rank].series("s", part=part, budget=self.budget, a=self.arrays[rank])

    @rule(rank=RANKS, page=st.integers(0, PAGES - 1), value=st.integers(0, 3))
    def write(self, rank, page, value):
        self.arrays[rank][page * PAGE : page * PAGE + 50] = value

    @rule(rank=RANKS)
    def prepare(self, rank):
        try:
            part = self.series[rank].prepare()
        except VersionConflict:
            assert not self.knows[rank]  # what it had prepared was committed all the same
            self.series[rank].refresh()
            part = self.series[rank].prepare()
        assert part.newest == self.newest
        self.knows[rank] = True
        self.prepared[rank] = (part, self.arrays[rank].copy())

    @precondition(lambda self: all(self.prepared))
    @rule()
    def commit(self):
        parts = [part for part, _ in self.prepared]
        if parts[0].parent != parts[1].parent or parts[0].newest != parts[1].newest:
            with pytest.raises(InvalidArgument, match="same version"):
                self.lead.commit(parts)
            return
        if self.newest and self.lead.versions("s")[-1].number == parts[0].newest + 1:
            assert self.lead.commit(parts).number == self.newest  # it is that version already
            return
        version = self.lead.commit(parts)
        assert version.number == self.newest + 1
        self.newest = version.number
        self.oracle[self.newest] = [contents for _, contents in self.prepared]

    @precondition(lambda self: all(self.prepared))
    @rule(rank=RANKS)
    def settle(self, rank):
        version = self.series[rank].settle()
        assert version is None or version.number == self.newest

    @rule(rank=RANKS)
    def reopen(self, rank):
        self.series[rank].close()
        self.stores[rank].close()
        self.open(rank)
        self.knows[rank] = False

    @precondition(lambda self: self.oracle)
    @rule(data=st.data())
    def restore(self, data):
        number = data.draw(st.sampled_from(sorted(self.oracle)))
        for rank in range(2):
            self.series[rank].restore(number)
            self.knows[rank] = False
            assert np.array_equal(self.arrays[rank], self.oracle[number][rank])

    @precondition(lambda self: self.oracle)
    @rule()
    def prune(self):
        self.lead.prune(keep_last=2)
        self.oracle = {number: self.oracle[number] for number in sorted(self.oracle)[-2:]}
        for rank in range(2):  # it may have been restored to what is gone now
            self.series[rank].refresh()
            self.prepare(rank)

    @invariant()
    def every_version_reads_back(self):
        for number, contents in self.oracle.items():
            for rank in range(2):
                assert np.array_equal(self.lead.read("s", number, part=f"rank{rank}")["a"], contents[rank])

    def teardown(self):
        found = self.lead.verify()
        for each in (*self.series, *self.stores, self.lead):
            if each is not None:
                each.close()
        self.folder.cleanup()
        assert found.damage == ()


class ObjectPartHistories(PartHistories):
    def url(self) -> str:
        return f"memory://{secrets.token_hex(8)}"


SETTINGS = settings(max_examples=10, stateful_step_count=20, deadline=None)
TestPartHistories = PartHistories.TestCase
TestPartHistories.settings = SETTINGS
TestPartHistories = pytest.mark.usefixtures("tracking")(TestPartHistories)
TestObjectPartHistories = ObjectPartHistories.TestCase
TestObjectPartHistories.settings = SETTINGS
TestObjectPartHistories = needs_obstore(pytest.mark.usefixtures("tracking")(TestObjectPartHistories))
