"""Where the memory of a process has guard regions: pages that fault at any touch, within a mapping that is as usual.

``madvise(MADV_GUARD_INSTALL)`` makes them (Linux 6.13, 662df3e5c376, "mm: madvise: implement lightweight guard page
mechanism"). ``/proc/PID/maps`` does not show them; PAGEMAP_SCAN does (PAGE_IS_GUARD, 6.16, a516403787e0). Kernels from
6.13 to 6.15 have them and do not tell here: the pagemap file of 6.15 would (8e2f2aeb8b48), at the price of 8 bytes for
each page of address space.

What they are needed for: from 2.42 on glibc guards the stacks of threads so (a6fbe36b7f, "nptl: Add support for setup
guard pages with MADV_GUARD_INSTALL", ``nptl/allocatestack.c``). The guard is the lowest part of the stack's own
mapping, and the kernel joins the mappings of neighbouring stacks into one.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..abi import REGION_DTYPE, pack_scan_argument
from ..errors import PagescanError
from ..query import Category
from .pagemap import Pagemap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from ..abi import Mapping

_ROOM = 512  # regions in one call: what the kernel gathers at a time
#: Names of mappings that hold no stack made by a libc.
_OTHERS = ("[heap]", "[stack]")


@dataclass(frozen=True, slots=True)
class Guards:
    """Guard regions.

    Attributes:
        starts, ends: addresses, ascending, half-open.
        told: whether they could be found out; if not, there are none here.
    """

    starts: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    told: bool = True

    def within(self, start: int, end: int) -> bool:
        """Whether any part of [start, end) is guarded."""
        index = bisect.bisect_right(self.ends, start)
        return index < len(self.starts) and self.starts[index] < end


NO_GUARDS = Guards()


def find_guards(pid: int, mappings: Iterable[Mapping]) -> Guards:
    """The guard regions in those of the mappings that can hold stacks. Raises nothing: see ``Guards.told``.

    Every page table of theirs is walked: of 4 GiB in pages of 4 KiB in 4 to 8 ms (Linux 6.18, x86-64; attaching to all
    of it takes 100 ms). Meanwhile the process runs, but a mapping it makes or unmaps has to wait.
    """
    try:
        with Pagemap.open(pid) as pagemap:
            if Category.GUARD not in pagemap.known:
                return Guards(told=False)
            vec = np.empty(_ROOM, REGION_DTYPE)
            at = int(vec.ctypes.data)
            stacks = filter(_may_hold_stacks, mappings)
            found = [region for stack in stacks for region in _regions(pagemap, stack.start, stack.end, vec, at)]
    except (PagescanError, OSError):
        return Guards(told=False)
    return Guards(tuple(start for start, _ in found), tuple(end for _, end in found))


def _may_hold_stacks(mapping: Mapping) -> bool:
    return mapping.private_anonymous and mapping.writable and mapping.name not in _OTHERS


def _regions(pagemap: Pagemap, start: int, end: int, vec: NDArray[np.void], at: int) -> Iterator[tuple[int, int]]:
    """Those in [start, end), in calls that each fill ``vec``, whose address is ``at``."""
    guard, count = int(Category.GUARD), _ROOM
    while count == _ROOM and start < end:  # room left tells that the range was done
        argument = pack_scan_argument(
            start=start, end=end, vec=at, vec_len=_ROOM, category_mask=guard, return_mask=guard
        )
        count = pagemap.ioctl_scan(argument, vec)
        for region in vec[:count]:
            yield int(region["start"]), (start := int(region["end"]))
