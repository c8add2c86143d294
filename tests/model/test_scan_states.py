"""kernel-facts 1.1 and 1.5 to 1.9: what each page state is called, by release; holes, mappings, huge pages."""

from __future__ import annotations

import errno

import pytest

from pagescan.abi import RegisterMode

from .helpers import (
    CHECK,
    FILE,
    GUARD,
    HUGE_PAGE,
    PAGE,
    PFNZERO,
    PRESENT,
    SWAPPED,
    WP,
    WPALLOWED,
    WRITTEN,
    Arena,
    refused,
)

RELEASES = ("6.7", "6.12", "6.18", "7.3")


# -- table 1.9 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "expected"), [("6.7", WRITTEN), ("6.12", WRITTEN), ("6.18", WRITTEN), ("7.3", 0)]
)
def test_present_page_of_unregistered_memory(behaviour: str, expected: int) -> None:
    arena = Arena(behaviour=behaviour)
    arena.write(1)
    assert arena.of(1) == PRESENT | expected


@pytest.mark.parametrize(("behaviour", "expected"), [("6.7", 0), ("6.12", 0), ("6.18", WRITTEN), ("7.3", 0)])
def test_empty_entry_of_unregistered_memory(behaviour: str, expected: int) -> None:
    arena = Arena(behaviour=behaviour)
    arena.write(1)
    assert arena.of(2) == expected


@pytest.mark.parametrize(("behaviour", "generic"), [("6.7", []), ("6.12", []), ("6.18", [2, 3]), ("7.3", [2, 3])])
def test_empty_entry_of_registered_memory_by_either_path(behaviour: str, generic: list[int]) -> None:
    """Older releases find it by the fast path (exactly WRITTEN) only."""
    arena = Arena(4, behaviour=behaviour)
    arena.register()
    arena.write(0, 1)
    assert arena.written() == [0, 1, 2, 3]
    assert arena.scan(mask=WRITTEN).pages == [0, 1, *generic]


@pytest.mark.parametrize(("behaviour", "expected"), [("6.7", 0), ("6.12", 0), ("6.18", WRITTEN), ("7.3", WRITTEN)])
def test_pmd_hole(behaviour: str, expected: int) -> None:
    arena = Arena(behaviour=behaviour)
    assert arena.scan().regions == [(0, 16, 0)]
    arena.register()
    assert arena.scan().regions == [(0, 16, WPALLOWED | expected)]


@pytest.mark.parametrize("behaviour", RELEASES)
def test_protected_page_and_marker_are_not_written(behaviour: str) -> None:
    """kernel-facts 0.5: a marker is SWAPPED, with no swap in the system."""
    arena = Arena(4, behaviour=behaviour)
    arena.write(0)
    arena.armed()
    assert arena.of(0) == WPALLOWED | PRESENT
    assert arena.of(1) == WPALLOWED | SWAPPED


def test_unpopulated_memory_needs_markers() -> None:
    """Without WP_UNPOPULATED an empty anonymous entry cannot be protected."""
    arena = Arena(4)
    arena.write(0)
    uffd = arena.process.open_userfaultfd(0)
    uffd.register(arena.at, 4 * PAGE)
    uffd.writeprotect(arena.at, 4 * PAGE)
    assert arena.written() == [1, 2, 3]


def test_reading_a_marker_keeps_it_clean() -> None:
    arena = Arena(4).armed()
    arena.read(1)
    assert arena.of(1) == WPALLOWED | PRESENT | PFNZERO
    arena.write(1)
    assert arena.of(1) == WPALLOWED | PRESENT | WRITTEN


def test_reading_a_hole_maps_the_zero_page_as_written() -> None:
    """Feasibility 2.2: an unarmed hole becomes WRITTEN by reading; PFNZERO tells."""
    arena = Arena(4)
    arena.register()
    arena.read(1)
    assert arena.of(1) == WPALLOWED | WRITTEN | PRESENT | PFNZERO


def test_writing_the_same_value_is_written() -> None:
    arena = Arena(4)
    arena.write(1)
    arena.armed()
    arena.write(1)
    assert arena.written() == [1]


def test_swapped_pages_keep_their_bit_both_ways() -> None:
    """kernel-facts 2.5 and feasibility 3; a dirty swapped page is not PRESENT (facts 0.7)."""
    arena = Arena(4)
    arena.write(0, 1, 2)
    arena.armed()
    arena.write(1)
    arena.process.swap_out(arena.at, 4 * PAGE)
    assert arena.scan().regions == [
        (0, 1, WPALLOWED | SWAPPED),
        (1, 2, WPALLOWED | SWAPPED | WRITTEN),
        (2, 4, WPALLOWED | SWAPPED),
    ]
    assert arena.take() == [1]
    arena.read(0, 1)
    assert arena.written() == []
    assert arena.process.read(arena.at + PAGE, 1) == b"w"


