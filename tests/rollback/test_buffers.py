"""Marks of buffers: which memory, what is refused, neighbours, losses, forks, threads."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing.shared_memory
import tempfile
import threading

import numpy as np
import pytest

import pagescan
from pagescan import Closed, CoverageLost, InvalidArgument, NotABuffer, NotContiguous
from pagescan.testing import FakeMemory
from tests.conformance.kernel_memory import array_at, libc, raw_mmap
from tests.trackers.test_rules import MAP_FIXED, PRIVATE, in_child
from tests.trackers.test_tracker import FakeTensor

PAGE = mmap.PAGESIZE

pytestmark = pytest.mark.usefixtures("tracking")

libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@pytest.fixture
def array() -> np.ndarray:
    made = pagescan.zeros(16 * PAGE, np.uint8)
    made[:] = 1
    return made


class TestBuffers:
    """Anything that can be tracked and written to can be marked."""

    @pytest.mark.parametrize("dtype", ["u1", "<i2", "f4", "f8", "c16", "M8[ns]", "S3", "i4,f8", "?"])
    def test_numpy_arrays_of_any_dtype_at_any_alignment(self, dtype):
        array = np.zeros(20 * PAGE // np.dtype(dtype).itemsize, dtype)[1:]
        array[:] = np.ones(1, dtype)[0]
        before = array.tobytes()
        with pagescan.mark(array) as mark:
            array[len(array) // 2 :] = np.zeros(1, dtype)[0]
            assert array.tobytes() != before
            assert array.nbytes // 2 - PAGE < mark.restore() <= array.nbytes
            assert array.tobytes() == before

    def test_a_matrix(self):
        matrix = pagescan.zeros((8, 1024), np.float32)
        with pagescan.mark(matrix) as mark:
            matrix[3, 5] = matrix[7, 1023] = 1
            assert mark.restore() == 2 * PAGE
            assert not matrix.any()

    def test_bytearray_is_held(self):
        buffer = bytearray(b"x" * 10 * PAGE)
        with pagescan.mark(buffer) as mark:
            buffer[5 * PAGE] = 1
            mark.restore()
            assert buffer == b"x" * 10 * PAGE
            with pytest.raises(BufferError):
                buffer.extend(b"more")
        buffer.extend(b"more")

    @pytest.mark.parametrize("access", [mmap.ACCESS_WRITE, mmap.ACCESS_COPY])
    def test_file_mmap(self, access):
        with tempfile.TemporaryFile(dir=".") as file:
            file.write(b"y" * 8 * PAGE)
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=access) as buffer, pagescan.mark(buffer) as mark:
                buffer[2 * PAGE : 2 * PAGE + 4] = b"news"
                assert mark.restore() == PAGE
                assert buffer[:] == b"y" * 8 * PAGE

    def test_shared_memory(self):
        block = multiprocessing.shared_memory.SharedMemory(create=True, size=8 * PAGE)
        try:
            with pagescan.mark(block) as mark:
                assert block.buf is not None
                block.buf[3 * PAGE] = 1
                assert mark.restore() == PAGE
                assert not any(block.buf)
        finally:
            block.close()
            block.unlink()

    def test_what_looks_like_a_torch_tensor(self, array):
        with pagescan.mark(FakeTensor(array.view(np.float32))) as mark:
            array[3 * PAGE] = 2
            assert mark.restore() == PAGE
            assert (array == 1).all()

    def test_torch_tensor(self):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        tensor = torch.zeros(64 * PAGE // 4)
        with pagescan.mark(tensor) as mark:
            tensor[20000] = 1
            mark.restore()
            assert not tensor.any()

    def test_memory_without_page_tables(self):
        """What an engine that needs no kernel tracks."""
        memory = FakeMemory(8 * PAGE)
        memory.write(0, b"old")
        with pagescan.mark(memory) as mark:
            memory.write(0, b"new")
            memory.write(5 * PAGE, b"more")
            assert mark.restore() == 2 * memory.unit
            assert memory.read(0, 3) == b"old"
            assert memory.read(5 * PAGE, 4) == bytes(4)
            assert mark.restore() == 0

    def test_several_buffers_also_overlapping(self, array):
        other = pagescan.zeros(4 * PAGE, np.uint8)
        with pagescan.mark(array, other, array[5:9]) as mark:
            assert mark.nbytes == 20 * PAGE + 4
            array[PAGE] = other[2 * PAGE] = array[7] = 9
            assert mark.restore() == 3 * PAGE + 4
            assert (array == 1).all()
            assert not other.any()

    def test_an_empty_buffer(self):
        with pagescan.mark(np.zeros(0)) as mark:
            assert (mark.restore(), mark.advance(), mark.changed()) == (0, 0, False)

    def test_many_scattered_pages_and_edges(self):
        """Enough runs that pages are moved by a mask."""
        array = np.zeros(300 * PAGE, np.uint8)[100:-100]
        random = np.random.default_rng(1)
        array[:] = random.integers(0, 255, len(array))
        before = array.copy()
        with pagescan.mark(array) as mark:
            for _ in range(3):
                array[:: 2 * PAGE] += 1
                array[-1] += 1
                assert 149 * PAGE <= mark.restore(recheck=True) <= 153 * PAGE
                assert np.array_equal(array, before)
                assert mark.restore() <= 2 * PAGE  # edge pages, in which others may have written

    def test_neighbours_in_the_same_pages_stay_as_they_are(self, array):
        middle = array[PAGE // 2 : 3 * PAGE + 8]
        with pagescan.mark(middle) as mark:
            array[:] = 2
            assert mark.restore() == middle.nbytes
            assert (middle == 1).all()
            assert (array[: PAGE // 2] == 2).all()
            assert (array[3 * PAGE + 8 :] == 2).all()

    def test_a_large_reserve_stays_one(self):
        """Too many holes to protect: covered sparsely, and copied sparsely."""
        noreserve, size = 0x4000, 1 << 30
        at = raw_mmap(size, PRIVATE | noreserve)
        try:
            array = array_at(at, size)
            array[5 * PAGE] = array[70_000 * PAGE] = 3
            with pagescan.mark(array) as mark:
                array[5 * PAGE] = array[90_000 * PAGE] = 4
                assert mark.restore() == 2 * PAGE
                assert (array[5 * PAGE], array[70_000 * PAGE], array[90_000 * PAGE]) == (3, 3, 0)
                assert mark.restore() == 0
                present = pagescan.scan(array, required_mask=pagescan.Category.PRESENT)
                assert present.page_count <= 3
        finally:
            libc.munmap(at, size)


class TestRefusals:
    def test_readonly_buffers_by_cause_and_cure(self, array):
        view = array[:PAGE]
        view.flags.writeable = False
        with pytest.raises(InvalidArgument, match=r"(?s)ndarray is read-only.*mark the array it is a view of"):
            pagescan.mark(view)
        for buffer in (b"bytes", memoryview(b"bytes"), mmap.mmap(-1, PAGE, access=mmap.ACCESS_READ)):
            with pytest.raises(InvalidArgument, match=r"(?s)is read-only.*copy"):
                pagescan.mark(array, buffer)
        array[0] = 2  # nothing is left tracked or held
        assert pagescan.mark(array).restore() == 0

    def test_memory_mapped_readonly(self):
        at = raw_mmap(2 * PAGE, PRIVATE)
        try:
            assert libc.mprotect(at + PAGE, PAGE, 1) == 0
            with pytest.raises(InvalidArgument, match=r"(?s)mapped read-only.*mprotect"):
                pagescan.mark(array_at(at, 2 * PAGE))
        finally:
            libc.munmap(at, 2 * PAGE)

    def test_references_to_objects(self):
        with pytest.raises(InvalidArgument, match="references to Python objects"):
            pagescan.mark(np.array([object()]))

    def test_what_cannot_be_tracked_either(self, array):
        with pytest.raises(InvalidArgument, match="no buffer"):
            pagescan.mark()
        with pytest.raises(NotABuffer):
            pagescan.mark(5)
        with pytest.raises(NotContiguous):
            pagescan.mark(array.reshape(16, -1)[:, :9])
        with pytest.raises(InvalidArgument, match="those of a process"):
            pagescan.mark(array, mappings="[heap]")

    def test_closed(self, array):
        mark = pagescan.mark(array)
        mark.close()
        mark.close()
        assert mark.closed
        for ask in (mark.restore, mark.advance, mark.changed, mark.peek):
            with pytest.raises(Closed):
                ask()
        assert "closed" in repr(mark)


class TestPeek:
    def test_tells_what_restore_would_copy(self, array):
        with pagescan.mark(array) as mark:
            array[3 * PAGE] = 2
            assert mark.peek().slices(array) == [slice(3 * PAGE, 4 * PAGE)]
            assert array[3 * PAGE] == 2
            assert mark.restore() == PAGE
            assert len(mark.peek()) == 0


class TestLosses:
    """What is no longer tracked is put back in full, never missed."""

    @pytest.fixture
    def apart(self):
        """16 pages of ones, apart from other mappings."""
        whole = raw_mmap(18 * PAGE, PRIVATE, prot=0)
        at = raw_mmap(16 * PAGE, PRIVATE | MAP_FIXED, address=whole + PAGE)
        array = array_at(at, 16 * PAGE)
        array[:] = 1
        yield array
        libc.munmap(whole, 18 * PAGE)

    def test_a_replaced_mapping(self, apart):
        with pagescan.mark(apart) as mark:
            raw_mmap(4 * PAGE, PRIVATE | MAP_FIXED, address=apart.ctypes.data + 2 * PAGE)
            assert apart[2 * PAGE] == 0
            assert mark.restore() >= 4 * PAGE
            assert (apart == 1).all()
            assert mark.restore() == 0  # and tracked anew
            apart[3 * PAGE] = 5
            assert mark.restore() == PAGE
            assert (apart == 1).all()

    def test_advancing_over_a_replaced_mapping(self, apart):
        with pagescan.mark(apart) as mark:
            raw_mmap(16 * PAGE, PRIVATE | MAP_FIXED, address=apart.ctypes.data)
            assert mark.advance() == 16 * PAGE
            apart[:] = 7
            assert mark.restore() == 16 * PAGE
            assert not apart.any()

    def test_unmapped_memory_is_an_error(self, apart):
        with pagescan.mark(apart) as mark:
            libc.munmap(apart.ctypes.data + 4 * PAGE, PAGE)
            with pytest.raises(CoverageLost, match=r"(?s)gone.*is not mapped.*mark the memory that there is"):
                mark.restore()

    def test_a_tensor_that_moved(self, array):
        tensor = FakeTensor(array.view(np.float32))
        with pagescan.mark(tensor) as mark:
            tensor.array = pagescan.zeros(32 * PAGE, np.float32)
            with pytest.raises(CoverageLost, match=r"(?s)now elsewhere.*resized"):
                mark.restore()

    def test_an_array_cannot_move(self):
        array = np.ones(16 * PAGE, np.uint8)
        with pagescan.mark(array), pytest.raises(ValueError, match="cannot resize"):
            array.resize(4096 * PAGE, refcheck=False)

    def test_a_forked_child_puts_its_own_memory_back(self, array):
        with pagescan.mark(array) as mark:
            array[PAGE] = 2

            def body() -> str:
                array[5 * PAGE] = 3
                first = mark.restore()
                whole = bool((array == 1).all())
                array[6 * PAGE] = 3
                return f"{first} {whole} {mark.restore()} {(array == 1).all()}"

            # Nothing is known in the child: all of it is put back, and tracked there from then on.
            assert in_child(body) == f"{16 * PAGE} True {PAGE} True"
            assert array[PAGE] == 2
            assert mark.restore() == PAGE


class TestThreads:
    def test_a_write_to_a_page_that_is_being_put_back_stays_due(self, array, monkeypatch):
        """Somebody writes after the copy and before the page is protected again."""
        with pagescan.mark(array) as mark:
            array[3 * PAGE] = array[5 * PAGE] = 2
            forget = mark._tracker.forget

            def late(regions):
                array[3 * PAGE + 5] = 9
                forget(regions)

            monkeypatch.setattr(mark._tracker, "forget", late)
            assert mark.restore(recheck=True) == 2 * PAGE
            monkeypatch.undo()
            assert mark.changed()
            assert mark.peek().slices(array) == [slice(3 * PAGE, 4 * PAGE)]
            assert mark.restore() == PAGE
            assert (array == 1).all()
            assert not mark.changed()

    def test_no_write_of_a_thread_is_ever_missed(self):
        array = pagescan.zeros(64 * PAGE, np.uint8)
        stop = threading.Event()

        def write() -> None:
            random = np.random.default_rng(0)
            while not stop.is_set():
                array[random.integers(array.size, size=500)] = 7

        with pagescan.mark(array) as mark:
            writer = threading.Thread(target=write)
            writer.start()
            copied = 0
            while copied < 2000 * PAGE:
                copied += mark.restore()
            stop.set()
            writer.join()
            mark.restore()
            assert not array.any()

    def test_interrupted_while_copying_nothing_is_forgotten(self, array, monkeypatch):
        with pagescan.mark(array) as mark:
            array[3 * PAGE] = 2
            monkeypatch.setattr(mark._copies[0], "renew", lambda regions: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                mark.advance()
            monkeypatch.undo()
            assert mark.advance() == PAGE
            array[3 * PAGE] = 5
            assert mark.restore() == PAGE
            assert array[3 * PAGE] == 2
