"""Level 1: one PAGEMAP_SCAN call, on tiny mappings with exact answers."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest

import pagescan
from pagescan import (
    Category,
    Closed,
    InvalidArgument,
    NoSuchProcess,
    NotWriteProtectable,
    Op,
    Pagemap,
    UnknownCategory,
    pagemap_scan,
    prepare_scan,
)
from pagescan.abi import TRACKING_FEATURES
from pagescan.kernel.userfaultfd import open_userfaultfd
from tests.conformance import model_memory
from tests.conformance.kernel_memory import HUGE, MAP_HUGE_2MB, array_at, huge_pages_reserved, libc, raw_mmap

PAGE = mmap.PAGESIZE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_FIXED = 0x10
WRITTEN: dict[str, Any] = {"required_mask": Category.WRITTEN, "return_mask": Category.WRITTEN}
GET_WP = Op.GET | Op.WP


@pytest.fixture
def pagemap(tracking: None) -> Iterator[Pagemap]:
    with Pagemap.open("self") as opened:
        yield opened


class Armed:
    """Pages that are populated, registered and write-protected by hand: the documented steps, one by one."""

    def __init__(self, pagemap: Pagemap, pages: int):
        self.nbytes = pages * PAGE
        self.at = raw_mmap(self.nbytes, PRIVATE)
        self.array = array_at(self.at, self.nbytes)
        self.array[:] = 1
        self.uffd = open_userfaultfd(TRACKING_FEATURES)
        self.uffd.register(self.at, self.nbytes)
        pagemap_scan(pagemap, self.at, self.nbytes, ops=Op.WP)

    def write(self, *pages: int) -> None:
        for page in pages:
            self.array[page * PAGE] = 2

    def pages(self, scan: pagescan.Scan) -> list[tuple[int, int]]:
        """The regions as page numbers, half-open."""
        return [((int(r["start"]) - self.at) // PAGE, (int(r["end"]) - self.at) // PAGE) for r in scan.regions]

    def close(self) -> None:
        self.uffd.close()
        libc.munmap(self.at, self.nbytes)


@pytest.fixture
def armed(pagemap: Pagemap) -> Iterator[Armed]:
    made = Armed(pagemap, 16)
    yield made
    made.close()


class TestOperations:
    def test_get_reports_and_protects_nothing(self, pagemap, armed):
        armed.write(3, 4, 9)
        for _ in range(2):
            scan = pagemap_scan(pagemap, armed.at, armed.nbytes, **WRITTEN)
            assert armed.pages(scan) == [(3, 5), (9, 10)]
            assert scan.regions["categories"].tolist() == [int(Category.WRITTEN)] * 2
            assert (scan.walk_end, scan.complete) == (armed.at + armed.nbytes, True)

    def test_get_and_wp_reports_and_protects(self, pagemap, armed):
        armed.write(3, 9)
        assert armed.pages(pagemap_scan(pagemap, armed.at, armed.nbytes, ops=GET_WP, **WRITTEN)) == [(3, 4), (9, 10)]
        assert armed.pages(pagemap_scan(pagemap, armed.at, armed.nbytes, ops=GET_WP, **WRITTEN)) == []
        armed.write(9)
        assert armed.pages(pagemap_scan(pagemap, armed.at, armed.nbytes, ops=GET_WP, **WRITTEN)) == [(9, 10)]

    def test_wp_alone_protects_and_reports_nothing(self, pagemap, armed):
        armed.write(3, 9)
        scan = pagemap_scan(pagemap, armed.at, armed.nbytes, ops=Op.WP)
        assert (len(scan.regions), scan.complete) == (0, True)
        assert armed.pages(pagemap_scan(pagemap, armed.at, armed.nbytes, **WRITTEN)) == []

    def test_wp_alone_honours_masks(self, pagemap, armed):
        """Without an output buffer the kernel would ignore them."""
        armed.write(3)
        pagemap_scan(pagemap, armed.at, armed.nbytes, ops=Op.WP, required_mask=Category.SWAPPED)
        assert armed.pages(pagemap_scan(pagemap, armed.at, armed.nbytes, **WRITTEN)) == [(3, 4)]

    def test_wp_alone_honours_max_pages(self, pagemap, armed):
        armed.write(*range(16))
        scan = pagemap_scan(pagemap, armed.at, armed.nbytes, ops=Op.WP, max_pages=5)
        assert scan.walk_end == armed.at + 5 * PAGE
        assert not scan.complete
        assert armed.pages(pagemap_scan(pagemap, armed.at, armed.nbytes, **WRITTEN)) == [(5, 16)]

    def test_wp_alone_works_to_the_end_of_a_fragmented_range(self, pagemap):
        armed = Armed(pagemap, 64)
        armed.write(*range(0, 64, 2))
        scan = pagemap_scan(pagemap, armed.at, armed.nbytes, ops=Op.WP, required_mask=Category.WRITTEN, vec_len=3)
        assert scan.complete
        assert armed.pages(pagemap_scan(pagemap, armed.at, armed.nbytes, **WRITTEN)) == []
        armed.close()


class TestMasks:
    def test_neighbours_merge_by_the_categories_returned(self, pagemap, armed):
        armed.write(2, 3, 7)
        both: dict[str, Any] = {"required_mask": Category.PRESENT, "require_wp_async": True}
        assert armed.pages(pagemap_scan(pagemap, armed.at, armed.nbytes, return_mask=0, **both)) == [(0, 16)]
        scan = pagemap_scan(pagemap, armed.at, armed.nbytes, return_mask=Category.WRITTEN, **both)
        assert armed.pages(scan) == [(0, 2), (2, 4), (4, 7), (7, 8), (8, 16)]
        assert scan.regions["categories"].tolist() == [0, 2, 0, 2, 0]

    def test_excluded(self, pagemap, armed):
        armed.write(2, 3)
        scan = pagemap_scan(pagemap, armed.at, armed.nbytes, excluded_mask=Category.WRITTEN, return_mask=0)
        assert armed.pages(scan) == [(0, 2), (4, 16)]

    def test_anyof(self, pagemap, armed):
        armed.write(2)
        libc.madvise(armed.at + 5 * PAGE, PAGE, 4)
        anyof: dict[str, Any] = {"anyof_mask": Category.FILE | Category.SWAPPED | Category.WRITTEN, "return_mask": 0}
        # Before 6.12.103 and 7.2 this form does not report what was dropped (bug dropped-unreported).
        dropped = [(5, 6)] if pagemap.space.prove_tracking().reports_dropped else []
        assert armed.pages(pagemap_scan(pagemap, armed.at, armed.nbytes, **anyof)) == [(2, 3), *dropped]

    def test_anyof_partly_excluded(self, pagemap, armed):
        armed.write(2)
        masks: dict[str, Any] = {
            "anyof_mask": Category.WRITTEN | Category.FILE,
            "excluded_mask": Category.FILE,
            "return_mask": 0,
        }
        assert armed.pages(pagemap_scan(pagemap, armed.at, armed.nbytes, **masks)) == [(2, 3)]

    @pytest.mark.parametrize(
        "masks",
        [
            {"required_mask": Category.PRESENT, "excluded_mask": Category.PRESENT},
            {"anyof_mask": Category.FILE | Category.WRITTEN, "excluded_mask": Category.FILE | Category.WRITTEN},
        ],
    )
    def test_masks_that_can_never_match_make_no_call(self, armed, masks, monkeypatch):
        with Pagemap.open("self") as pagemap:
            assert pagemap.known
            monkeypatch.setattr(pagemap, "bind", lambda argument, vec: lambda: pytest.fail("the kernel was called"))
            scan = pagemap_scan(pagemap, armed.at, armed.nbytes, ops=GET_WP, **masks)
            assert (len(scan.regions), scan.complete, scan.walk_end) == (0, True, armed.at + armed.nbytes)

    def test_unknown_bits_are_refused(self, pagemap, armed):
        with pytest.raises(InvalidArgument, match="required_mask"):
            pagemap_scan(pagemap, armed.at, PAGE, required_mask=1 << 20)

    def test_a_category_the_kernel_lacks_is_unknown_rather_than_absent(self, armed):
        with Pagemap.open("self") as pagemap:
            Old = type("Old", (Pagemap,), {"known": Category((1 << 7) - 1)})
            pagemap.__class__ = Old
            scan = pagemap_scan(pagemap, armed.at, PAGE, return_mask=Category.PRESENT | Category.GUARD)
            assert scan.unknown == Category.GUARD
            assert scan.regions["categories"].tolist() == [int(Category.PRESENT)]
            with pytest.raises(UnknownCategory, match="guard"):
                pagemap_scan(pagemap, armed.at, PAGE, required_mask=Category.GUARD)


class TestLimits:
    """dirty {1, 3, 4, 7}, as in kernel-facts."""

    @pytest.fixture
    def dirty(self, armed) -> Armed:
        armed.write(1, 3, 4, 7)
        return armed

    @pytest.mark.parametrize(
        ("vec_len", "regions", "walk_end", "complete"),
        [
            (1, [(1, 2)], 3, False),
            (2, [(1, 2), (3, 5)], 7, False),
            (3, [(1, 2), (3, 5), (7, 8)], 16, True),
            (4, [(1, 2), (3, 5), (7, 8)], 16, True),
        ],
    )
    def test_vec_len(self, pagemap, dirty, vec_len, regions, walk_end, complete):
        scan = pagemap_scan(pagemap, dirty.at, dirty.nbytes, vec_len=vec_len, **WRITTEN)
        assert dirty.pages(scan) == regions
        assert (scan.walk_end - dirty.at) // PAGE == walk_end
        assert scan.complete == complete

    @pytest.mark.parametrize(
        ("max_pages", "regions"),
        [(1, [(1, 2)]), (2, [(1, 2), (3, 4)]), (3, [(1, 2), (3, 5)]), (9, [(1, 2), (3, 5), (7, 8)])],
    )
    def test_max_pages_cuts_exactly(self, pagemap, dirty, max_pages, regions):
        scan = pagemap_scan(pagemap, dirty.at, dirty.nbytes, max_pages=max_pages, ops=GET_WP, **WRITTEN)
        assert dirty.pages(scan) == regions
        rest = pagemap_scan(pagemap, scan.walk_end, dirty.at + dirty.nbytes - scan.walk_end, ops=GET_WP, **WRITTEN)
        found = [page for part in (scan, rest) for low, high in dirty.pages(part) for page in range(low, high)]
        assert found == [1, 3, 4, 7]

    @pytest.mark.parametrize("vec_len", [513, 4000])
    def test_more_than_512_regions_are_counted_once(self, pagemap, vec_len):
        """The kernel's walk_end is stale here; a loop on it would report regions twice."""
        armed = Armed(pagemap, 1200)
        armed.write(*range(0, 1200, 2))
        found, position = 0, armed.at
        while position < armed.at + armed.nbytes:
            scan = pagemap_scan(pagemap, position, armed.at + armed.nbytes - position, vec_len=vec_len, **WRITTEN)
            found += len(scan.regions)
            position = scan.walk_end
        assert found == 600
        armed.close()

    def test_an_unaligned_length_is_rounded_up(self, pagemap, dirty):
        assert dirty.pages(pagemap_scan(pagemap, dirty.at, PAGE + 1, **WRITTEN)) == [(1, 2)]

    def test_an_empty_range(self, pagemap, dirty):
        scan = pagemap_scan(pagemap, dirty.at, 0, ops=GET_WP, **WRITTEN)
        assert (len(scan.regions), scan.walk_end, scan.complete) == (0, dirty.at, True)