def test_swapped_shared_memory_is_none_or_a_marker() -> None:
    """Feasibility 3: a written page that was swapped out is WRITTEN alone, a clean one SWAPPED."""
    arena = Arena(4, "shmem").armed()
    arena.write(1, 2)
    arena.take()
    arena.write(1)
    arena.process.swap_out(arena.at, 4 * PAGE)
    assert arena.of(1) == WPALLOWED | WRITTEN
    assert arena.of(2) == WPALLOWED | SWAPPED
    assert arena.process.read(arena.at + PAGE, 1) == b"w"


def test_guard_marker() -> None:
    """GUARD|SWAPPED, WRITTEN until protected; protecting it does not disable it."""
    arena = Arena(4)
    arena.register()
    arena.advise("guard_install", 1, 2)
    assert arena.of(1) == WPALLOWED | GUARD | SWAPPED | WRITTEN
    arena.take()
    assert arena.of(1) == WPALLOWED | GUARD | SWAPPED
    with refused(errno.EFAULT):
        arena.write(1)
    arena.advise("guard_remove", 1, 2)
    assert arena.of(1) == WPALLOWED | WRITTEN


def test_file_is_of_the_page_not_of_the_mapping() -> None:
    """kernel-facts 1.1: a privately copied page is not FILE, a hole never is."""
    arena = Arena(4, "file")
    arena.read(0)
    arena.write(1)
    assert arena.of(0) == FILE | PRESENT | WRITTEN
    assert arena.of(1) == PRESENT | WRITTEN
    assert arena.of(2) == WRITTEN


def test_reading_a_file_maps_the_neighbours_it_has_in_memory() -> None:
    arena = Arena(32, "shmem")
    arena.write(*range(32))
    arena.advise("dontneed")
    arena.read(20)
    assert arena.scan(mask=PRESENT).pages == list(range(16, 32))


# -- mappings (1.5) --------------------------------------------------------------------------------------------------


def test_memory_that_is_not_registered_under_each_flag() -> None:
    arena = Arena(4)
    arena.write(0)
    for flags in (CHECK, CHECK | WP):
        with refused(errno.EPERM):
            arena.scan(flags=flags)
    assert arena.scan(flags=WP).regions == []
    assert arena.scan().pages == [0, 1, 2, 3]


def test_synchronous_mode_is_not_allowed_either() -> None:
    arena = Arena(4)
    arena.process.open_userfaultfd(0).register(arena.at, 4 * PAGE)
    assert arena.scan(flags=WP).regions == []
    with refused(errno.EPERM):
        arena.scan(flags=CHECK)


def test_required_wpallowed_leaves_out_whole_mappings() -> None:
    arena = Arena(8)
    arena.register(4, 8)
    assert arena.scan(mask=WPALLOWED).pages == [4, 5, 6, 7]
    assert arena.scan(mask=WPALLOWED, inverted=WPALLOWED).pages == [0, 1, 2, 3]


def test_system_mappings() -> None:
    """[vvar] (PFNMAP) is passed over, [vdso] is FILE|PRESENT, and neither can be registered."""
    arena = Arena()
    process = arena.machine.process(system_mappings=True)
    names = {m.name: m for m in process.mappings()}
    assert sorted(names) == ["[stack]", "[vdso]", "[vvar]"]
    process.read(names["[vdso]"].start, PAGE)
    arena.at = names["[vvar]"].start
    assert [(a, b, c) for a, b, c in arena.scan(0, 6, process=process, mask=PRESENT).regions] == [
        (4, 5, FILE | PRESENT | WRITTEN)
    ]
    uffd = process.open_userfaultfd(1 << 15)
    for name, number in (("[vvar]", errno.EINVAL), ("[vdso]", errno.EINVAL)):
        with refused(number):
            uffd.register(names[name].start, PAGE)


def test_stack_grows_down_registered() -> None:
    process = Arena().machine.process(system_mappings=True)
    stack = next(m for m in process.mappings() if m.name == "[stack]")
    process.open_userfaultfd(1 << 15).register(stack.start, stack.size)
    process.write(stack.start - 3 * PAGE, b"deep")
    grown = next(m for m in process.mappings() if m.name == "[stack]")
    assert grown.start == stack.start - 3 * PAGE
    arena = Arena()
    arena.at = grown.start
    assert arena.of(0, process=process) == WPALLOWED | WRITTEN | PRESENT


def test_protecting_holes_costs_page_tables() -> None:
    arena = Arena(4096)
    arena.register()
    arena.scan(flags=WP, mask=WRITTEN | PRESENT)
    assert len(arena.process.mm.tables) == 0
    arena.take()
    assert len(arena.process.mm.tables) == 8


# -- huge pages (1.6, 1.7) -------------------------------------------------------------------------------------------


def thp(pages: int = 1024) -> Arena:
    arena = Arena(pages, options={"thp": True})
    arena.register()
    arena.write(0, 512)
    return arena


