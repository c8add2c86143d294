"""Fake memory: what a program that uses trackers can be tested with."""

from __future__ import annotations

import pytest

import pagescan
from pagescan import CoverageLost, InvalidArgument, KernelCannot, Quality
from pagescan.testing import FakeMemory

PAGE = 4096


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory(8 * PAGE)


def test_it_is_tracked_like_any_buffer(memory):
    with pagescan.track(memory) as tracker:
        assert tracker.engine == "fake"
        memory.write(PAGE + 3, b"abc")
        assert tracker.take().slices(memory) == [slice(PAGE, 2 * PAGE)]
        assert memory.read(PAGE + 3, 3) == b"abc"
        assert len(tracker.take()) == 0


def test_it_names_too_many_pages_on_request_and_says_so(memory):
    with pagescan.track(memory) as tracker:
        cursor = tracker.cursor()
        memory.write(0, b"x")
        memory.overstate(3, 4)
        written = tracker.take()
        assert written.slices(memory) == [slice(0, PAGE), slice(3 * PAGE, 5 * PAGE)]
        assert (written.quality, written.reason) == (Quality.SUPERSET, "the test says that too much is named")
        assert cursor.take().quality is Quality.SUPERSET
        memory.write(0, b"y")
        assert tracker.take().quality is Quality.EXACT


def test_it_loses_coverage_on_request(memory):
    with pagescan.track(memory) as raising, pagescan.track(memory, on_lost="report") as reporting:
        memory.write(0, b"x")
        memory.lose("it was unmapped")
        with pytest.raises(CoverageLost, match="it was unmapped"):
            raising.take()
        written = reporting.take()
        assert written.quality is Quality.LOST
        assert written.page_count == 8


def test_it_has_no_other_engine_and_no_page_tables(memory):
    with pytest.raises(InvalidArgument, match="cannot track memory of fake memory"):
        pagescan.track(memory, engine="compare")
    with pytest.raises(KernelCannot, match="no page tables"):
        pagescan.scan(memory)


def test_bad_sizes_and_places_are_refused(memory):
    with pytest.raises(InvalidArgument, match="not whole pages"):
        FakeMemory(100)
    with pytest.raises(InvalidArgument, match="outside"):
        memory.write(8 * PAGE - 1, b"xy")