class TestRepeatedCalls:
    def test_an_answer_stays_as_it_was(self, pagemap, armed):
        armed.write(1)
        first = pagemap_scan(pagemap, armed.at, armed.nbytes, **WRITTEN)
        armed.write(0, 5)
        second = pagemap_scan(pagemap, armed.at, armed.nbytes, **WRITTEN)
        assert armed.pages(first) == [(1, 2)]
        assert armed.pages(second) == [(0, 2), (5, 6)]

    def test_prepared(self, pagemap, armed):
        prepared = prepare_scan(pagemap, armed.at, armed.nbytes, ops=GET_WP, **WRITTEN)
        for pages in ([2], [], [4, 9]):
            armed.write(*pages)
            assert prepared.run() == len(pages)
            assert [(int(r["start"]) - armed.at) // PAGE for r in prepared.regions] == pages
            assert prepared.complete
            assert prepared.walk_end == armed.at + armed.nbytes

    def test_after_close(self, armed):
        pagemap = Pagemap.open("self")
        prepared = prepare_scan(pagemap, armed.at, armed.nbytes, **WRITTEN)
        pagemap.close()
        with pytest.raises(Closed, match="closed"):
            prepared.run()
        with pytest.raises(Closed):
            pagemap_scan(pagemap, armed.at, armed.nbytes, **WRITTEN)


class TestUntracked:
    """Of memory that nobody tracks, "all written" is never said."""

    @pytest.fixture
    def plain(self, pagemap) -> Iterator[int]:
        # Between two mappings without access, so that it merges with no neighbour.
        whole = raw_mmap(6 * PAGE, PRIVATE, prot=0)
        at = raw_mmap(4 * PAGE, PRIVATE | MAP_FIXED, address=whole + PAGE)
        array_at(at, 4 * PAGE)[:] = 1
        yield at
        libc.munmap(whole, 6 * PAGE)

    @pytest.mark.parametrize("mask", ["required_mask", "anyof_mask", "excluded_mask"])
    def test_written_in_a_deciding_mask_is_an_error_that_names_the_mapping(self, pagemap, plain, mask):
        masks: dict[str, Any] = {mask: Category.WRITTEN}
        with pytest.raises(NotWriteProtectable, match=f"{plain:#x}-{plain + 4 * PAGE:#x} rw-p"):
            pagemap_scan(pagemap, plain, 4 * PAGE, **masks)

    def test_wp_is_an_error(self, pagemap, plain):
        with pytest.raises(NotWriteProtectable, match="cannot be write-protected"):
            pagemap_scan(pagemap, plain, 4 * PAGE, ops=Op.WP)

    def test_the_first_untracked_mapping_is_named(self, pagemap, plain):
        with open_userfaultfd(TRACKING_FEATURES) as uffd:
            uffd.register(plain, 2 * PAGE)
            with pytest.raises(NotWriteProtectable, match=f"mapping {plain + 2 * PAGE:#x}-{plain + 4 * PAGE:#x} "):
                pagemap_scan(pagemap, plain, 4 * PAGE, **WRITTEN)

    def test_returned_alone_it_is_not_set(self, pagemap, plain):
        scan = pagemap_scan(pagemap, plain, 4 * PAGE)
        assert len(scan.regions) == 1
        assert int(scan.regions["categories"][0]) & ~Category.SOFT_DIRTY == Category.PRESENT

    def test_returned_alone_it_is_told_of_what_is_tracked(self, pagemap, armed):
        armed.write(3)
        masks: dict[str, Any] = {"required_mask": Category.PRESENT, "return_mask": Category.WRITTEN | Category.PRESENT}
        scan = pagemap_scan(pagemap, armed.at, armed.nbytes, **masks)
        assert armed.pages(scan) == [(0, 3), (3, 4), (4, 16)]
        assert scan.regions["categories"].tolist() == [8, 10, 8]

    def test_without_the_check_it_is_passed_over(self, pagemap, plain):
        scan = pagemap_scan(pagemap, plain, 4 * PAGE, require_wp_async=False, **WRITTEN)
        assert len(scan.regions) == 0
        assert scan.complete


class TestBadInput:
    def test_unaligned_start(self, pagemap, armed):
        with pytest.raises(InvalidArgument, match=f"round down to {armed.at:#x}"):
            pagemap_scan(pagemap, armed.at + 1, PAGE)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"length": -1}, "length"),
            ({"ops": 0}, "ops"),
            ({"ops": 4}, "ops"),
            ({"max_pages": -1}, "max_pages"),
            ({"vec_len": 0}, "vec_len"),
            ({"vec_len": 1 << 40}, "vec_len"),
        ],
    )
    def test_numbers_out_of_range(self, pagemap, armed, kwargs, message):
        with pytest.raises(InvalidArgument, match=message):
            pagemap_scan(pagemap, armed.at, **{"length": PAGE, **kwargs})

    def test_the_upper_half_of_the_address_space(self, pagemap):
        with pytest.raises(InvalidArgument, match="user half"):
            pagemap_scan(pagemap, 1 << 63, PAGE)

    def test_unmapped_memory_scans_as_empty(self, pagemap):
        at = raw_mmap(PAGE, PRIVATE)
        libc.munmap(at, PAGE)
        assert len(pagemap_scan(pagemap, at, PAGE).regions) == 0

    def test_no_such_process(self):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(NoSuchProcess):
            Pagemap.open(pid)


