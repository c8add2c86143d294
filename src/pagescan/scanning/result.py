"""What one call of a scan answered."""

from __future__ import annotations

from sys import getrefcount
from typing import TYPE_CHECKING, Any

from ..ranges import Regions
from ..records import NOTHING, Answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..query import Category


class _Slot:
    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = object()


_slot = _Slot()
#: What ``getrefcount(owner.slot)`` says of an object to which nothing else refers.
UNSHARED = getrefcount(_slot.held)


class Scan(Answer):
    """What one call answered.

    Attributes:
        walk_end: the address up to which the range was examined (repaired); call again from here.
        complete: whether that is the end of the range.
        unknown: categories that were asked for and that this kernel does not know: unknown, rather than absent.
        count: number of regions.
    """

    # Its regions may lie in a buffer that a later run would write to: result_buffers.py tells when that may be.

    __slots__ = ("complete", "page_size", "unknown", "walk_end")

    def __init__(self, memory: bytearray | memoryview, count: int, unknown: Category, page_size: int):
        super().__init__(memory, count)
        self.unknown = unknown
        self.page_size = page_size
        self.walk_end = 0
        self.complete = False

    @property
    def regions(self) -> NDArray[np.void]:
        """Structured array: fields ``start``, ``end`` (exclusive) and ``categories``; uint64; addresses in bytes."""
        # Made when first asked for: it takes as long as the rest of a small scan beside the call itself.
        return self.raw() if self.count else NOTHING

    def to_regions(self) -> Regions:
        """The same as a :class:`Regions` value."""
        return Regions.merged(self.regions, page_size=self.page_size, unknown=self.unknown)

    def arrays_are_held(self) -> bool:
        """Whether somebody refers to an array of it; if not, they are dropped."""
        arrays = self._arrays
        for at in range(len(arrays)):
            if getrefcount(arrays[at]) > UNSHARED:
                return True
        arrays.clear()
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
