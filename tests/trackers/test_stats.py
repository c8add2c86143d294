"""``tracker.stats()``: what was counted, what is estimated of it, and what is advised."""

from __future__ import annotations

import mmap
from dataclasses import replace

import numpy as np
import pytest

import pagescan
from pagescan import Closed, Regions, Stats
from pagescan.model import Machine
from pagescan.trackers.base import Findings
from pagescan.trackers.stats import Counters, count_faults, measured_costs

PAGE = mmap.PAGESIZE
MIB = 1 << 20
#: 256 MiB, of which a hundredth is written to in each of ten intervals.
SPARSE = Stats(
    engine="pagemap-scan",
    hot="protect",
    page_size=4096,
    bytes_tracked=256 * MIB,
    bytes_shared=0,
    bytes_exempt=0,
    bytes_hugetlb=0,
    takes=9,
    looks=10,
    look_ns=700_000,
    pages_written=6550,
    pages_exempted=0,
    faults=6550,
    fault_ns=700.0,
    compare_ns=35_000_000.0,
    source="measured on 256 pages of this process",
)
DENSE = replace(SPARSE, pages_written=655_360, faults=655_360)


class TestCounted:
    def test_takes_looks_pages_and_bytes(self):
        array = pagescan.zeros((16, PAGE), np.uint8)
        with pagescan.track(array) as tracker:
            assert (tracker.stats().looks, tracker.stats().share_written) == (0, 0.0)
            array[3, 0] = 1
            tracker.take()
            array[3:7, 0] = 2
            tracker.peek()
            tracker.changed()
            tracker.take()
            cursor = tracker.cursor()
            array[5, 0] = 2
            cursor.take()
            stats = tracker.stats()
        assert (stats.engine, stats.hot) == ("pagemap-scan", "protect")
        assert (stats.bytes_tracked, stats.bytes_shared, stats.bytes_hugetlb) == (16 * PAGE, 0, 0)
        assert (stats.takes, stats.looks) == (3, 5)
        assert (stats.pages_written, stats.pages_exempted, stats.faults) == (6, 0, 6)
        assert stats.share_written == 6 / 16 / 5
        assert stats.look_ns > 0
        assert stats.writer_ns == round(6 * stats.fault_ns) > 0

    def test_pages_shared_with_something_else(self):
        array = pagescan.zeros(4 * PAGE, np.uint8)
        with pagescan.track(array[1:]) as tracker:
            assert tracker.stats().bytes_shared == PAGE

    def test_exempted_pages_took_no_fault(self):
        array = pagescan.zeros((128, PAGE), np.uint8)
        with pagescan.track(array, hot="exempt") as tracker:
            for _ in range(12):
                array[:, 0] += 1
                answer = tracker.take()
            stats = tracker.stats()
        assert stats.bytes_exempt == answer.exempted.byte_count > 64 * PAGE
        assert stats.pages_exempted == 4 * answer.exempted.page_count
        assert stats.pages_written == stats.faults == 12 * 128 - stats.pages_exempted

    def test_long_answers_are_counted_at_once_and_short_ones_when_asked(self):
        counters = Counters(count_faults(Regions.empty(), 1))
        one = Regions.from_pages([0])
        many = Regions.from_pages(np.arange(0, 8192 * 70_000, 8192))
        for regions in (one, many, one):
            counters.add(Findings(regions), 5)
        assert (counters.looks, counters.look_ns, len(counters._uncounted)) == (3, 15, 1)
        assert counters.totals() == counters.totals() == (70_002, 0, 70_002)

    def test_a_huge_page_is_one_fault(self):
        faults = count_faults(Regions.span(0, 4 * MIB), 2 * MIB)
        assert faults(Regions.span(0, 2 * MIB), 2 * MIB) == 1
        beside = Regions.from_pairs([(2 * MIB, 4 * MIB), (8 * MIB, 8 * MIB + 8192)])
        assert faults(beside, beside.byte_count) == 3

    def test_the_model_and_comparing_cost_the_writer_nothing(self):
        process = Machine().process()
        at = process.mmap(4 * 4096, kind="anonymous")
        with pagescan.track(process.buffer(at, 4 * 4096)) as tracker:
            process.write(at, b"x")
            tracker.take()
            stats = tracker.stats()
        assert (stats.engine, stats.faults, stats.writer_ns) == ("model", 1, 0)
        assert "nothing: model protects nothing" in str(stats)
        assert measured_costs("compare").fault_ns == 0
        assert measured_costs("compare").compare_ns > 0

    def test_of_a_closed_tracker(self):
        tracker = pagescan.track(pagescan.zeros(PAGE))
        tracker.close()
        with pytest.raises(Closed):
            tracker.stats()


class TestAdvice:
    def test_none_where_tracking_is_the_cheapest(self):
        assert SPARSE.advice == ()
        assert "cheaper" not in str(SPARSE)

    def test_none_before_anything_is_known(self):
        assert replace(DENSE, looks=2).advice == ()
        assert replace(DENSE, bytes_tracked=0).advice == ()

    def test_everything_written_to_each_time(self):
        exempt, compare, huge = DENSE.advice
        assert exempt.startswith('hot="exempt" would save 45.7 ms of 45.9 ms an interval;')
        assert (
            compare
            == 'engine="compare" would take some 35.0 ms an interval in place of 45.9 ms, and 256 MiB for a copy'
        )
        assert huge.startswith("hugetlb memory would take some 128 faults an interval in place of 65,536;")

    def test_half_of_it_perhaps_not_the_same_half(self):
        exempt, huge = replace(DENSE, pages_written=340_000, faults=340_000).advice
        assert "up to" in exempt
        assert "as far as it is the same memory" in exempt
        assert huge.startswith("hugetlb")

    def test_nothing_that_is_done_already(self):
        assert replace(DENSE, hot="exempt", bytes_hugetlb=256 * MIB, compare_ns=1e9).advice == ()
        assert replace(DENSE, engine="compare", fault_ns=0.0).advice == ()

    def test_a_tiny_buffer_is_compared_faster(self):
        (compare,) = replace(SPARSE, bytes_tracked=4096, compare_ns=250.0, pages_written=1, faults=1).advice
        assert compare.startswith('engine="compare" would take some 250 ns')

    def test_small_objects(self):
        (own,) = replace(SPARSE, bytes_shared=200 * MIB).advice
        assert own.startswith("200 MiB of 256 MiB lie in pages shared with other objects")


def test_reads_well():
    assert str(replace(SPARSE, bytes_shared=8192, pages_exempted=512, bytes_exempt=2 * MIB)) == (
        "tracked  256 MiB by pagemap-scan (8 KiB in pages shared with other objects; 2 MiB left unprotected now)\n"
        "asked    9 takes in 10 looks\n"
        "written  25.6 MiB found, 1.0% of it in an interval, on average; 2 MiB named unasked\n"
        "looking  700 us, 70.0 us a look\n"
        "writer   about 4.58 ms, 458 us an interval: 6,550 faults of some 700 ns "
        "(measured on 256 pages of this process)"
    )