class TestHugePages:
    @pytest.fixture
    def huge(self, pagemap) -> Iterator[Armed]:
        with huge_pages_reserved(4):
            made = Armed.__new__(Armed)
            made.nbytes = 4 * HUGE
            made.at = raw_mmap(made.nbytes, PRIVATE | MAP_HUGE_2MB)
            made.array = array_at(made.at, made.nbytes)
            made.array[::PAGE] = 1
            made.uffd = open_userfaultfd(TRACKING_FEATURES)
            made.uffd.register(made.at, made.nbytes)
            made.uffd.writeprotect(made.at, made.nbytes)
            yield made
            made.close()

    def test_one_byte_is_one_huge_page(self, pagemap, huge):
        huge.array[HUGE + 5] = 9
        assert huge.pages(pagemap_scan(pagemap, huge.at, huge.nbytes, ops=GET_WP, **WRITTEN)) == [
            (HUGE // PAGE, 2 * HUGE // PAGE)
        ]
        assert huge.pages(pagemap_scan(pagemap, huge.at, huge.nbytes, ops=GET_WP, **WRITTEN)) == []

    def test_looking_at_part_of_a_huge_page(self, pagemap, huge):
        huge.array[HUGE + 5] = 9
        first = HUGE // PAGE + 1
        assert huge.pages(pagemap_scan(pagemap, huge.at + first * PAGE, 2 * PAGE, **WRITTEN)) == [(first, first + 2)]

    def test_protecting_part_of_a_huge_page_is_refused_before_anything_is_done(self, pagemap, huge):
        huge.array[::HUGE] = 9
        for start, end in ((huge.at + PAGE, huge.at + 2 * HUGE), (huge.at, huge.at + HUGE + PAGE)):
            with pytest.raises(InvalidArgument, match="whole huge pages only"):
                pagemap_scan(pagemap, start, end - start, ops=GET_WP, **WRITTEN)
        assert huge.pages(pagemap_scan(pagemap, huge.at, huge.nbytes, **WRITTEN)) == [(0, 4 * HUGE // PAGE)]

    def test_max_pages_that_could_stop_inside_one_is_refused(self, pagemap, huge):
        with pytest.raises(InvalidArgument, match="max_pages"):
            pagemap_scan(pagemap, huge.at, huge.nbytes, ops=GET_WP, max_pages=1, **WRITTEN)


@pytest.mark.parametrize("behaviour", ["6.7", "6.12", "6.18", "7.3"])
@pytest.mark.parametrize("masks", [{}, {"required_mask": Category.WRITTEN}])
def test_wp_alone_protects_untouched_pages_on_every_release(behaviour, masks):
    """On the model: beside a touched page lie empty entries of its page table, which older releases pass over."""
    with model_memory.memory_of("anonymous-private", behaviour) as memory:
        memory.poke(0, 1)
        with memory.process.open_userfaultfd(TRACKING_FEATURES) as uffd:
            uffd.register(memory.address, 16 * 4096)
            pagemap_scan(memory.process.pagemap, memory.address, 16 * 4096, ops=Op.WP, **masks)
            memory.look(5 * 4096)
            memory.poke(7 * 4096, 1)
            found = pagemap_scan(memory.process.pagemap, memory.address, 16 * 4096, **WRITTEN).regions
            assert [(int(r["start"]) - memory.address) // 4096 for r in found] == [7]
