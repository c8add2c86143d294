"""A piece of model memory as a buffer, and the seam: what the layers above see of a model process."""

from __future__ import annotations

import pytest

from pagescan.abi import LocatedBuffer, Pagemap
from pagescan.errors import InvalidArgument
from pagescan.model import KERNEL_BUGS, Machine
from pagescan.ranges import Regions, locate

from .helpers import PAGE, Arena


def test_slices_read_and_write() -> None:
    arena = Arena(4)
    buffer = arena.process.buffer(arena.at + 10, 100, itemsize=4)
    buffer[0:5] = b"hello"
    buffer[-1] = b"!"
    buffer[6:8] = 7
    assert (buffer[:8], buffer[99], len(buffer)) == (b"hello\0\7\7", b"!", 100)
    assert arena.process.read(arena.at + 10, 5) == b"hello"
    with pytest.raises(IndexError):
        buffer[100]
    with pytest.raises(ValueError, match="no step"):
        buffer[::2]
    with pytest.raises(ValueError, match="do not fit"):
        buffer[0:2] = b"abc"


def test_it_tells_where_it_lies() -> None:
    arena = Arena(4)
    buffer = arena.process.buffer(arena.at, 100, itemsize=4)
    assert isinstance(buffer, LocatedBuffer)
    assert locate(buffer) == (arena.at, 100, 4)
    assert isinstance(arena.process.pagemap, Pagemap)


def test_regions_are_read_in_order() -> None:
    arena = Arena(4)
    arena.process.write(arena.at, b"a" * PAGE + b"b" * PAGE + b"c" * PAGE)
    pages = Regions.from_pairs([(arena.at, arena.at + PAGE), (arena.at + 2 * PAGE, arena.at + 3 * PAGE)])
    assert arena.process.read(pages).tobytes() == b"a" * PAGE + b"c" * PAGE
    assert arena.process.read(Regions()).tobytes() == b""


def test_mappings_as_in_proc_maps() -> None:
    process = Machine().process()
    process.mmap(PAGE, prot="r")
    process.mmap(PAGE, "shmem")
    process.mmap(PAGE, "hugetlb")
    assert [(m.perms, m.size, m.page_size, bool(m.inode)) for m in process.mappings()] == [
        ("r--p", PAGE, PAGE, False),
        ("rw-s", PAGE, PAGE, True),
        ("rw-p", 2 << 20, 2 << 20, True),
    ]


def test_machines_that_cannot_be() -> None:
    for options in ({"page_size": 1000}, {"behaviour": "5.0"}, {"bugs": ("typo",)}):
        with pytest.raises(InvalidArgument):
            Machine(**options)
    assert Machine(bugs=KERNEL_BUGS["6.18"]).bugs >= {"stale-walk-end"}
