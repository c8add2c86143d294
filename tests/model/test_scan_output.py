"""kernel-facts 1.3 and 1.4: matching, joining, vec_len, max_pages, walk_end, and the open bugs of 0.1 to 0.4."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagescan.model import KernelFailure

from .helpers import (
    CHECK,
    FILE,
    HUGE_PAGE,
    PAGE,
    PRESENT,
    SWAPPED,
    WP,
    WPALLOWED,
    WRITTEN,
    Arena,
    refused,
)


@pytest.fixture
def dirty() -> Arena:
    """Pages 1, 3, 4 and 7 of 16 written since they were protected."""
    arena = Arena(16).armed()
    arena.write(1, 3, 4, 7)
    return arena


@pytest.mark.parametrize(
    ("vec_len", "pages", "walk_end"), [(1, [1], 3), (2, [1, 3, 4], 7), (3, [1, 3, 4, 7], 16), (9, [1, 3, 4, 7], 16)]
)
def test_a_full_vec_stops_at_the_next_matching_page(
    dirty: Arena, vec_len: int, pages: list[int], walk_end: int
) -> None:
    answer = dirty.scan(mask=WRITTEN, returned=WRITTEN, vec_len=vec_len)
    assert (answer.pages, answer.walk_end) == (pages, walk_end)


@pytest.mark.parametrize(
    ("limit", "pages", "walk_end"), [(1, [1], 3), (2, [1, 3], 4), (3, [1, 3, 4], 7), (4, [1, 3, 4, 7], 16)]
)
def test_max_pages_cuts_exactly(dirty: Arena, limit: int, pages: list[int], walk_end: int) -> None:
    answer = dirty.scan(mask=WRITTEN, returned=WRITTEN, max_pages=limit)
    assert (answer.pages, answer.walk_end) == (pages, walk_end)


def test_get_and_protect_take_only_what_fits(dirty: Arena) -> None:
    assert dirty.take(vec_len=2) == [1, 3, 4]
    assert dirty.take() == [7]
    assert dirty.take() == []


def test_max_pages_is_ignored_without_a_vec(dirty: Arena) -> None:
    assert dirty.take(vec_len=0, max_pages=1) == []
    assert dirty.written() == []


def test_equal_neighbours_join_also_over_mappings() -> None:
    arena = Arena(8)
    arena.write(*range(8))
    arena.process.mprotect(arena.at, 4 * PAGE, "r")
    assert len(arena.process.mappings()) == 2
    assert arena.scan().regions == [(0, 8, WRITTEN | PRESENT)]


def test_neighbours_that_differ_only_in_what_is_not_returned_join(dirty: Arena) -> None:
    assert len(dirty.scan().regions) == 7
    assert dirty.scan(returned=WPALLOWED).regions == [(0, 16, WPALLOWED)]


def test_inverted_without_mask_has_no_effect(dirty: Arena) -> None:
    """kernel-facts 0.12: the documentation's own example is wrong in this."""
    plain = dirty.scan(mask=WRITTEN, returned=WRITTEN)
    assert dirty.scan(mask=WRITTEN, inverted=SWAPPED, returned=WRITTEN).regions == plain.regions
    assert dirty.scan(mask=WRITTEN | SWAPPED, inverted=WRITTEN).pages == [0, 2, 5, 6, *range(8, 16)]


def test_anyof_with_an_inverted_bit_is_an_or(dirty: Arena) -> None:
    """kernel-facts 1.10: "not swapped, or written"."""
    assert dirty.scan(anyof=SWAPPED | WRITTEN, inverted=SWAPPED).pages == [1, 3, 4, 7]


@given(
    masks=st.tuples(*[st.integers(0, 511)] * 4), pages=st.sets(st.integers(0, 15)), reads=st.sets(st.integers(0, 15))
)
def test_every_page_is_decided_by_the_formula(
    masks: tuple[int, int, int, int], pages: set[int], reads: set[int]
) -> None:
    inverted, mask, anyof, returned = masks
    arena = Arena(16).armed()
    arena.read(*sorted(reads))
    arena.write(*sorted(pages))
    expected = {}
    for page in range(16):
        x = arena.of(page) ^ inverted
        if x & mask == mask and (not anyof or x & anyof):
            expected[page] = arena.of(page) & returned
    answer = arena.scan(inverted=inverted, mask=mask, anyof=anyof, returned=returned)
    assert {p: c for first, last, c in answer.regions for p in range(first, last)} == expected


# -- the open bugs ---------------------------------------------------------------------------------------------------


