"""Page-exclusive arrays."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest

import pagescan
from pagescan import Category, InvalidArgument, KernelCannot

PAGE = mmap.PAGESIZE
HUGE = PAGE * (PAGE // 8)


@pytest.mark.parametrize("make", [pagescan.empty, pagescan.zeros])
@pytest.mark.parametrize(
    ("shape", "dtype"), [(1, "u1"), (1000, "f8"), ((3, 5, 7), "c16"), ((), "i4"), (4097, "u1"), (10, "M8[ns]")]
)
def test_shape_dtype_and_place(make, shape, dtype):
    array = make(shape, dtype)
    expected = np.zeros(shape, dtype)
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
    assert np.array_equal(array, expected)
    assert array.ctypes.data % PAGE == 0
    assert array.flags.writeable
    assert array.flags.c_contiguous


def test_no_elements():
    assert pagescan.empty((0, 5)).shape == (0, 5)


def test_pages_are_shared_with_nothing_else():
    first, second = pagescan.empty(10), pagescan.empty(10)
    assert first.ctypes.data // PAGE != second.ctypes.data // PAGE


def test_it_is_private_to_the_process():
    array = pagescan.zeros(10)
    pid = os.fork()
    if pid == 0:
        array[0] = 1
        os._exit(0)
    os.waitpid(pid, 0)
    assert array[0] == 0


def test_memory_outlives_the_array_for_its_views():
    view = pagescan.zeros(1000)[10:20]
    view[:] = 3
    assert view.sum() == 30


def test_objects_are_refused():
    with pytest.raises(InvalidArgument, match="references"):
        pagescan.empty(10, object)


def test_huge_pages():
    if not os.path.exists("/sys/kernel/mm/transparent_hugepage"):
        pytest.skip("this kernel has no transparent huge pages")
    array = pagescan.zeros(2 * HUGE // 8, huge=True)
    assert array.ctypes.data % HUGE == 0
    try:
        found = pagescan.scan(array, required_mask=Category.PRESENT, return_mask=Category.HUGE)
    except KernelCannot as error:
        pytest.skip(error.message)
    assert found.byte_count == 2 * HUGE
    if "[never]" not in open_text("/sys/kernel/mm/transparent_hugepage/enabled"):
        assert found.where(required=Category.HUGE).byte_count == 2 * HUGE


def open_text(path: str) -> str:
    with open(path) as file:
        return file.read()
