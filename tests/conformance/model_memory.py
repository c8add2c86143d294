"""The same kinds of memory on the model, with the faults of the release it stands for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from pagescan.model import KERNEL_BUGS, Buffer, Machine

PAGE = 4096
HUGE = 2 << 20
PAGES = 16

#: Every release the model can stand for, with the bugs that are known of it.
BEHAVIOURS = tuple(KERNEL_BUGS)
_KINDS = {
    "anonymous-private": {},
    "anonymous-shared": {"shared": True},
    "memfd-private": {"kind": "shmem", "shared": False},
    "memfd-shared": {"kind": "shmem", "shared": True},
    "file-private": {"kind": "file", "shared": False},
    "file-shared": {"kind": "file", "shared": True},
    "thp": {"thp": True},
    "hugetlb-private": {"kind": "hugetlb", "shared": False},
    "hugetlb-shared": {"kind": "hugetlb", "shared": True},
}
KIND_NAMES = tuple(_KINDS)


class ModelMemory:
    """What :class:`.kernel_memory.Memory` is, on a process of the model."""

    def __init__(self, kind: str, buffer: Buffer, unit: int):
        self.kind = kind
        self.buffer = buffer
        self.unit = unit
        self.process = buffer.space
        self.droppable = True

    @property
    def address(self) -> int:
        return self.buffer.address

    @property
    def nbytes(self) -> int:
        return self.buffer.nbytes

    @property
    def units(self) -> int:
        return self.nbytes // self.unit

    def write(self, offset: int, data: bytes) -> None:
        self.process.write(self.address + offset, data)

    def read(self, offset: int, length: int) -> bytes:
        return self.process.read(self.address + offset, length)

    def fill(self, value: int) -> None:
        self.process.write(self.address, bytes([value]) * self.buffer.nbytes)

    def poke(self, offset: int, value: int) -> None:
        self.buffer[offset % self.buffer.nbytes] = bytes([value])

    def look(self, offset: int) -> int:
        return self.buffer[offset][0]

    def read_all(self) -> int:
        return int(np.frombuffer(self.buffer[:], np.uint8).sum(dtype=np.int64))

    def drop(self, start: int, length: int) -> None:
        self.process.madvise(self.address + start, length, "dontneed")


@contextlib.contextmanager
def memory_of(kind: str, behaviour: str, *, soft_dirty: bool = False) -> Iterator[ModelMemory]:
    """Memory of this kind in a new process of a machine that behaves as this release, bugs and all."""
    process = Machine(behaviour=behaviour, bugs=KERNEL_BUGS[behaviour], soft_dirty=soft_dirty).process()
    unit = HUGE if kind.startswith("hugetlb") else PAGE
    nbytes = 4 * HUGE if unit == HUGE else HUGE if kind == "thp" else PAGES * PAGE
    at = process.mmap(nbytes, **_KINDS[kind])  # type: ignore[arg-type]
    memory = ModelMemory(kind, process.buffer(at, nbytes), unit)
    if kind == "thp":
        memory.poke(0, 1)
    yield memory
    process.exit()
