"""What the cases do to memory, whatever sort it is of."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from ..location import locate


class TrackedMemory(Protocol):
    """Memory that a case writes to, and tracks.

    Attributes:
        buffer: what is given to :func:`pagescan.track`.
        nbytes: its length: whole units, four or more of them.
        unit: bytes of the smallest part that an answer may name: a page, or a whole huge page.
        address: of its first byte, a multiple of ``unit``.
        droppable: whether :meth:`drop` may be called.
    """

    buffer: Any
    nbytes: int
    unit: int
    address: int
    droppable: bool

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes as the program would."""

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes as the program would."""

    def drop(self, offset: int, length: int) -> None:
        """Give whole units back to the system, so that they hold zeros (MADV_DONTNEED of private memory)."""


class BufferMemory:
    """Any object with a writable buffer (numpy array, ``mmap``, ``bytearray``), in pages of its own."""

    droppable = False

    def __init__(self, buffer: Any, unit: int):
        self.buffer = buffer
        self.unit = unit
        self.address, self.nbytes, _ = locate(buffer)
        self._bytes = np.frombuffer(buffer, np.uint8)

    def write(self, offset: int, data: bytes) -> None:
        self._bytes[offset : offset + len(data)] = np.frombuffer(data, np.uint8)

    def read(self, offset: int, length: int) -> bytes:
        return self._bytes[offset : offset + length].tobytes()

    def drop(self, offset: int, length: int) -> None:
        raise NotImplementedError("droppable is False")
