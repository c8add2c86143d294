"""Where guard regions are, by the kernel; and the value that says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pagescan.abi import Mapping
from pagescan.kernel import memory
from pagescan.kernel.guards import NO_GUARDS, Guards, find_guards
from pagescan.kernel.procfs import list_mappings
from pagescan.kernel.trial import Pages, Trial
from tests.guards import guards_told as guards_told

PAGE = os.sysconf("SC_PAGE_SIZE")


def test_what_is_guarded():
    guards = Guards((0x1000, 0x8000), (0x3000, 0x9000))
    assert guards.within(0, 0x10000)
    assert guards.within(0x2000, 0x2008)
    assert guards.within(0x2FFF, 0x4000)
    assert not guards.within(0x3000, 0x8000)
    assert not guards.within(0x9000, 0x10000)
    assert not guards.within(0, 0x1000)
    assert not NO_GUARDS.within(0, 1 << 47)


@pytest.fixture
def pages(guards_told) -> Iterator[Pages]:
    """2100 pages, of which the first is no guard."""
    with Trial() as trial:
        pages = trial.pages(2100)
        pages.write(0)
        yield pages


def guard(pages: Pages, first: int, count: int = 1) -> tuple[int, int]:
    memory.madvise(pages.address(first), count * PAGE, memory.Advice.GUARD_INSTALL)
    return pages.address(first), pages.address(first) + count * PAGE


def found_in(pages: Pages, mappings: list[Mapping]) -> list[tuple[int, int]]:
    guards = find_guards(os.getpid(), mappings)
    assert guards.told
    both = zip(guards.starts, guards.ends, strict=True)
    return [one for one in both if pages.start <= one[0] < pages.start + pages.length]


def test_each_region_is_found_once(pages):
    expected = [guard(pages, 1), guard(pages, 5, 3), guard(pages, 1500)]
    assert found_in(pages, list_mappings(os.getpid())) == expected


def test_more_regions_than_one_call_tells_of(pages):
    expected = [guard(pages, first) for first in range(1, 2100, 2)]
    assert found_in(pages, list_mappings(os.getpid())) == expected


def test_only_where_stacks_can_be(pages):
    guard(pages, 1)
    here = next(m for m in list_mappings(os.getpid()) if m.start <= pages.start < m.end)
    assert found_in(pages, [here])
    for other in (
        replace(here, name="[heap]"),
        replace(here, perms="r--p"),
        replace(here, perms="rw-s"),
        replace(here, inode=7),
    ):
        assert found_in(pages, [other]) == []


def test_a_process_that_is_gone_tells_nothing(child):
    process = child("input()")
    mappings = list_mappings(process.pid)
    process.communicate("\n")
    assert find_guards(process.pid, mappings) == Guards(told=False)
