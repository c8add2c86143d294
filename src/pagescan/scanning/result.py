"""What one call of a scan answered."""

from __future__ import annotations

from sys import getrefcount
from typing import TYPE_CHECKING, Any

from ..ranges import Regions
from ..records import NOTHING, REGION_DTYPE, Answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..query import Category

#: An answer of so many regions or fewer is short; so is one that fills less than this share (1 / it) of its buffer.
_SHORT = 512
_SHORT_SHARE = 16


class _Slot:
    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = object()


_slot = _Slot()
#: What ``getrefcount(owner.slot)`` says of an object to which nothing else refers.
UNSHARED = getrefcount(_slot.held)


def _held_by_a_local() -> int:
    held = _slot.held
    return getrefcount(held)


#: What ``getrefcount(local)`` says of one to which a local variable refers as well.
UNSHARED_LOCAL = _held_by_a_local()


class Scan(Answer):
    """What one call answered.

    Attributes:
        walk_end: the address up to which the range was examined (repaired); call again from here.
        complete: whether that is the end of the range.
        unknown: categories that were asked for and that this kernel does not know: unknown, rather than absent.
        count: number of regions.
    """

    # Its regions may lie in a buffer that a later run would write to: result_buffers.py tells when that may be. A short
    # answer is copied before an array of it is made, so that to keep the array does not keep the whole buffer.

    __slots__ = ("complete", "in_buffer", "looked_at", "page_size", "unknown", "walk_end")

    def __init__(
        self, memory: bytearray | memoryview, count: int, unknown: Category, page_size: int, *, in_buffer: bool = False
    ):
        super().__init__(memory, count)
        self.unknown = unknown
        self.page_size = page_size
        self.walk_end = 0
        self.complete = False
        self.in_buffer = in_buffer
        self.looked_at = False

    @property
    def regions(self) -> NDArray[np.void]:
        """Structured array: fields ``start``, ``end`` (exclusive) and ``categories``; uint64; addresses in bytes."""
        # Made when first asked for: it takes as long as the rest of a small scan beside the call itself.
        return self.raw()

    def raw(self) -> NDArray[np.void]:
        if not self.count:
            return NOTHING
        self.looked_at = True
        if self.in_buffer and self.is_short():
            self.move_out()
        return super().raw()

    def to_regions(self) -> Regions:
        """The same as a :class:`Regions` value."""
        return Regions.merged(self.raw(), page_size=self.page_size, unknown=self.unknown)

    def is_short(self) -> bool:
        """Whether a copy of it is cheaper than to keep the buffer that it lies in."""
        return self.count <= _SHORT or self.count * _SHORT_SHARE * REGION_DTYPE.itemsize < len(self._memory)

    def move_out(self) -> None:
        """Copy the regions out of the buffer; they must be few, and no array be made of them yet."""
        self.looked_at = True
        before = self._memory
        copy = bytearray(self._used())
        # If another thread has done it meanwhile, the buffer may have been written to before we read it.
        if self._memory is before:
            self._memory = copy
            self.in_buffer = False

    def arrays_are_held(self) -> bool:
        """Whether somebody refers to an array of it; if not, they are dropped."""
        arrays = self._arrays
        if any(getrefcount(arrays[at]) > UNSHARED for at in range(len(arrays))):
            return True
        arrays.clear()
        self.looked_at = False
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, too, has the regions in memory of its own.
        state = self.walk_end, self.complete
        return _remade, (bytearray(self._used()), self.count, self.unknown, self.page_size, *state)

    def __repr__(self) -> str:
        state = "complete" if self.complete else "to be continued"
        return f"<Scan: {self.count} regions up to {self.walk_end:#x}, {state}>"


def _remade(memory: bytearray, count: int, unknown: Category, page_size: int, walk_end: int, complete: bool) -> Scan:
    scan = Scan(memory, count, unknown, page_size)
    scan.walk_end, scan.complete = walk_end, complete
    return scan
