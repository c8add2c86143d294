"""Every kind of buffer, kept and put back."""

from __future__ import annotations

import mmap
import os
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

import pagescan
from pagescan import AccessDenied, InvalidArgument, NotABuffer, NotContiguous
from pagescan.model import Machine
from pagescan.snapshots.memory import BufferMemory, expand

PAGE = os.sysconf("SC_PAGE_SIZE")


def arrays():
    structured = np.zeros(5000, [("a", "<i4"), ("b", "<f8", (2, 3))])
    return {
        "float": np.zeros((300, 70)),
        "bool": np.zeros(10_001, bool),
        "date": np.zeros(3000, "<M8[s]"),
        "structured": structured,
        "text": np.zeros(3000, "S7"),
        "scalar": np.array(3),
        "view": np.zeros(50_000)[123:40_000],
        "empty": np.zeros((0, 5)),
        "complex": np.zeros((2, 3, 400), np.complex64),
    }


@pytest.mark.usefixtures("tracking")
class TestArrays:
    @pytest.mark.parametrize("kind", list(arrays()))
    def test_come_back_as_they_were(self, path, kind):
        array = arrays()[kind]
        flat = array.reshape(-1).view(np.uint8)
        with pagescan.open_store(path) as store, store.series("s", a=array) as series:
            series.commit()
            flat[:] = np.random.default_rng(1).integers(0, 2, flat.nbytes)
            before = array.copy()
            version = series.commit()
            read = store.read("s", version)["a"]
            assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, before.tobytes())
            flat[:] = 1
            series.restore(version)
            assert array.tobytes() == before.tobytes()
            assert version.buffers["a"].shape == array.shape

    def test_read_only_ones_are_kept_and_not_restored(self, path):
        array = np.arange(10_000)
        array.flags.writeable = False
        with pagescan.open_store(path) as store, store.series("s", a=array) as series:
            version = series.commit()
            assert np.array_equal(store.read("s", version)["a"], array)
            with pytest.raises(AccessDenied, match="'a' is read-only"):
                series.restore(version)

    def test_objects_are_refused(self, path):
        with pagescan.open_store(path) as store, pytest.raises(NotABuffer, match="'a'"):
            store.series("s", a=np.array([None, 1]))

    def test_scattered_ones_are_refused(self, path):
        with pagescan.open_store(path) as store, pytest.raises(NotContiguous):
            store.series("s", a=np.zeros((50, 50))[:, ::2])

    def test_numbers_are_no_buffers(self, path):
        with pagescan.open_store(path) as store, pytest.raises(NotABuffer):
            store.series("s", step=7)

    def test_none_at_all(self, path):
        with pagescan.open_store(path) as store, pytest.raises(InvalidArgument, match="no buffer"):
            store.series("s")

    def test_write_to_a_neighbour_in_the_same_page_changes_nothing(self, path):
        both = pagescan.zeros(2 * PAGE, dtype=np.uint8)
        with pagescan.open_store(path) as store, store.series("s", a=both[:100]) as series:
            series.commit()
            both[200] = 1
            assert series.commit().written_pages == 0


@pytest.mark.usefixtures("tracking")
class TestOtherBuffers:
    def check(self, path, buffer, view):
        with pagescan.open_store(path) as store, store.series("s", a=buffer) as series:
            view[:] = b"x" * len(view)
            first = series.commit()
            view[PAGE : PAGE + 5] = b"hello"
            assert series.commit().written_pages in (1, 2)
            assert store.read("s", 2)["a"][PAGE : PAGE + 6].tobytes() == b"hellox"
            series.restore(first)
            assert bytes(view) == b"x" * len(view)

    def test_bytearray(self, path):
        memory = bytearray(3 * PAGE + 17)
        with memoryview(memory) as view:
            self.check(path, memory, view)

    def test_mmap(self, path):
        with mmap.mmap(-1, 3 * PAGE) as memory, memoryview(memory) as view:
            self.check(path, memory, view)

    def test_shared_memory(self, path):
        block = SharedMemory(create=True, size=3 * PAGE)
        try:
            self.check(path, block, block.buf)
        finally:
            block.close()
            block.unlink()


class FakeTensor:
    """What pagescan asks of a torch tensor on the CPU, which is not installed for the tests."""

    device, layout, dtype = "cpu", "torch.strided", "torch.float64"

    def __init__(self, array, known=True):
        self.array, self.known = array, known

    def data_ptr(self):
        return self.array.ctypes.data

    def element_size(self):
        return self.array.itemsize

    def numel(self):
        return self.array.size

    def is_contiguous(self):
        return True

    def detach(self):
        return self

    def numpy(self):
        if not self.known:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


class TestTensors:
    def test_keep_dtype_and_shape(self, path, tracking):
        tensor = FakeTensor(pagescan.zeros((100, 30)))
        with pagescan.open_store(path) as store, store.series("s", a=tensor) as series:
            tensor.array[5] = 2
            version = series.commit()
            tensor.array[:] = 3
            series.restore(version)
            assert tensor.array.sum() == 60
            assert store.read("s", version)["a"].shape == (100, 30)

    def test_of_a_type_that_numpy_lacks_are_refused_with_a_way_out(self):
        with pytest.raises(NotABuffer, match="no dtype") as caught:
            BufferMemory("a", FakeTensor(np.zeros(3), known=False))
        assert "torch.uint8" in (caught.value.hint or "")


class TestModel:
    @pytest.mark.parametrize("cut", [0, 100])
    def test_memory_of_the_model_is_kept_and_put_back(self, path, cut):
        process = Machine().process()
        at = process.mmap(8 * 4096, kind="anonymous")
        buffer = process.buffer(at, 8 * 4096 - cut)
        process.write(at, b"a" * (8 * 4096))
        with pagescan.open_store(path) as store, store.series("s", a=buffer) as series:
            assert series.commit().written_pages == 8
            process.write(at + 3 * 4096, b"b")
            assert series.commit().written_pages == 1
            assert store.read("s", 2)["a"][3 * 4096 : 3 * 4096 + 2].tobytes() == b"ba"
            assert series.restore(1) == 4096
            assert process.read(at, 8 * 4096) == b"a" * (8 * 4096)
            process.write(at + 7 * 4096, b"c")
            assert series.restore(1) == 4096 - cut


class TestPages:
    def test_part_beyond_the_end_is_zeros(self):
        memory = BufferMemory("a", np.full(10, 255, np.uint8))
        assert memory.read(np.array([0]), 16).tolist() == [[255] * 10 + [0] * 6]

    def test_written_back_up_to_the_end(self):
        area = np.zeros(40, np.uint8)
        memory = BufferMemory("a", area[:20])
        memory.write(np.array([0, 1]), np.full((2, 16), 9, np.uint8))
        assert area.tolist() == [9] * 20 + [0] * 20

    def test_ranges_that_share_a_page_name_it_once(self):
        assert expand(np.array([0, 2, 9]), np.array([3, 5, 10])).tolist() == [0, 1, 2, 3, 4, 9]
        assert expand(np.array([2, 2]), np.array([3, 3])).tolist() == [2]
        assert expand(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []
