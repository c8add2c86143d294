"""The same cases of a mark on every kind of memory and every machine."""

from __future__ import annotations

from typing import Any

import pytest

import pagescan

from .test_written import memory as memory
from .test_written import on


def contents(memory: Any) -> bytes:
    return bytes(memory.buffer[:])


def test_a_written_unit_is_put_back_once(memory):
    memory.fill(1)
    before = contents(memory)
    with pagescan.mark(memory.buffer) as mark:
        assert not mark.changed()
        assert mark.restore() == 0
        memory.poke(memory.unit + 7, 2)
        memory.poke(3 * memory.unit, 3)
        assert mark.changed()
        assert mark.restore() == 2 * memory.unit
        assert contents(memory) == before
        assert not mark.changed()
        assert mark.restore() == 0


def test_never_touched_memory_is_put_back_to_zeros(memory):
    before = contents(memory) if memory.kind in ("heap", "thp") else bytes(memory.buffer.nbytes)
    with pagescan.mark(memory.buffer) as mark:
        memory.poke(2 * memory.unit, 9)
        assert mark.restore() == memory.unit
        assert contents(memory) == before
        assert mark.restore() == 0


def test_advance_makes_the_present_the_mark(memory):
    memory.fill(1)
    with pagescan.mark(memory.buffer) as mark:
        memory.poke(0, 2)
        assert mark.advance() == memory.unit
        advanced = contents(memory)
        assert mark.restore() == 0
        memory.poke(0, 3)
        memory.poke(memory.unit, 3)
        assert mark.restore() == 2 * memory.unit
        assert contents(memory) == advanced


def test_marks_are_independent_of_each_other(memory):
    memory.fill(1)
    first = contents(memory)
    with pagescan.mark(memory.buffer) as older, pagescan.track(memory.buffer) as tracker:
        memory.poke(0, 2)
        second = contents(memory)
        with pagescan.mark(memory.buffer) as newer:
            memory.poke(memory.unit, 3)
            assert newer.restore() == memory.unit
            assert contents(memory) == second
            # What the one put back is written to, for the other and for the tracker.
            assert tracker.take().byte_count == older.restore() == 2 * memory.unit
            assert contents(memory) == first
            assert tracker.take().byte_count == newer.restore() == 2 * memory.unit
            assert contents(memory) == second
        assert older.restore() == 2 * memory.unit
        assert contents(memory) == first


# Of a privately mapped file the kernel keeps the marker, so a page given back cannot be seen; nor can a huge page of
# hugetlb that is read again before the look (caveats).
@on("anonymous-private", "heap", "thp", "hugetlb-private")
def test_memory_given_back_is_put_back(memory):
    memory.fill(1)
    before = contents(memory)
    with pagescan.mark(memory.buffer) as mark:
        memory.drop(memory.unit, memory.unit)
        assert mark.restore() == memory.unit
        assert contents(memory) == before
        assert mark.restore() == 0


@on("anonymous-private", "memfd-shared")
@pytest.mark.parametrize("recheck", [True, False])
def test_rechecking_finds_nothing_where_nobody_writes(memory, recheck):
    memory.fill(1)
    before = contents(memory)
    with pagescan.mark(memory.buffer) as mark:
        for unit in range(0, memory.units, 2):
            memory.poke(unit * memory.unit, 2)
        assert mark.restore(recheck=recheck) == -(-memory.units // 2) * memory.unit
        assert contents(memory) == before
        assert mark.restore(recheck=recheck) == 0
