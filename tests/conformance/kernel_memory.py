"""Every kind of memory of this kernel that can be tracked, as a buffer of whole pages with nothing else in them."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = mmap.PAGESIZE
HUGE = 2 << 20
#: MAP_HUGETLB, of this size: arm64 with 16 KiB pages has pages of 32 MiB by default.
MAP_HUGE_2MB = 0x40000 | 21 << 26
PAGES = 16

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
libc.shmdt.argtypes = (ctypes.c_void_p,)
libc.posix_memalign.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t)
libc.free.argtypes = (ctypes.c_void_p,)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@dataclass
class Memory:
    """A buffer of one kind. ``unit`` is what one write makes written: a page, or a whole huge page.

    The methods are what a case does to memory; :class:`.model_memory.ModelMemory` has the same.
    """

    kind: str
    buffer: Any
    unit: int = PAGE
    droppable: bool = True

    @property
    def address(self) -> int:
        return int(self.buffer.ctypes.data)

    @property
    def nbytes(self) -> int:
        return int(self.buffer.nbytes)

    @property
    def units(self) -> int:
        return self.nbytes // self.unit

    def write(self, offset: int, data: bytes) -> None:
        self.buffer[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def read(self, offset: int, length: int) -> bytes:
        return self.buffer[offset : offset + length].tobytes()

    def fill(self, value: int) -> None:
        """Write to every byte."""
        self.buffer[:] = value

    def poke(self, offset: int, value: int) -> None:
        """Write one byte."""
        self.buffer[offset] = value

    def look(self, offset: int) -> int:
        """Read one byte."""
        return int(self.buffer[offset])

    def read_all(self) -> int:
        """Read every byte; their sum."""
        return int(self.buffer.sum(dtype=np.int64))

    def drop(self, start: int, length: int) -> None:
        """MADV_DONTNEED."""
        madv_dontneed = 4
        assert libc.madvise(self.address + start, length, madv_dontneed) == 0


def array_at(address: int, nbytes: int) -> np.ndarray:
    """The bytes at an address as an array that owns nothing."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def raw_mmap(nbytes: int, flags: int, fd: int = -1, prot: int = 3, address: int = 0) -> int:
    at = libc.mmap(address or None, nbytes, prot, flags, fd, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    return int(at)


@contextlib.contextmanager
def _mapped(kind: str, flags: int, fd: int = -1, nbytes: int = PAGES * PAGE, unit: int = PAGE) -> Iterator[Memory]:
    at = raw_mmap(nbytes, flags, fd)
    try:
        yield Memory(kind, array_at(at, nbytes), unit)
    finally:
        libc.munmap(at, nbytes)


@contextlib.contextmanager
def _memfd(kind: str, flags: int) -> Iterator[Memory]:
    fd = os.memfd_create("pagescan-test")
    try:
        os.ftruncate(fd, PAGES * PAGE)
        with _mapped(kind, flags, fd) as memory:
            yield memory
    finally:
        os.close(fd)


@contextlib.contextmanager
def _file(kind: str, flags: int) -> Iterator[Memory]:
    with tempfile.TemporaryFile(dir=Path.cwd() if os.access(Path.cwd(), os.W_OK) else None) as file:
        file.truncate(PAGES * PAGE)
        with _mapped(kind, flags, file.fileno()) as memory:
            yield memory


@contextlib.contextmanager
def _heap(kind: str) -> Iterator[Memory]:
    """Memory from malloc, small enough to come from the heap rather than from a mapping of its own."""
    pointer = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(pointer), PAGE, PAGES * PAGE) == 0
    try:
        yield Memory(kind, array_at(int(pointer.value or 0), PAGES * PAGE))
    finally:
        libc.free(pointer)


@contextlib.contextmanager
def _sysv(kind: str) -> Iterator[Memory]:
    ipc_private, ipc_creat, ipc_rmid = 0, 0o1000, 0
    ident = libc.shmget(ipc_private, PAGES * PAGE, ipc_creat | 0o600)
    if ident < 0:
        pytest.skip(f"no System V shared memory here: {os.strerror(ctypes.get_errno())}")
    at = libc.shmat(ident, None, 0)
    libc.shmctl(ident, ipc_rmid, None)
    try:
        yield Memory(kind, array_at(at, PAGES * PAGE))
    finally:
        libc.shmdt(at)


@contextlib.contextmanager
def _thp(kind: str) -> Iterator[Memory]:
    madv_hugepage = 14
    at = raw_mmap(2 * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        start = -(-at // HUGE) * HUGE
        if libc.madvise(start, HUGE, madv_hugepage):
            pytest.skip("this kernel has no transparent huge pages")
        buffer = array_at(start, HUGE)
        buffer[0] = 1
        yield Memory(kind, buffer)
    finally:
        libc.munmap(at, 2 * HUGE)


@contextlib.contextmanager
def huge_pages_reserved(count: int) -> Iterator[None]:
    """At least ``count`` free 2 MiB pages; what was reserved for it is put back."""
    free = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    knob = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    if not free.exists():
        pytest.skip("this kernel has no 2 MiB hugetlb pages")
    before = int(knob.read_text())
    if int(free.read_text()) < count:
        if not os.access(knob, os.W_OK):
            pytest.skip(f"{count} free huge pages are needed: sudo sysctl vm.nr_hugepages={count}")
        knob.write_text(str(before + count))
        if int(free.read_text()) < count:
            knob.write_text(str(before))
            pytest.skip(f"the kernel could not reserve {count} huge pages")
    try:
        yield
    finally:
        if int(knob.read_text()) != before:
            knob.write_text(str(before))


@contextlib.contextmanager
def _hugetlb(kind: str, flags: int) -> Iterator[Memory]:
    with huge_pages_reserved(8), _mapped(kind, flags | MAP_HUGE_2MB, nbytes=4 * HUGE, unit=HUGE) as memory:
        yield memory


_ANON, _PRIVATE, _SHARED = mmap.MAP_ANONYMOUS, mmap.MAP_PRIVATE, mmap.MAP_SHARED
_KINDS = {
    "anonymous-private": lambda k: _mapped(k, _PRIVATE | _ANON),
    "anonymous-shared": lambda k: _mapped(k, _SHARED | _ANON),
    "memfd-private": lambda k: _memfd(k, _PRIVATE),
    "memfd-shared": lambda k: _memfd(k, _SHARED),
    "file-private": lambda k: _file(k, _PRIVATE),
    "file-shared": lambda k: _file(k, _SHARED),
    "heap": _heap,
    "sysv": _sysv,
    "thp": _thp,
    "hugetlb-private": lambda k: _hugetlb(k, _PRIVATE | _ANON),
    "hugetlb-shared": lambda k: _hugetlb(k, _SHARED | _ANON),
}
KIND_NAMES = tuple(_KINDS)
SMALL_PAGE_KINDS = tuple(name for name in KIND_NAMES if not name.startswith("hugetlb"))


def memory_of(kind: str) -> contextlib.AbstractContextManager[Memory]:
    """A context manager that maps memory of this kind and unmaps it at the end."""
    return _KINDS[kind](kind)
