"""Where the kernel writes what a scan finds, and how that is handed out without a copy.

A buffer is written to again when nobody else refers to the answer that lies in it, nor to an array of that: as CPython
counts references. That costs a look some 1.5 us less than weak references did, and an answer made anew for each.
"""

from __future__ import annotations

from sys import getrefcount
from typing import TYPE_CHECKING

import numpy as np

from ..records import REGION_DTYPE
from .result import UNSHARED, Scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ..query import Category

_ALIGNMENT = 4096
#: An answer of so many regions or fewer is short; so is one that fills at most this share (1 / it) of its buffer.
_SHORT = 512
_SHORT_SHARE = 16


class ResultBuffer:
    """A result buffer, and the answer that lies in it.

    Attributes:
        memory: its bytes.
        vec: the same as regions.
        address: where it lies.
        call: has the kernel write to it.
        answer: tells of what lies in it.
        short: up to how many regions an answer is better copied, so that who keeps it does not keep the buffer.
    """

    __slots__ = ("address", "answer", "call", "memory", "short", "vec")

    def __init__(
        self, count: int, bind: Callable[[NDArray[np.void]], Callable[[], int]], unknown: Category, page_size: int
    ):
        """Room for ``count`` regions. ``bind`` makes the call that writes to an array of them."""
        self.memory = _on_a_page(count * REGION_DTYPE.itemsize)
        self.vec: NDArray[np.void] = np.frombuffer(self.memory, REGION_DTYPE)
        self.address = self.vec.ctypes.data
        self.call = bind(self.vec)
        self.short = max(_SHORT, count // _SHORT_SHARE)
        self.answer = Scan(self.memory, 0, unknown, page_size)

    def is_free(self) -> bool:
        """Whether nobody reads it any more."""
        # The answer first: while somebody has it, more arrays can be made of it.
        return getrefcount(self.answer) <= UNSHARED and not self.answer.arrays_are_held()


def _on_a_page(size: int) -> memoryview:
    """So many bytes of zeros that begin where a page does.

    The kernel copies regions from a buffer of its own that begins on a page. Where ours begins 8 to 24 bytes into one
    (16, as malloc has it), the processor takes each load for one that depends on the store before it (their addresses
    are alike in the lowest 12 bits), and a scan with 1,500 regions took a quarter longer (x86-64, Linux 6.18).
    """
    memory = bytearray(size + _ALIGNMENT)
    skip = -np.frombuffer(memory, np.uint8).ctypes.data % _ALIGNMENT
    return memoryview(memory)[skip : skip + size]