def every_other(count: int, *, real: bool) -> Arena:
    arena = Arena(2 * count, real=real).armed()
    arena.write(*range(0, 2 * count, 2))
    return arena


@pytest.mark.parametrize(("count", "stale"), [(512, None), (513, 1024), (1024, 1024), (1025, 2048)])
def test_walk_end_is_stale_after_more_than_a_batch(count: int, stale: int | None) -> None:
    """kernel-facts 0.1: 513 regions, and walk_end is where region 513 starts."""
    answer = every_other(count, real=True).scan(mask=WRITTEN, returned=WRITTEN)
    assert len(answer.regions) == count
    assert answer.walk_end == (2 * count if stale is None else stale)


def test_walk_end_is_the_end_on_the_clean_machine() -> None:
    assert every_other(513, real=False).scan(mask=WRITTEN, returned=WRITTEN).walk_end == 1026


def test_walk_end_is_right_where_the_vec_was_full() -> None:
    answer = every_other(600, real=True).scan(mask=WRITTEN, returned=WRITTEN, vec_len=513)
    assert (len(answer.regions), answer.walk_end) == (513, 1026)


def test_exclusive_wp_ignores_masks_for_small_pages() -> None:
    """kernel-facts 0.2; the clean machine honours them."""
    for real, left in ((True, []), (False, [1])):
        arena = Arena(4, real=real).armed()
        arena.write(1)
        arena.scan(flags=WP, mask=FILE, vec_len=0)
        assert arena.written() == left


def test_eperm_at_a_later_mapping_comes_after_the_work() -> None:
    """kernel-facts 0.3: the earlier mapping is protected already, and its pages' dirtiness is lost."""
    for real, left in ((True, []), (False, [0, 1, 2, 3])):
        arena = Arena(8, real=real)
        arena.register(0, 4)
        with refused(errno.EPERM):
            arena.take()
        assert arena.written(last=4) == left


def test_partial_hugetlb_page_never_progresses() -> None:
    """kernel-facts 0.4: nothing reported, nothing protected, walk_end at the page; the clean machine says EPERM."""
    arena = Arena(1024, "hugetlb", real=True)
    arena.register()
    arena.write(0, 512)
    answer = arena.scan(0, 100, flags=WP, mask=WRITTEN, returned=WRITTEN)
    assert (answer.regions, answer.walk_end) == ([], 0)
    answer = arena.scan(0, 600, flags=WP, mask=WRITTEN, returned=WRITTEN)
    assert (answer.regions, answer.walk_end) == ([(0, 512, WRITTEN)], 512)
    clean = Arena(512, "hugetlb")
    clean.register()
    clean.write(0)
    with refused(errno.EPERM):
        clean.scan(0, 100, flags=WP, mask=WRITTEN)


def test_a_split_huge_page_does_not_join_the_region_before_it() -> None:
    """Found by the differential test on 6.18.44; only where the HUGE bit is among the returned."""
    for real, regions in ((True, [(511, 512), (512, 513)]), (False, [(511, 513)])):
        arena = Arena(1024, real=real, options={"thp": True})
        arena.register()
        arena.write(0, 512)
        arena.scan(0, 511, flags=WP, mask=WRITTEN)
        arena.write(*range(510))
        answer = arena.scan(511, flags=WP, mask=WRITTEN | PRESENT, returned=WRITTEN | HUGE_PAGE, max_pages=2)
        assert [(first, last) for first, last, _ in answer.regions] == regions


def test_bugs_a_machine_would_not_survive_say_so() -> None:
    """kernel-facts 0.9: the oops of exclusive WP on part of a huge page, the deadlock over a hugetlb hole."""
    arena = Arena(512, behaviour="6.7", real=True, options={"thp": True})
    arena.register()
    arena.write(0)
    with pytest.raises(KernelFailure, match="oops"):
        arena.scan(0, 10, flags=WP, vec_len=0)
    hole = Arena(512, "hugetlb", behaviour="6.12", real=True)
    hole.register()
    with pytest.raises(KernelFailure, match="waits for ever"):
        hole.scan(flags=WP, vec_len=0)


def test_zero_length_vec_is_no_vec(dirty: Arena) -> None:
    assert dirty.scan(flags=WP | CHECK, mask=WRITTEN, vec_len=0).regions == []
    assert dirty.written() == []


def test_limits_of_any_size_are_taken(dirty: Arena) -> None:
    assert dirty.written(max_pages=(1 << 64) - 1) == [1, 3, 4, 7]
