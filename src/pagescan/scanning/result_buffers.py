"""Where the kernel writes what a scan finds, and how that is handed out without a copy."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from ..abi import REGION_DTYPE
from ..records import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_ALIGNMENT = 4096


class ResultBuffer:
    """A result buffer, and who still reads what the kernel wrote to it.

    Attributes:
        memory: its bytes.
        vec: the same as regions.
        address: where it lies.
        call: has the kernel write to it.
    """

    __slots__ = ("_answer", "_arrays", "address", "call", "memory", "vec")

    def __init__(self, count: int, bind: Callable[[NDArray[np.void]], Callable[[], int]]):
        """Room for ``count`` regions. ``bind`` makes the call that writes to an array of them."""
        self.memory = _on_a_page(count * REGION_DTYPE.itemsize)
        self.vec: NDArray[np.void] = np.frombuffer(self.memory, REGION_DTYPE)
        self.address = self.vec.ctypes.data
        self.call = bind(self.vec)
        self._answer: weakref.ref[Answer] | None = None
        self._arrays: list[weakref.ref[Any]] = []

    def lend(self, count: int) -> Answer:
        """Its first regions, for as long as somebody holds the answer or an array of it."""
        answer = Answer(self.memory, count, self._arrays)
        self._answer = weakref.ref(answer)
        return answer

    def is_free(self) -> bool:
        """Whether nobody reads it any more."""
        # The answer first: while it is there, more arrays can be made of it.
        if self._answer is not None and self._answer() is not None:
            return False
        if self._arrays:
            if any(array() is not None for array in self._arrays):
                return False
            self._arrays.clear()
        return True


def _on_a_page(size: int) -> memoryview:
    """So many bytes of zeros that begin where a page does.

    The kernel copies regions from a buffer of its own that begins on a page. Where ours begins 8 to 24 bytes into one
    (16, as malloc has it), the processor takes each load for one that depends on the store before it (their addresses
    are alike in the lowest 12 bits), and a scan with 1,500 regions took a quarter longer (x86-64, Linux 6.18).
    """
    memory = bytearray(size + _ALIGNMENT)
    skip = -np.frombuffer(memory, np.uint8).ctypes.data % _ALIGNMENT
    return memoryview(memory)[skip : skip + size]
