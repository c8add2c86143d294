"""What the well-known documentation says of ``PAGEMAP_SCAN``, claim by claim, on this kernel and on the model.

One process, an anonymous mapping and a file; every answer exact. (What trackers make of it is in ``test_written``.)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import pagescan
from pagescan import Category, InvalidArgument, NotWriteProtectable, Op, pagemap_scan
from pagescan.abi import TRACKING_FEATURES

from . import model_memory
from .test_written import MACHINES

if sys.platform == "linux":
    from . import kernel_memory

GET_WP = Op.GET | Op.WP
WRITTEN, FILE, SWAPPED, PRESENT = Category.WRITTEN, Category.FILE, Category.SWAPPED, Category.PRESENT


@dataclass
class Arena:
    """16 pages of some kind of memory on one of the machines."""

    memory: Any
    space: Any
    pagemap: Any

    @property
    def page(self) -> int:
        return int(self.space.page_size)

    def prepare(self) -> None:
        """Steps 1 to 3 of the documented set-up: userfaultfd, UFFDIO_API, UFFDIO_REGISTER."""
        self.uffd = self.space.open_userfaultfd(TRACKING_FEATURES)
        self.uffd.register(self.memory.address, 16 * self.page)

    def scan(self, first: int = 0, last: int = 16, **options: Any) -> pagescan.Scan:
        return pagemap_scan(
            self.pagemap, self.memory.address + first * self.page, (last - first) * self.page, **options
        )

    def pages(self, scan: pagescan.Scan) -> list[tuple[int, int, Category]]:
        """Regions as (first page, last page exclusive, categories)."""
        base = self.memory.address
        return [
            ((start - base) // self.page, (end - base) // self.page, Category(categories))
            for start, end, categories in scan.regions.tolist()
        ]

    def written(self, **options: Any) -> list[tuple[int, int, Category]]:
        return self.pages(self.scan(required_mask=WRITTEN, return_mask=WRITTEN, **options))

    def write(self, *pages: int) -> None:
        for page in pages:
            self.memory.poke(page * self.page, 7)


@pytest.fixture(params=MACHINES, ids=[f"{machine}-call" for machine in MACHINES])
def arena(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes an arena of a kind of memory; everything it opened is closed at the end."""
    opened: list[Any] = []

    def make(kind: str = "anonymous-private") -> Arena:
        if request.param == "kernel":
            request.getfixturevalue("tracking")
            from pagescan.process.current import current_space

            made: Any = kernel_memory.memory_of(kind)
            memory: Any = made.__enter__()
            space: Any = current_space()
        else:
            made = model_memory.memory_of(kind, request.param.removeprefix("model-"))
            memory = made.__enter__()
            space = memory.process
        found = Arena(memory, space, space.open_pagemap())
        opened.append((made, found))
        return found

    yield make
    for made, found in opened:
        if hasattr(found, "uffd"):
            found.uffd.close()
        found.pagemap.close()
        made.__exit__(None, None, None)


def test_the_five_steps_in_order(arena):
    here = arena()
    here.memory.fill(1)
    here.prepare()
    assert here.pages(here.scan(ops=Op.WP)) == []
    assert here.written() == []
    here.write(3, 4, 9)
    assert here.written(ops=GET_WP) == [(3, 5, WRITTEN), (9, 10, WRITTEN)]
    assert here.written() == []


def test_writeprotect_does_what_the_scan_does(arena):
    here = arena()
    here.memory.fill(1)
    here.prepare()
    here.uffd.writeprotect(here.memory.address, 16 * here.page)
    here.write(0)
    assert here.written(ops=GET_WP) == [(0, 1, WRITTEN)]


def test_any_part_may_be_protected(arena):
    here = arena()
    here.memory.fill(1)
    here.prepare()
    here.scan(4, 8, ops=Op.WP)
    assert here.written() == [(0, 4, WRITTEN), (8, 16, WRITTEN)]


def test_written_of_file_pages_that_are_not_swapped(arena):
    """The document's first example."""
    here = arena("file-shared")
    here.prepare()
    here.write(2, 3)
    scan = here.scan(required_mask=FILE, excluded_mask=SWAPPED, return_mask=WRITTEN)
    assert (2, 4, WRITTEN) in here.pages(here.scan(2, 4, required_mask=FILE, return_mask=WRITTEN))
    assert all(categories in (WRITTEN, Category(0)) for _, _, categories in here.pages(scan))


@pytest.mark.parametrize("kind", ["file-shared", "anonymous-private"])
def test_file_pages_or_swapped_ones(arena, kind):
    """The document's second example."""
    here = arena(kind)
    here.memory.fill(1)
    found = here.pages(here.scan(anyof_mask=FILE | SWAPPED, return_mask=FILE | SWAPPED))
    assert found == ([(0, 16, FILE)] if kind == "file-shared" else [])


def test_written_pages_are_found_and_protected_in_one_call(arena):
    """The document's third example."""
    here = arena()
    here.prepare()
    here.memory.fill(1)
    assert here.written(ops=GET_WP) == [(0, 16, WRITTEN)]
    assert here.written(ops=GET_WP) == []


def test_the_output_is_cut_and_goes_on_where_it_ended(arena):
    here = arena()
    here.memory.fill(1)
    here.prepare()
    here.scan(ops=Op.WP)
    here.write(1, 3, 4, 7)
    first = here.scan(required_mask=WRITTEN, return_mask=WRITTEN, vec_len=1)
    assert (here.pages(first), first.complete) == ([(1, 2, WRITTEN)], False)
    assert first.walk_end == here.memory.address + 3 * here.page
    pages = here.scan(required_mask=WRITTEN, return_mask=WRITTEN, max_pages=2)
    assert here.pages(pages) == [(1, 2, WRITTEN), (3, 4, WRITTEN)]
    whole = here.scan(required_mask=WRITTEN, return_mask=WRITTEN)
    assert (here.pages(whole)[-1], whole.complete) == ((7, 8, WRITTEN), True)


def test_a_query_that_can_never_match_is_no_call(arena):
    here = arena()
    here.memory.fill(1)
    here.pagemap.close()
    assert here.pages(here.scan(required_mask=PRESENT, excluded_mask=PRESENT)) == []
    assert here.pages(here.scan(anyof_mask=FILE, excluded_mask=FILE)) == []


def test_memory_that_nobody_tracks_is_refused_by_name(arena):
    here = arena()
    here.memory.fill(1)
    with pytest.raises(NotWriteProtectable, match=f"{here.memory.address:x}"):
        here.written()
    with pytest.raises(NotWriteProtectable):
        here.scan(ops=Op.WP)
    assert here.pages(here.scan(return_mask=WRITTEN | PRESENT)) == [(0, 16, PRESENT)]


def test_bad_arguments_are_explained(arena):
    here = arena()
    with pytest.raises(InvalidArgument):
        pagemap_scan(here.pagemap, here.memory.address + 1, here.page)
    with pytest.raises(InvalidArgument):
        here.scan(required_mask=1 << 40)
    with pytest.raises(InvalidArgument):
        here.scan(vec_len=0)


def test_level_2_walks_to_the_end(arena):
    here = arena()
    here.memory.fill(1)
    found = pagescan.scan(here.memory.buffer, required_mask=PRESENT, return_mask=PRESENT)
    assert found.within(here.memory.buffer) == [slice(0, 16 * here.page)]
    by_address = pagescan.scan(here.space, start=here.memory.address, end=here.memory.address + here.page)
    assert by_address.page_count == 1
    assert np.asarray(by_address.starts).tolist() == [here.memory.address]