def test_a_first_write_makes_a_huge_page_all_written() -> None:
    arena = thp()
    assert arena.scan().regions == [(0, 1024, WPALLOWED | WRITTEN | PRESENT | HUGE_PAGE)]


def test_the_first_write_to_a_protected_huge_page_splits_it() -> None:
    arena = thp()
    arena.take()
    assert arena.scan().regions == [(0, 1024, WPALLOWED | PRESENT | HUGE_PAGE)]
    arena.write(5)
    assert arena.written() == [5]
    assert arena.scan(mask=HUGE_PAGE).pages == list(range(512, 1024))


def test_scanning_part_of_a_huge_page_does_not_split_but_protecting_does() -> None:
    arena = thp()
    assert arena.scan(10, 20).regions == [(10, 20, WPALLOWED | WRITTEN | PRESENT | HUGE_PAGE)]
    assert arena.scan(10, 20, flags=WP, mask=WRITTEN, returned=WRITTEN).pages == list(range(10, 20))
    assert len(arena.scan(mask=HUGE_PAGE).pages) == 512
    assert arena.written() == [*range(10), *range(20, 1024)]


def test_max_pages_splits_a_huge_page() -> None:
    arena = thp()
    answer = arena.scan(flags=WP, mask=WRITTEN, returned=WRITTEN, max_pages=600)
    assert (len(answer.pages), answer.walk_end) == (600, 600)
    assert len(arena.scan(mask=HUGE_PAGE).pages) == 512


def test_reading_untouched_huge_memory_maps_the_huge_zero_page() -> None:
    for behaviour, pfnzero in (("6.7", 0), ("6.18", PFNZERO)):
        arena = Arena(512, behaviour=behaviour, options={"thp": True})
        arena.read(0)
        assert arena.scan().regions == [(0, 512, WRITTEN | PRESENT | HUGE_PAGE | pfnzero)]


def test_a_huge_page_needs_its_whole_range_without_page_table() -> None:
    arena = Arena(1024, options={"thp": True})
    arena.register(0, 600)
    arena.write(520, 0)
    assert arena.scan(mask=HUGE_PAGE).pages == list(range(512))


def test_collapse() -> None:
    """Works where nothing is armed; EINVAL where a page is protected, EBUSY where one is empty and registered."""
    arena = Arena(512)
    arena.write(3)
    arena.advise("collapse")
    assert len(arena.scan(mask=HUGE_PAGE).pages) == 512
    for prepare, number in ((lambda a: a.take(), errno.EINVAL), (lambda a: None, errno.EBUSY)):
        arena = Arena(512)
        arena.write(3)
        arena.register()
        prepare(arena)
        with refused(number):
            arena.advise("collapse")


def hugetlb(pages: int = 1024) -> Arena:
    arena = Arena(pages, "hugetlb")
    arena.register()
    return arena


def test_hugetlb_granule_is_the_huge_page() -> None:
    arena = hugetlb()
    arena.write(700)
    assert arena.scan(mask=WRITTEN).regions == [(512, 1024, WPALLOWED | WRITTEN | PRESENT | HUGE_PAGE)]
    assert len(arena.take()) == 512
    assert arena.take() == []
    arena.write(513)
    assert arena.take() == list(range(512, 1024))


def test_an_empty_hugetlb_entry_is_huge_and_never_written() -> None:
    arena = hugetlb()
    arena.write(0)
    assert arena.of(600) == WPALLOWED | HUGE_PAGE
    arena.advise("dontneed", 0, 512)
    assert arena.written() == []


def test_hugetlb_registration_must_be_aligned() -> None:
    arena = Arena(1024, "hugetlb")
    uffd = arena.process.open_userfaultfd(1 << 15)
    for start, pages in ((1, 511), (0, 100)):
        with refused(errno.EINVAL):
            uffd.register(arena.at + start * PAGE, pages * PAGE)


# -- 7.3 -------------------------------------------------------------------------------------------------------------


def test_accessed_pages_of_read_write_protected_memory() -> None:
    """Feasibility 7: after reading page 5 and writing page 9 exactly these two are ACCESSED."""
    arena = Arena(64, behaviour="7.3")
    arena.write(*range(64))
    uffd = arena.process.open_userfaultfd((1 << 17) | (1 << 18))
    uffd.register(arena.at, 64 * PAGE, RegisterMode.RWP)
    uffd.rwprotect(arena.at, 64 * PAGE)
    accessed = 1 << 9
    assert arena.scan(mask=accessed).regions == []
    arena.read(5)
    arena.write(9)
    assert [(a, b, int(c)) for a, b, c in arena.scan(mask=accessed).regions] == [(5, 6, 0x208), (9, 10, 0x208)]
    assert arena.scan(flags=WP).regions == []
    uffd.rwprotect(arena.at, 64 * PAGE)
    assert arena.scan(mask=accessed).regions == []
