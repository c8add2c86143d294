"""Where buffers lie: each case is checked by reading the memory at the address that locate() gives."""

from __future__ import annotations

import array
import ctypes
import mmap
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pagescan.errors import Closed, NotABuffer, NotContiguous
from pagescan.location import Location, locate

CONTENT = bytes(range(1, 17))


class Point(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int32), ("y", ctypes.c_int64))


class FakeTensor:
    """What torch's tensors answer, over a numpy array."""

    def __init__(self, array: np.ndarray[Any, Any], device: str = "cpu", layout: str = "torch.strided"):
        self.array = array
        self.device = SimpleNamespace(type=device)
        self.layout = layout
        self.shape = array.shape

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def is_contiguous(self) -> bool:
        return bool(self.array.flags.c_contiguous)

    def element_size(self) -> int:
        return self.array.itemsize

    def numel(self) -> int:
        return self.array.size


class Holder:
    """An object that is no array but has ``__array_interface__``, of its memory or (as PIL does) of a copy."""

    def __init__(self, array: np.ndarray[Any, Any], copies: bool = False):
        self.array = array
        self.copies = copies

    @property
    def __array_interface__(self) -> dict[str, Any]:
        interface = dict(self.array.__array_interface__)
        return interface | {"data": self.array.tobytes()} if self.copies else interface


def sixteen(dtype: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(bytearray(CONTENT), np.uint8).view(dtype)


def read_only(holder: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    holder.flags.writeable = False
    return holder


@pytest.mark.parametrize(
    ("make", "itemsize"),
    [
        (lambda: sixteen("f8"), 8),
        (lambda: sixteen("M8[ns]"), 8),
        (lambda: sixteen([("a", "u1"), ("b", ">u2"), ("c", "u1")]), 4),
        (lambda: sixteen("V16").reshape(()), 16),
        (lambda: sixteen("u2").reshape(2, 2, 2), 2),
        (lambda: read_only(sixteen("u4")), 4),
        (lambda: sixteen("u4").view(np.recarray), 4),
        (lambda: bytearray(CONTENT), 1),
        (lambda: CONTENT, 1),
        (lambda: memoryview(CONTENT), 1),
        (lambda: memoryview(bytearray(CONTENT)).cast("I", (2, 2)), 4),
        (lambda: array.array("h", CONTENT), 2),
        (lambda: (ctypes.c_uint32 * 4).from_buffer_copy(CONTENT), 4),
        (lambda: Point.from_buffer_copy(CONTENT), 16),
        (lambda: FakeTensor(sixteen("f4")), 4),
        (lambda: Holder(sixteen("i8")), 8),
    ],
)
def test_the_bytes_are_at_the_address(make: Callable[[], Any], itemsize: int) -> None:
    buffer = make()
    location = locate(buffer)
    assert (location.nbytes, location.itemsize) == (16, itemsize)
    assert ctypes.string_at(location.address, 16) == CONTENT


def test_array_of_objects() -> None:
    thing = object()
    holder = np.array([thing, None], object)
    location = locate(holder)
    assert (location.nbytes, location.itemsize) == (16, 8)
    assert ctypes.c_size_t.from_address(location.address).value == id(thing)


@pytest.mark.parametrize("access", [mmap.ACCESS_WRITE, mmap.ACCESS_READ, mmap.ACCESS_COPY])
def test_mmap_is_located_and_can_be_closed(access: int, tmp_path: Any) -> None:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=access)
        location = locate(mapped)
        assert (location.nbytes, location.itemsize) == (16, 1)
        assert location.address % mmap.PAGESIZE == 0
        assert ctypes.string_at(location.address, 16) == CONTENT
        mapped.close()  # BufferError if an export were left
    with pytest.raises(Closed, match="mmap"):
        locate(mapped)


@pytest.fixture
def block() -> Iterator[SharedMemory]:
    shared = SharedMemory(create=True, size=mmap.PAGESIZE)
    yield shared
    shared.close()
    shared.unlink()


def test_shared_memory(block: SharedMemory) -> None:
    assert block.buf is not None
    block.buf[:16] = CONTENT
    location = locate(block)
    assert location == (location.address, mmap.PAGESIZE, 1)
    assert ctypes.string_at(location.address, 16) == CONTENT
    block.close()
    with pytest.raises(Closed):
        locate(block)


def test_what_says_itself_where_it_is() -> None:
    buffer = SimpleNamespace(address=0x1000, nbytes=64, itemsize=4, space=None)
    assert locate(buffer) == Location(0x1000, 64, 4)


def test_fields_named_like_a_location_do_not_mislead() -> None:
    holder = np.zeros(2, [("address", "u8"), ("nbytes", "u8")]).view(np.recarray)
    assert locate(holder) == Location(holder.ctypes.data, 32, 16)


@pytest.mark.parametrize(
    "buffer",
    [np.zeros((0, 3)), np.zeros(0, "S0"), b"", bytearray(), memoryview(b""), array.array("d"), (ctypes.c_int * 0)()],
)
def test_empty_buffers(buffer: Any) -> None:
    assert locate(buffer).nbytes == 0


@pytest.mark.parametrize(
    ("buffer", "hint"),
    [
        (np.zeros((4, 4))[:, :2], "view of"),
        (np.zeros(8)[::2], "view of"),
        (np.zeros(8)[::-1], "view of"),
        (np.broadcast_to(np.zeros(1), (4,)), "view of"),
        (np.zeros((4, 3), order="F"), r"array\.T"),
        (memoryview(CONTENT)[::2], "view of"),
        (FakeTensor(np.zeros((4, 3)).T), "view of"),
        (Holder(np.zeros(8)[::2]), "view of"),
    ],
)
def test_scattered_bytes_are_refused(buffer: Any, hint: str) -> None:
    with pytest.raises(NotContiguous, match="not one C-contiguous run") as caught:
        locate(buffer)
    assert caught.match(hint)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (3, "int has no memory"),
        ("text", "str has no memory"),
        (None, "NoneType has no memory"),
        ([1, 2], "list has no memory"),
        (np.float64(1), "scalar"),
        (FakeTensor(np.zeros(4), device="cuda"), "not in this process's memory"),
        (FakeTensor(np.zeros(4), layout="torch.sparse_coo"), "torch.sparse_coo"),
        (Holder(np.zeros(4), copies=True), "copies"),
    ],
)
def test_what_has_no_memory_here(thing: Any, message: str) -> None:
    with pytest.raises(NotABuffer, match=message) as caught:
        locate(thing)
    assert caught.value.hint


def test_released_memoryview() -> None:
    view = memoryview(bytearray(4))
    view.release()
    with pytest.raises(Closed, match="released"):
        locate(view)
