"""A piece of a model process's memory that tells by itself where it lies, for :func:`pagescan.track` and its like."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .process import Process


class Buffer:
    """Bytes [address, address + nbytes) of a model process. Slices read and write them, with faults as a program's.

    Attributes:
        space: the process.
        address: of the first byte.
        nbytes: length in bytes.
        itemsize: bytes of one element; results of trackers count in these. Slicing here counts bytes.
    """

    __slots__ = ("address", "itemsize", "nbytes", "space")

    def __init__(self, process: Process, address: int, nbytes: int, itemsize: int = 1):
        self.space = process
        self.address = address
        self.nbytes = nbytes
        self.itemsize = itemsize

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, where: slice | int) -> bytes:
        """The bytes of a slice (step 1), or the one byte at an index, as ``bytes``."""
        start, stop = self._bounds(where)
        return self.space.read(self.address + start, stop - start)

    def __setitem__(self, where: slice | int, data: bytes | int) -> None:
        start, stop = self._bounds(where)
        content = bytes([data]) * (stop - start) if isinstance(data, int) else bytes(data)
        if len(content) != stop - start:
            raise ValueError(f"{len(content)} bytes do not fit a slice of {stop - start}")
        self.space.write(self.address + start, content)

    def _bounds(self, where: slice | int) -> tuple[int, int]:
        if isinstance(where, int):
            index = where + self.nbytes if where < 0 else where
            if not 0 <= index < self.nbytes:
                raise IndexError(f"{where} is outside {self.nbytes} bytes")
            return index, index + 1
        start, stop, step = where.indices(self.nbytes)
        if step != 1:
            raise ValueError("slices of a model buffer have no step")
        return start, max(start, stop)

    def __repr__(self) -> str:
        return f"<Buffer: {self.nbytes:,} bytes at {self.address:#x} of {self.space.label}>"
