"""What a tracker answers: buffers of every sort, readers, transactions, quality, errors."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing.shared_memory
import tempfile

import numpy as np
import pytest

import pagescan
from pagescan import Category, Closed, InvalidArgument, NotABuffer, NotContiguous, NotWriteProtectable, Quality

PAGE = mmap.PAGESIZE


def pages(written: pagescan.Regions, base: int) -> list[int]:
    return [(int(address) - base) // PAGE for address in written.pages().tolist()]


def around(element: int, slices: list[slice]) -> slice:
    """The one slice that holds an element. (Edge pages, which others write to as well, may be among the slices.)"""
    (found,) = [part for part in slices if part.start <= element < part.stop]
    return found


@pytest.fixture
def array() -> np.ndarray:
    made = pagescan.zeros(16 * PAGE, np.uint8)
    made[:] = 1
    return made


class TestBuffers:
    """Anything with memory can be tracked; the answer comes in its own elements."""

    @pytest.mark.parametrize("dtype", ["u1", "<i2", "f4", "f8", "c16", "M8[ns]", "S3", "i4,f8", "?"])
    def test_numpy_arrays_of_any_dtype(self, dtype):
        array = np.zeros(20 * PAGE // np.dtype(dtype).itemsize, dtype)
        with pagescan.track(array) as tracker:
            at = 9 * PAGE // array.itemsize
            array[at] = array[0]
            written = around(at, tracker.take().slices(array))
            assert (written.stop - written.start) * array.itemsize < PAGE + 2 * array.itemsize

    def test_a_matrix_answers_in_its_flattened_elements(self):
        matrix = pagescan.zeros((8, 1024), np.float32)
        with pagescan.track(matrix) as tracker:
            matrix[3, 5] = 1
            row = PAGE // 4  # elements of a page
            assert tracker.take().slices(matrix) == [slice(3 * 1024 // row * row, (3 * 1024 // row + 1) * row)]
            assert matrix.reshape(-1)[3072:4096].sum() == 1

    def test_bytearray(self):
        buffer = bytearray(10 * PAGE)
        with pagescan.track(buffer) as tracker:
            buffer[5 * PAGE] = 1
            written = around(5 * PAGE, tracker.take().slices(buffer))
            assert written.stop - written.start == PAGE

    @pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
    def test_anonymous_mmap(self, flags):
        buffer = mmap.mmap(-1, 8 * PAGE, flags=flags | mmap.MAP_ANONYMOUS)
        with pagescan.track(buffer) as tracker:
            buffer[2 * PAGE] = 1
            assert tracker.take().slices(buffer) == [slice(2 * PAGE, 3 * PAGE)]
            with pytest.raises(BufferError):
                buffer.close()
        buffer.close()

    @pytest.mark.parametrize("access", [mmap.ACCESS_WRITE, mmap.ACCESS_COPY])
    def test_file_mmap(self, access):
        with tempfile.TemporaryFile(dir=".") as file:
            file.truncate(8 * PAGE)
            with mmap.mmap(file.fileno(), 0, access=access) as buffer, pagescan.track(buffer) as tracker:
                buffer[2 * PAGE] = 1
                assert tracker.take().slices(buffer) == [slice(2 * PAGE, 3 * PAGE)]

    def test_memoryview(self, array):
        view = memoryview(array)[4 * PAGE : 8 * PAGE]
        with pagescan.track(view) as tracker:
            array[0] = 2
            array[5 * PAGE] = 2
            assert tracker.take().slices(view) == [slice(PAGE, 2 * PAGE)]

    def test_shared_memory(self):
        block = multiprocessing.shared_memory.SharedMemory(create=True, size=8 * PAGE)
        try:
            with pagescan.track(block) as tracker:
                assert block.buf is not None
                block.buf[3 * PAGE] = 1
                assert tracker.take().slices(block) == [slice(3 * PAGE, 4 * PAGE)]
        finally:
            block.close()
            block.unlink()

    def test_ctypes_array(self):
        buffer = (ctypes.c_uint64 * (8 * PAGE // 8))()
        with pagescan.track(buffer) as tracker:
            middle = PAGE // 2  # far from the edge pages, which it shares with others
            buffer[middle] = 1
            written = around(middle, tracker.take().slices(buffer))
            assert written.stop - written.start == PAGE // 8

    def test_what_looks_like_a_torch_tensor(self, array):
        tensor = FakeTensor(array.view(np.float32))
        with pagescan.track(tensor) as tracker:
            array[3 * PAGE] = 2
            assert tracker.take().slices(tensor) == [slice(3 * PAGE // 4, PAGE)]

    def test_torch_tensor(self):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        tensor = torch.zeros(64 * PAGE // 4)
        with pagescan.track(tensor) as tracker:
            tensor[20000] = 1
            written = around(20000, tracker.take().slices(tensor))
            assert written.stop - written.start == PAGE // 4

    def test_several_buffers_in_one_tracker(self, array):
        other = pagescan.zeros(4 * PAGE, np.uint8)
        with pagescan.track(array, other) as tracker:
            array[PAGE] = other[2 * PAGE] = 9
            written = tracker.take()
            assert written.slices(array) == [slice(PAGE, 2 * PAGE)]
            assert written.slices(other) == [slice(2 * PAGE, 3 * PAGE)]
            assert written.page_count == 2

    def test_an_empty_buffer_never_changes(self):
        empty = np.zeros(0)
        with pagescan.track(empty) as tracker:
            assert tracker.take().slices(empty) == []

    def test_a_readonly_array_can_be_tracked(self, array):
        readonly = array.view()
        readonly.flags.writeable = False
        with pagescan.track(readonly) as tracker:
            array[PAGE] = 3
            assert tracker.take().slices(readonly) == [slice(PAGE, 2 * PAGE)]


class FakeTensor:
    """What pagescan uses of a torch tensor, over a numpy array."""

    layout = "torch.strided"

    class device:
        type = "cpu"

    def __init__(self, array: np.ndarray):
        self.array = array

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def element_size(self) -> int:
        return self.array.itemsize

    def numel(self) -> int:
        return self.array.size

    def is_contiguous(self) -> bool:
        return True


class TestReaders:
    """Each reader has its own "since I last asked"."""

    def test_a_cursor_begins_where_it_was_made(self, array):
        with pagescan.track(array) as tracker:
            array[0] = 2
            cursor = tracker.cursor()
            assert len(cursor.take()) == 0
            assert tracker.take().slices(array) == [slice(0, PAGE)]

    def test_readers_do_not_take_from_each_other(self, array):
        base = array.ctypes.data
        with pagescan.track(array) as tracker:
            cursor = tracker.cursor()
            array[PAGE] = 2
            assert pages(tracker.take(), base) == [1]
            array[2 * PAGE] = 2
            assert pages(cursor.peek(), base) == [1, 2]
            assert pages(cursor.take(), base) == [1, 2]
            assert pages(tracker.take(), base) == [2]
            assert len(cursor.take()) == len(tracker.take()) == 0

    def test_trackers_of_overlapping_memory_share_one_userfaultfd(self, array):
        base = array.ctypes.data
        with pagescan.track(array[: 10 * PAGE]) as left:
            array[6 * PAGE] = 2
            with pagescan.track(array[5 * PAGE :]) as right:
                assert len(right.take()) == 0
                array[7 * PAGE] = array[0] = array[15 * PAGE] = 2
                assert pages(right.take(), base) == [7, 15]
                assert pages(left.take(), base) == [0, 6, 7]
                array[8 * PAGE] = 2
            assert pages(left.take(), base) == [8]
            array[9 * PAGE] = 2
            assert pages(left.take(), base) == [9]

    def test_closing_the_first_of_two_keeps_the_second(self, array):
        first = pagescan.track(array)
        second = pagescan.track(array[4 * PAGE : 8 * PAGE])
        array[5 * PAGE] = 3
        first.close()
        array[6 * PAGE] = 3
        assert pages(second.take(), array.ctypes.data) == [5, 6]
        second.close()

    def test_a_forgotten_tracker_ends_by_itself(self, array):
        pagescan.track(array)
        mapped = list(pagescan.scan(array, return_mask=Category.WPALLOWED))
        assert [m.categories for m in mapped] == [Category(0)]

    def test_a_cursor_keeps_its_coverage_alive(self, array):
        cursor = pagescan.track(array).cursor()
        array[PAGE] = 5
        assert pages(cursor.take(), array.ctypes.data) == [1]


class TestTaking:
    def test_a_body_that_succeeds_takes(self, array):
        with pagescan.track(array) as tracker:
            array[PAGE] = 2
            with tracker.taking() as written:
                assert written.slices(array) == [slice(PAGE, 2 * PAGE)]
            assert len(tracker.take()) == 0

    def test_a_body_that_fails_gives_back(self, array):
        with pagescan.track(array) as tracker:
            array[PAGE] = 2
            taking = tracker.taking()
            taking.__enter__()
            array[3 * PAGE] = 2
            assert not taking.__exit__(ConnectionError, ConnectionError(), None)
            assert tracker.changed()
            assert pages(tracker.peek(), array.ctypes.data) == [1, 3]
            assert pages(tracker.take(), array.ctypes.data) == [1, 3]
            assert not tracker.changed()


class TestQuality:
    def test_page_exclusive_memory_is_exact(self, array):
        with pagescan.track(array) as tracker:
            array[:] = 2
            written = tracker.take()
            assert (written.quality, written.reason) == (Quality.EXACT, "")

    def test_an_edge_page_shared_with_a_neighbour_is_said(self, array):
        left, right = array[: 3 * PAGE // 2], array[3 * PAGE // 2 :]
        with pagescan.track(left) as tracker:
            right[0] = 2
            written = tracker.take()
            assert written.slices(left) == [slice(PAGE, 3 * PAGE // 2)]
            assert written.quality is Quality.SUPERSET
            assert "edge page" in written.reason
            left[0] = 2
            assert tracker.take().quality is Quality.EXACT

    def test_two_tracked_neighbours_share_no_foreign_edge(self, array):
        with pagescan.track(array[: 3 * PAGE // 2], array[3 * PAGE // 2 :]) as tracker:
            array[PAGE] = 2
            assert tracker.take().quality is Quality.EXACT

    def test_slices_of_what_is_not_tracked_are_refused(self, array):
        with pagescan.track(array[: 4 * PAGE]) as tracker:
            array[0] = 2
            written = tracker.take()
            assert written.slices(array[PAGE : 2 * PAGE]) == []
            with pytest.raises(InvalidArgument, match=r"not \(wholly\) within"):
                written.slices(array)


class TestBadInput:
    """Each says cause and cure, and leaves nothing behind."""

    def test_no_buffer(self):
        with pytest.raises(InvalidArgument, match="no buffer"):
            pagescan.track()

    def test_not_a_buffer(self):
        with pytest.raises(NotABuffer, match="dict has no memory"):
            pagescan.track({})

    def test_text_is_not_a_buffer(self):
        with pytest.raises(NotABuffer):
            pagescan.track("self")

    def test_scattered_array(self, array):
        with pytest.raises(NotContiguous, match="C-contiguous"):
            pagescan.track(array[::2])

    def test_transposed_array(self):
        with pytest.raises(NotContiguous, match="transpose"):
            pagescan.track(np.zeros((100, 100)).T)

    def test_a_good_buffer_before_a_bad_one_is_let_go(self):
        buffer = bytearray(PAGE)
        with pytest.raises(NotABuffer):
            pagescan.track(buffer, 3)
        buffer.extend(b"x")

    def test_unknown_words(self, array):
        with pytest.raises(InvalidArgument, match="arm = 'no'"):
            pagescan.track(array, arm="no")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="on_lost = 'no'"):
            pagescan.track(array, on_lost="no")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="engine = 'no'"):
            pagescan.track(array, engine="no")

    def test_a_mapping_that_can_never_be_written_to(self):
        with tempfile.TemporaryFile(dir=".") as file:
            file.truncate(PAGE)
            with (
                open(f"/proc/self/fd/{file.fileno()}", "rb") as reopened,
                mmap.mmap(reopened.fileno(), 0, access=mmap.ACCESS_READ) as buffer,
                pytest.raises(NotWriteProtectable, match="opened read-only"),
            ):
                pagescan.track(buffer, engine="pagemap-scan")

    def test_a_closed_tracker(self, array):
        tracker = pagescan.track(array)
        cursor = tracker.cursor()
        tracker.close()
        tracker.close()
        assert tracker.closed
        for call in (tracker.take, tracker.peek, tracker.changed, tracker.cursor, cursor.take):
            with pytest.raises(Closed, match="track"):
                call()

    def test_an_address_that_is_not_mapped(self):
        class Nowhere:
            address, nbytes, itemsize = 16 * PAGE, PAGE, 1

        with pytest.raises(InvalidArgument, match="not mapped"):
            pagescan.track(Nowhere())
