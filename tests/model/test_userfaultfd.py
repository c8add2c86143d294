"""kernel-facts 2: the handshake, what can be registered, and what becomes of it."""

from __future__ import annotations

import errno

import pytest

from pagescan.abi import TRACKING_FEATURES, Feature, RegisterMode
from pagescan.errors import Closed
from pagescan.model import FaultBlocks, KernelFailure

from .helpers import PAGE, PRESENT, SWAPPED, WPALLOWED, WRITTEN, Arena, refused


def test_an_unknown_feature_is_einval() -> None:
    """2.1: RWP needs 7.3; asking for WP_ASYNC shows whether the kernel has it."""
    with refused(errno.EINVAL):
        Arena().process.open_userfaultfd(Feature.RWP)
    assert Arena(behaviour="7.3").process.open_userfaultfd(Feature.RWP).features == Feature.RWP


def test_wp_async_implies_wp_unpopulated() -> None:
    arena = Arena(4)
    uffd = arena.process.open_userfaultfd(Feature.WP_ASYNC)
    uffd.register(arena.at, 4 * PAGE)
    uffd.writeprotect(arena.at, 4 * PAGE)
    assert arena.scan(mask=SWAPPED).pages == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["anonymous", "shmem", "file", "hugetlb"])
def test_asynchronous_wp_takes_any_memory(kind: str) -> None:
    arena = Arena(512, kind)
    assert arena.process.open_userfaultfd(TRACKING_FEATURES).register(arena.at, 512 * PAGE) & (1 << 6)


def test_a_file_takes_nothing_else() -> None:
    arena = Arena(4, "file")
    with refused(errno.EINVAL):
        arena.process.open_userfaultfd(0).register(arena.at, 4 * PAGE)
    with refused(errno.EINVAL):
        arena.process.open_userfaultfd(TRACKING_FEATURES).register(arena.at, 4 * PAGE, RegisterMode.MISSING)


def test_a_file_opened_for_reading_can_be_private_only() -> None:
    arena = Arena()
    file = arena.machine.file(4 * PAGE, writable=False)
    uffd = arena.process.open_userfaultfd(TRACKING_FEATURES)
    private = arena.process.mmap(4 * PAGE, "file", file=file, shared=False)
    shared = arena.process.mmap(4 * PAGE, "file", file=file, shared=True, prot="r")
    uffd.register(private, 4 * PAGE)
    with refused(errno.EPERM):
        uffd.register(shared, 4 * PAGE)


def test_ranges() -> None:
    """Gaps are allowed, nothing at all is EINVAL, so is what is not aligned."""
    arena = Arena(8)
    arena.process.munmap(arena.at + 2 * PAGE, 4 * PAGE)
    uffd = arena.process.open_userfaultfd(TRACKING_FEATURES)
    uffd.register(arena.at, 8 * PAGE)
    uffd.writeprotect(arena.at, 8 * PAGE)
    for start, length in ((2, 4), (0, 0)):
        with refused(errno.EINVAL):
            uffd.register(arena.at + start * PAGE, length * PAGE)
    with refused(errno.EINVAL):
        uffd.register(arena.at + 1, PAGE)


def test_modes() -> None:
    arena = Arena(4)
    uffd = arena.process.open_userfaultfd(TRACKING_FEATURES)
    for mode in (0, 16, RegisterMode.RWP):
        with refused(errno.EINVAL):
            uffd.register(arena.at, 4 * PAGE, mode)


def test_one_owner_only() -> None:
    arena = Arena(8)
    first = arena.register(0, 4)
    first.register(arena.at, 4 * PAGE)
    second = arena.process.open_userfaultfd(TRACKING_FEATURES)
    with refused(errno.EBUSY):
        second.register(arena.at, 8 * PAGE)
    with refused(errno.EINVAL):
        second.unregister(arena.at, 4 * PAGE)
    second.register(arena.at + 4 * PAGE, 4 * PAGE)


def test_dropping_wp_by_registering_again() -> None:
    for behaviour, busy in (("6.18", False), ("7.3", True)):
        arena = Arena(4, behaviour=behaviour)
        uffd = arena.process.open_userfaultfd(TRACKING_FEATURES)
        uffd.register(arena.at, 4 * PAGE)
        if busy:
            with refused(errno.EBUSY):
                uffd.register(arena.at, 4 * PAGE, RegisterMode.MISSING)
        else:
            uffd.register(arena.at, 4 * PAGE, RegisterMode.MISSING)
            assert arena.scan(mask=WPALLOWED).regions == []


def test_writeprotect_needs_registration() -> None:
    arena = Arena(8)
    uffd = arena.register(0, 4)
    with refused(errno.ENOENT):
        uffd.writeprotect(arena.at, 8 * PAGE)
    with refused(errno.EINVAL):
        uffd.writeprotect(arena.at, 1)


def test_writeprotect_and_back() -> None:
    arena = Arena(4)
    arena.write(0)
    arena.armed()
    arena.uffd.writeprotect(arena.at, 2 * PAGE, protect=False)
    assert arena.written() == [0, 1]


@pytest.mark.parametrize("how", ["unregister", "close"])
def test_everything_is_written_after_unregistering(how: str) -> None:
    """2.5: all bits are cleared at once; registering again starts un-armed."""
    arena = Arena(4)
    arena.write(0)
    arena.armed()
    arena.uffd.unregister(arena.at, 4 * PAGE) if how == "unregister" else arena.uffd.close()
    assert arena.scan().regions == [(0, 1, WRITTEN | PRESENT), (1, 4, WRITTEN)]
    arena.register()
    assert arena.written() == [0, 1, 2, 3]


def test_closed() -> None:
    arena = Arena(4).armed()
    arena.uffd.close()
    arena.uffd.close()
    with pytest.raises(Closed):
        arena.uffd.writeprotect(arena.at, 4 * PAGE)


def test_a_write_waits_in_synchronous_mode() -> None:
    arena = Arena(4)
    arena.write(1)
    uffd = arena.process.open_userfaultfd(0)
    uffd.register(arena.at, 4 * PAGE)
    uffd.writeprotect(arena.at, 4 * PAGE)
    with pytest.raises(FaultBlocks):
        arena.write(1)
    arena.read(1)
    uffd.writeprotect(arena.at, 4 * PAGE, protect=False)
    arena.write(1)


def test_registration_splits_and_unregistering_merges_mappings() -> None:
    arena = Arena(8)
    uffd = arena.register(2, 4)
    assert [(m.start - arena.at) // PAGE for m in arena.process.mappings()] == [0, 2, 4]
    uffd.unregister(arena.at, 8 * PAGE)
    assert len(arena.process.mappings()) == 1


def test_guard_install_over_protected_shared_memory_never_returns() -> None:
    """Found by the differential test on 6.18.44 (the caller can be killed)."""
    arena = Arena(4, "shmem", real=True).armed()
    with pytest.raises(KernelFailure, match="never returns"):
        arena.advise("guard_install", 0, 1)
    clean = Arena(4, "shmem").armed()
    clean.advise("guard_install", 0, 1)
    with refused(errno.EFAULT):
        clean.read(0)
