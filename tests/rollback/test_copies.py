"""Saved bytes moved either way: every alignment, many runs and few, against slices of plain arrays."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import pagescan
from pagescan import Category, Regions
from pagescan.model import Machine
from pagescan.process.current import current_space
from pagescan.rollback.copies import _PIECE, Copy, OwnCopy, _pieces, contents

PAGE = mmap.PAGESIZE
PAGES = 80

pytestmark = pytest.mark.usefixtures("tracking")


def own(start: int, nbytes: int) -> tuple[OwnCopy, np.ndarray]:
    """A copy of bytes [start, start + nbytes) of a page-aligned array, all of which is returned."""
    whole = pagescan.empty(PAGES * PAGE, np.uint8)
    whole[:] = np.arange(len(whole)) % 251
    at = whole.ctypes.data
    return OwnCopy(current_space(), at + start, at + start + nbytes), whole


def pages_of(address: int, numbers: list[int]) -> Regions:
    return Regions.from_pages([address + number * PAGE for number in numbers], page_size=PAGE)


cuts = st.integers(0, PAGES * PAGE)


@given(first=cuts, second=cuts, numbers=st.sets(st.integers(0, PAGES - 1)))
@example(first=0, second=PAGES * PAGE, numbers=set(range(0, PAGES, 2)))  # by pages
@example(first=5, second=PAGES * PAGE - 5, numbers=set(range(0, PAGES, 2)))  # by pages, with edges
@example(first=5, second=9, numbers={0})
@example(first=PAGE, second=PAGE, numbers={0, 1})
def test_restore_and_renew_move_the_pages_of_the_range_alone(first, second, numbers):
    start, end = sorted((first, second))
    copy, whole = own(start, end - start)
    before = whole.copy()
    whole[:] = 255
    expected = whole.copy()
    for number in numbers:
        low, high = max(start, number * PAGE), min(end, (number + 1) * PAGE)
        expected[low:high] = before[low:high]
    regions = pages_of(whole.ctypes.data, sorted(numbers))
    inside = sum(max(0, min(end, (n + 1) * PAGE) - max(start, n * PAGE)) for n in numbers)
    assert copy.restore(regions) == inside
    assert np.array_equal(whole, expected)
    unlike = copy.differing(pages_of(whole.ctypes.data, list(range(PAGES))))
    wrong = {
        n for n in set(range(PAGES)) - numbers if max(start, n * PAGE) < min(end, (n + 1) * PAGE)
    }  # pages of the range that were not put back
    found = {(int(page) - whole.ctypes.data) // PAGE for page in unlike.pages().tolist()}
    assert found == wrong or found == set(range(start // PAGE, -(-end // PAGE)))  # all of it is one run
    whole[:] = 7
    assert copy.renew(regions) == inside
    whole[:] = 8
    copy.restore(regions)
    for number in numbers:
        assert set(whole[max(start, number * PAGE) : min(end, (number + 1) * PAGE)].tolist()) <= {7}


def test_memory_of_the_model_is_moved_through_its_page_tables():
    process = Machine().process()
    at = process.mmap(8 * PAGE)
    process.write(at, bytes(range(256)) * (8 * PAGE // 256))
    before = process.read(at, 8 * PAGE)
    copy = Copy(process, at + 10, at + 8 * PAGE - 10)
    process.write(at, b"\xff" * 8 * PAGE)
    assert copy.restore(pages_of(at, [0, 3, 7])) == 3 * PAGE - 20
    now = process.read(at, 8 * PAGE)
    assert now[:10] == now[-10:] == b"\xff" * 10
    assert now[10:PAGE] == before[10:PAGE]
    assert now[PAGE : 3 * PAGE] == b"\xff" * 2 * PAGE
    assert now[3 * PAGE : 4 * PAGE] == before[3 * PAGE : 4 * PAGE]
    assert copy.differing(pages_of(at, [0, 1, 3])).page_count == 1
    part = copy.part(at + PAGE, at + 2 * PAGE)
    assert part.restore(pages_of(at, [0, 1, 2])) == PAGE
    assert process.read(at + PAGE, PAGE) == before[PAGE : 2 * PAGE]


def test_what_was_never_touched_takes_no_memory():
    array = pagescan.empty(64 << 20, np.uint8)
    array[5 * PAGE] = array[6 * PAGE] = array[9000 * PAGE] = 1
    at = array.ctypes.data
    assert int(array[100 * PAGE]) == 0  # a read maps the page of zeros, which holds nothing
    assert contents(current_space(), at, at + array.nbytes) == pages_of(at, [5, 6, 9000])
    copy = OwnCopy(current_space(), at, at + array.nbytes)
    present = pagescan.scan(copy.saved, required_mask=Category.PRESENT, excluded_mask=Category.PFNZERO)
    assert present.page_count == 3
    assert np.array_equal(copy.saved[9000 * PAGE : 9001 * PAGE], array[9000 * PAGE : 9001 * PAGE])


def test_pieces_are_bounded_and_all_there_is():
    gib = 1 << 30
    regions = Regions(
        [(gib, 3 * gib + PAGE, 0), (1 << 46, (1 << 46) + PAGE, 0), ((1 << 46) + 2 * PAGE, (1 << 46) + 3 * PAGE, 0)]
    )
    pieces = list(_pieces(regions))
    assert max(piece.byte_count for piece in pieces) <= _PIECE
    assert len(pieces) == 2 * gib // _PIECE + 2
    assert Regions.union(pieces) == regions
    assert list(_pieces(regions.clip(0, 0))) == []
