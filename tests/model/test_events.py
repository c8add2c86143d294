"""kernel-facts 2.5: what each event of a process's life does to tracked memory."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from pagescan.abi import TRACKING_FEATURES, Feature
from pagescan.model import BusError, Machine, SegmentationFault

from .helpers import FILE, HUGE_PAGE, PAGE, PRESENT, SWAPPED, WPALLOWED, WRITTEN, Arena, refused


def armed(kind: str = "anonymous", pages: int = 8, **options: object) -> Arena:
    """Every page written, then protected."""
    arena = Arena(pages, kind, options=dict(options))
    arena.write(*range(pages))
    return arena.armed()


def contents(arena: Arena, page: int) -> bytes:
    return arena.process.read(arena.at + page * PAGE, 1)


# -- fork ------------------------------------------------------------------------------------------------------------


def test_fork_leaves_the_parent_tracked_and_the_child_not() -> None:
    arena = armed()
    child = arena.process.fork()
    assert arena.written() == []
    assert arena.scan(process=child).regions == [(0, 8, WRITTEN | PRESENT)]
    child.write(arena.at, b"child")
    assert arena.written() == []
    assert contents(arena, 0) == b"w"
    arena.write(1)
    assert arena.written() == [1]
    assert child.read(arena.at + PAGE, 1) == b"w"
    assert child.read(arena.at, 5) == b"child"


def test_fork_with_event_fork_keeps_the_registration() -> None:
    arena = Arena(4)
    arena.write(0)
    uffd = arena.process.open_userfaultfd(TRACKING_FEATURES | Feature.EVENT_FORK)
    uffd.register(arena.at, 4 * PAGE)
    uffd.writeprotect(arena.at, 4 * PAGE)
    child = arena.process.fork()
    assert arena.written(process=child) == []
    uffd.close()
    assert arena.scan(process=child, mask=WPALLOWED).regions == []


def test_fork_shares_shared_memory() -> None:
    arena = Arena(4, "shmem")
    child = arena.process.fork()
    child.write(arena.at, b"hello")
    assert arena.process.read(arena.at, 5) == b"hello"


def test_fork_copies_no_page_tables_where_there_is_nothing_of_ones_own() -> None:
    arena = Arena(8, "shmem")
    arena.write(1)
    assert arena.scan(process=arena.process.fork()).regions == [(0, 8, 0)]


def test_fork_frees_what_it_shared_when_both_are_gone() -> None:
    arena = armed(pages=8)
    child = arena.process.fork()
    assert arena.machine.memory.used == 8
    child.write(arena.at, b"x")
    assert arena.machine.memory.used == 9
    child.exit()
    arena.process.exit()
    assert arena.machine.memory.used == 0


def test_a_huge_page_shared_by_fork_is_split_by_the_next_write() -> None:
    arena = Arena(512, options={"thp": True})
    arena.write(0)
    child = arena.process.fork()
    arena.write(7)
    assert arena.scan(mask=HUGE_PAGE).regions == []
    assert len(arena.scan(process=child, mask=HUGE_PAGE).pages) == 512


# -- mremap ----------------------------------------------------------------------------------------------------------


def test_moving_drops_the_registration_and_the_bits() -> None:
    arena = armed()
    arena.at = arena.process.mremap(arena.at, 8 * PAGE, 8 * PAGE, to=arena.at + (1 << 30))
    assert arena.scan().regions == [(0, 8, WRITTEN | PRESENT)]
    assert contents(arena, 3) == b"w"


def test_moving_with_event_remap_keeps_them() -> None:
    arena = Arena(8)
    uffd = arena.process.open_userfaultfd(TRACKING_FEATURES | Feature.EVENT_REMAP)
    uffd.register(arena.at, 8 * PAGE)
    uffd.writeprotect(arena.at, 8 * PAGE)
    arena.write(2)
    arena.at = arena.process.mremap(arena.at, 8 * PAGE, 8 * PAGE, to=arena.at + (1 << 30))
    assert arena.written() == [2]


def test_growing_in_place_adds_registered_pages_that_are_not_armed() -> None:
    arena = armed()
    assert arena.process.mremap(arena.at, 8 * PAGE, 12 * PAGE, may_move=False) == arena.at
    arena.pages = 12
    assert arena.written() == [8, 9, 10, 11]
    assert arena.scan(mask=WPALLOWED).pages == list(range(12))


def test_growing_where_there_is_no_room() -> None:
    arena = armed()
    arena.process.mmap(PAGE, fixed=arena.at + 8 * PAGE, prot="r")
    with refused(errno.ENOMEM):
        arena.process.mremap(arena.at, 8 * PAGE, 12 * PAGE, may_move=False)
    assert arena.process.mremap(arena.at, 8 * PAGE, 12 * PAGE) != arena.at


def test_moving_beside_registered_memory_takes_its_registration_too() -> None:
    """Found by the differential test on 6.18.44: the copy merges with its neighbour before it is unregistered."""
    for real, tracked in ((True, []), (False, [0, 1, 4, 5, 6, 7])):
        arena = Arena(8, real=real)
        arena.register()
        arena.process.mremap(arena.at + 2 * PAGE, 2 * PAGE, 2 * PAGE, to=arena.at + 8 * PAGE)
        assert arena.scan(mask=WPALLOWED, last=10).pages == tracked


# -- mmap, munmap, mprotect ------------------------------------------------------------------------------------------


def test_mapping_over_leaves_it_unregistered() -> None:
    arena = armed()
    arena.process.mmap(4 * PAGE, fixed=arena.at)
    assert arena.scan(mask=WPALLOWED).pages == [4, 5, 6, 7]
    assert arena.process.read(arena.at, 1) == b"\0"


def test_unmapped_memory_scans_as_empty() -> None:
    arena = armed()
    arena.process.munmap(arena.at, 4 * PAGE)
    assert arena.process.has_gap(arena.at, arena.at + 8 * PAGE)
    assert not arena.process.has_gap(arena.at + 4 * PAGE, arena.at + 8 * PAGE)
    assert arena.process.mapping_at(arena.at) is None
    assert arena.scan(0, 4).regions == []
    with pytest.raises(SegmentationFault):
        arena.read(0)


def test_mprotect_keeps_the_state() -> None:
    arena = armed()
    arena.write(3)
    for prot in ("none", "rw"):
        arena.process.mprotect(arena.at, 8 * PAGE, prot)
        assert arena.written() == [3]


def test_a_page_that_may_not_be_written_is_not() -> None:
    arena = armed()
    arena.process.mprotect(arena.at + 4 * PAGE, 4 * PAGE, "r")
    with pytest.raises(SegmentationFault):
        arena.process.write(arena.at + 3 * PAGE, b"x" * 2 * PAGE)
    assert arena.written() == [3]
    assert arena.process.read(arena.at + 3 * PAGE, 2 * PAGE) == b"x" * PAGE + b"w" + bytes(PAGE - 1)


# -- madvise ---------------------------------------------------------------------------------------------------------


def test_dontneed_of_anonymous_memory_is_written() -> None:
    arena = armed()
    arena.advise("dontneed", 2, 4)
    assert arena.written() == [2, 3]
    assert contents(arena, 2) == b"\0"


def test_dontneed_frees_an_empty_page_table() -> None:
    for behaviour, tables in (("6.12", 1), ("6.18", 0)):
        arena = Arena(512, behaviour=behaviour)
        arena.write(3)
        arena.advise("dontneed")
        assert len(arena.process.mm.tables) == tables


def test_dontneed_of_shared_memory_stays_clean_and_loses_nothing() -> None:
    arena = armed("shmem")
    arena.advise("dontneed")
    assert arena.scan().regions == [(0, 8, WPALLOWED | SWAPPED)]
    assert contents(arena, 5) == b"w"
    assert arena.written() == []
    assert arena.of(5) == WPALLOWED | FILE | PRESENT


def test_dontneed_of_a_private_file_reverts_the_contents_unseen() -> None:
    """kernel-facts 0.8: a missed change."""
    arena = armed("file")
    arena.advise("dontneed")
    assert arena.written() == []
    assert contents(arena, 5) == b"\0"


def test_punching_a_hole_is_not_seen() -> None:
    """kernel-facts 0.8: a missed change."""
    arena = armed("shmem")
    arena.advise("remove", 2, 4)
    assert arena.written() == []
    assert contents(arena, 2) == b"\0"
    assert arena.written() == []


def test_other_writers_of_the_same_file_are_not_seen() -> None:
    machine = Machine()
    process, other = machine.process(), machine.process()
    file = machine.file(4 * PAGE, b"old", kind="shmem")
    arena = Arena(4)
    arena.machine, arena.process = machine, process
    arena.at = process.mmap(4 * PAGE, "shmem", file=file)
    arena.read(0)
    arena.armed()
    there = other.mmap(4 * PAGE, "shmem", file=file)
    other.write(there, b"new")
    file.write(PAGE, b"pwrite")
    assert arena.written() == []
    assert process.read(arena.at, 3) == b"new"
    assert process.read(arena.at + PAGE, 6) == b"pwrite"


def test_free_changes_no_state_but_of_swapped_pages() -> None:
    arena = armed()
    arena.process.swap_out(arena.at, PAGE)
    arena.advise("free")
    assert arena.written() == [0]
    assert contents(arena, 1) == b"w"


def test_advice_that_cannot_be() -> None:
    arena = Arena(4, "shmem")
    for kind, what, number in (
        ("shmem", "free", errno.EINVAL),
        ("anonymous", "remove", errno.EINVAL),
        ("file", "remove", errno.EACCES),
        ("hugetlb", "guard_install", errno.EINVAL),
        ("anonymous", "nonsense", errno.EINVAL),
    ):
        arena = Arena(4, kind)
        with refused(number):
            arena.advise(what)
    arena.process.munmap(arena.at + PAGE, PAGE)
    with refused(errno.ENOMEM):
        arena.advise("dontneed")


def test_guards_came_with_6_13() -> None:
    with refused(errno.EINVAL):
        Arena(4, behaviour="6.12").advise("guard_install")


def test_beyond_the_end_of_a_file() -> None:
    machine = Machine()
    process = machine.process()
    at = process.mmap(4 * PAGE, "file", file=machine.file(2 * PAGE))
    with pytest.raises(BusError):
        process.read(at, 4 * PAGE)


# -- size ------------------------------------------------------------------------------------------------------------


def test_a_gibibyte_costs_megabytes() -> None:
    """One byte of state and four of frame number a page; contents only where bytes were written."""
    arena = Arena(1 << 18)
    arena.register()
    arena.take()
    pages = np.random.default_rng(1).choice(1 << 18, 2621, replace=False)
    arena.process.touch(arena.at + pages.astype(np.uint64) * PAGE)
    assert arena.written() == sorted(pages.tolist())
    tables = arena.process.mm.tables
    assert tables.entries.nbytes + tables.frames.nbytes <= 8 << 20
    assert arena.machine.memory.used == 2621


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_other_page_sizes(page_size: int) -> None:
    process = Machine(page_size=page_size).process()
    at = process.mmap(8 * page_size)
    process.open_userfaultfd(TRACKING_FEATURES).register(at, 8 * page_size)
    process.write(at + page_size, b"x")
    assert process.mm.pmd_size == page_size * page_size // 8
    assert process.mappings()[0].page_size == page_size
