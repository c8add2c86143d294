"""What the differential test found on Linux 6.18.44, each as a few lines that show it (docs/kernel-facts.md).

A kernel that no longer shows one skips by name: that is good news, and says that a repair may be superfluous there.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

import pytest

import pagescan
from pagescan import Category, CoverageLost, Op, Pagemap, pagemap_scan
from pagescan.abi import REGION_DTYPE, TRACKING_FEATURES, WALK_END, pack_scan_argument
from pagescan.kernel.userfaultfd import open_userfaultfd
from tests.conformance.conftest import tracking as tracking
from tests.conformance.kernel_memory import HUGE, array_at, libc, raw_mmap

PAGE = mmap.PAGESIZE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_FIXED, MREMAP_MAYMOVE_FIXED, MADV_HUGEPAGE = 0x10, 3, 14

libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)


@pytest.fixture
def pagemap(tracking: None) -> Iterator[Pagemap]:
    with Pagemap.open("self") as opened:
        yield opened


@pytest.fixture
def hole() -> Iterator[int]:
    """Room of 64 pages without access, to map in: nothing else is beside it."""
    at = raw_mmap(64 * PAGE, PRIVATE, prot=0)
    yield at
    libc.munmap(at, 64 * PAGE)


def registered(pagemap: Pagemap, at: int, pages: int) -> int:
    """How many of these pages are registered for tracking."""
    found = pagemap_scan(pagemap, at, pages * PAGE, required_mask=Category.WPALLOWED, return_mask=0).regions
    return int((found["end"] - found["start"]).sum()) // PAGE


def test_moving_registered_memory_beside_other_registered_memory_unregisters_both(pagemap, hole):
    neighbour = raw_mmap(4 * PAGE, PRIVATE | MAP_FIXED, address=hole + 8 * PAGE)
    array_at(neighbour, 4 * PAGE)[:] = 1
    # Private memory merges if it also continues the same offset, as it does after a move back to where it came from.
    moving = raw_mmap(4 * PAGE, PRIVATE | MAP_FIXED, address=hole + 12 * PAGE)
    array_at(moving, 4 * PAGE)[:] = 1
    away = hole + 32 * PAGE
    assert libc.mremap(moving, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE_FIXED, away) == away
    with open_userfaultfd(TRACKING_FEATURES) as uffd:
        uffd.register(neighbour, 4 * PAGE)
        uffd.register(away, 4 * PAGE)
        assert registered(pagemap, neighbour, 4) == 4
        assert libc.mremap(away, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE_FIXED, moving) == moving
        if registered(pagemap, neighbour, 4) == 4:
            pytest.skip("this kernel keeps the neighbour registered")
        assert registered(pagemap, neighbour, 4) == 0


def test_a_tracker_notices_that_its_neighbour_took_its_registration(pagemap, hole):
    """The same through trackers: it is an error, never "nothing was written"."""
    neighbour = raw_mmap(4 * PAGE, PRIVATE | MAP_FIXED, address=hole + 8 * PAGE)
    moving = raw_mmap(4 * PAGE, PRIVATE | MAP_FIXED, address=hole + 12 * PAGE)
    array_at(neighbour, 8 * PAGE)[:] = 1
    away = hole + 32 * PAGE
    libc.mremap(moving, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE_FIXED, away)
    with pagescan.track(array_at(neighbour, 4 * PAGE)) as tracker, pagescan.track(array_at(away, 4 * PAGE)):
        libc.mremap(away, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE_FIXED, moving)
        array_at(neighbour, 4 * PAGE)[0] = 2
        if registered(pagemap, neighbour, 4) == 4:
            assert tracker.take().page_count == 1
        else:
            with pytest.raises(CoverageLost):
                tracker.take()


def test_walk_end_is_stale_after_a_huge_page_was_split_for_max_pages(pagemap):
    """Nothing is returned and walk_end stands still although the whole range was examined."""
    at = raw_mmap(2 * HUGE, PRIVATE)
    start = -(-at // HUGE) * HUGE
    try:
        if libc.madvise(start, HUGE, MADV_HUGEPAGE):
            pytest.skip("this kernel has no transparent huge pages")
        array_at(start, HUGE)[0] = 1
        huge = pagemap_scan(pagemap, start, HUGE, required_mask=Category.HUGE, return_mask=0).regions
        if not len(huge):
            pytest.skip("the kernel gave no huge page")
        with open_userfaultfd(TRACKING_FEATURES) as uffd:
            uffd.register(start, HUGE)
            vec = bytearray(REGION_DTYPE.itemsize * 4)
            address = ctypes.addressof(ctypes.c_char.from_buffer(vec))
            argument = pack_scan_argument(
                flags=1,
                start=start,
                end=start + HUGE,
                vec=address,
                vec_len=4,
                max_pages=5,
                category_mask=Category.HUGE,
                return_mask=0,
            )
            count = pagemap.ioctl_scan(argument, None)
            walk_end = memoryview(argument).cast("Q")[WALK_END]
            if count:
                pytest.skip("this kernel matches the pages of the split huge page")
            if walk_end == start + HUGE:
                pytest.skip("this kernel's walk_end is right")
            assert walk_end == start + 5 * PAGE
    finally:
        libc.munmap(at, 2 * HUGE)


def test_the_repaired_scan_ends_all_the_same(pagemap):
    array = pagescan.zeros(HUGE, "u1", huge=True)
    start = array.ctypes.data
    with open_userfaultfd(TRACKING_FEATURES) as uffd:
        uffd.register(start, HUGE)
        masks = {"required_mask": Category.HUGE, "return_mask": 0, "max_pages": 5}
        scan = pagemap_scan(pagemap, start, HUGE, ops=Op.GET | Op.WP, **masks)  # type: ignore[arg-type]
        assert scan.complete or len(scan.regions) == 1
