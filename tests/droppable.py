"""Memory that the kernel may empty at any moment, to try pagescan on."""

from __future__ import annotations

import contextlib
import functools
import mmap
from collections.abc import Iterator

import pytest

from pagescan.abi import TRACKING_FEATURES
from pagescan.kernel.userfaultfd import open_userfaultfd
from tests.conformance.kernel_memory import libc, raw_mmap

#: include/uapi/linux/mman.h. It is a type of mapping, as MAP_PRIVATE is, so an older kernel says EINVAL.
MAP_DROPPABLE = 0x08
NO_DROPPABLE = "this kernel has no MAP_DROPPABLE, which Linux 6.11 brought"
SIZE = 8 * mmap.PAGESIZE


@contextlib.contextmanager
def mapped() -> Iterator[int]:
    """The address of 8 pages of it in this process. Raises OSError where there is none."""
    address = raw_mmap(SIZE, MAP_DROPPABLE | mmap.MAP_ANONYMOUS)
    try:
        yield address
    finally:
        libc.munmap(address, SIZE)


@functools.cache
def has_droppable() -> bool:
    """Whether this kernel has such memory."""
    try:
        with mapped():
            return True
    except OSError:
        return False


@functools.cache
def refused() -> bool:
    """Whether this kernel has it, and does not let it be registered (newer ones do not)."""
    if not has_droppable():
        return False
    with mapped() as address, contextlib.closing(open_userfaultfd(TRACKING_FEATURES)) as uffd:
        try:
            uffd.register(address, SIZE)
        except OSError:
            return True
        return False


@pytest.fixture
def droppable() -> Iterator[int]:
    """The address of 8 pages of droppable memory in this process."""
    if not has_droppable():
        pytest.skip(NO_DROPPABLE)
    with mapped() as address:
        yield address


@pytest.fixture
def refused_droppable() -> None:
    """For tests of what is said where it cannot be registered."""
    if not refused():
        pytest.skip("this kernel has no droppable memory, or lets it be registered, as older ones do")
