"""The bytes of one range of memory as they were, and moving pages of it: back into the memory, or over from it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from ..errors import KernelCannot
from ..process.allocate import reserve
from ..ranges import Regions
from ..scanning.walk import populated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ..abi import AddressSpace

#: Bytes that are moved at a time, where they pass through a buffer of ours.
_PIECE = 64 << 20
#: Bytes of contents from which on a copy is worth huge pages.
_HUGE_FROM = 4 << 20


class Copy:
    """Bytes [start, end) of an address space as they were; at any alignment.

    ``saved`` is our copy of them, at the same offset within a page. What was never touched of private memory takes
    none of ours.
    """

    def __init__(self, space: AddressSpace, start: int, end: int, saved: NDArray[np.uint8] | None = None):
        self.space = space
        self.start = start
        self.end = end
        if saved is not None:
            self.saved = saved
            return
        in_use = contents(space, start, end).clip(start, end)
        before = start % space.page_size
        huge = in_use.byte_count >= max(_HUGE_FROM, (end - start) // 2)
        self.saved = reserve(before + end - start, huge=huge)[before:]
        self.renew(in_use)

    def part(self, start: int, end: int) -> Copy:
        """The copy of a part of the range; shares the bytes."""
        return Copy(self.space, start, end, self.saved[start - self.start : end - self.start])

    def renew(self, regions: Regions) -> int:
        """Take over what these regions hold now; returns the bytes copied."""
        mine = self._mine(regions)
        for piece in _pieces(mine):
            data, position = self.space.read(piece), 0
            for low, high in self._bounds(piece):
                self.saved[low:high] = data[position : position + high - low]
                position += high - low
        return mine.byte_count

    def restore(self, regions: Regions) -> int:
        """Put back what these regions held; returns the bytes copied."""
        mine = self._mine(regions)
        for piece in _pieces(mine):
            self.space.write(piece, np.concatenate([self.saved[low:high] for low, high in self._bounds(piece)]))
        return mine.byte_count

    def differing(self, regions: Regions) -> Regions:
        """The pages of these regions that hold other bytes of ours than were saved; perhaps their neighbours too."""
        size, found = regions.page_size, [np.empty(0, np.int64)]
        for region in self._mine(regions):
            held = self.space.read(Regions.span(region.start, region.end, page_size=size))
            unlike = np.flatnonzero(held != self.saved[region.start - self.start : region.end - self.start])
            found.append((unlike + region.start) // size * size)
        return Regions.from_pages(np.concatenate(found), page_size=size)

    def _mine(self, regions: Regions) -> Regions:
        return regions if regions.lies_in(self.start, self.end) else regions.clip(self.start, self.end)

    def _bounds(self, regions: Regions) -> Iterator[tuple[int, int]]:
        """Offsets of each region in ``saved``."""
        return zip(*offsets(regions, self.start), strict=True)


class OwnCopy(Copy):
    """A :class:`Copy` of memory of this process, which can be reached without the kernel.

    ``live`` is that memory. Whole pages are moved by one masked copy: numpy's ``copyto`` over arrays whose elements are
    pages. It costs some 0.2 us a page beside the copying, and 0.5 ns for each page passed over; a slice assignment for
    each run costs 0.6 us, and is better for few runs, and for long ones.
    """

    def __init__(self, space: AddressSpace, start: int, end: int):
        from ..kernel.memory import as_array

        self.live = as_array(start, end - start)
        size = space.page_size
        first, last = -start % size, (end - start) - end % size
        #: Offsets of the first whole page, and of the end of the last.
        self._inner = (first, last) if first < last else (0, 0)
        super().__init__(space, start, end)

    def renew(self, regions: Regions) -> int:
        return self._move(self.live, self.saved, self._mine(regions))

    def restore(self, regions: Regions) -> int:
        return self._move(self.saved, self.live, self._mine(regions))

    def _move(self, source: NDArray[np.uint8], target: NDArray[np.uint8], regions: Regions) -> int:
        if not regions:
            return 0
        size, count = regions.page_size, regions.byte_count
        hull = int(regions.ends[-1]) - int(regions.starts[0])
        low, high = self._inner
        whole = regions.lies_in(self.start + low, self.start + high)
        inner = regions if whole else regions.clip(self.start + low, self.start + high)
        if len(regions) < 16 + hull // size // 1024 or count > 64 * size * len(regions) or not inner:
            self._move_runs(source, target, regions)
            return count
        if not whole:
            self._move_runs(source, target, regions.clip(self.start, self.start + low))
            self._move_runs(source, target, regions.clip(self.start + high, self.end))
        self._move_pages(source[low:high], target[low:high], inner, self.start + low)
        return count

    def _move_runs(self, source: NDArray[np.uint8], target: NDArray[np.uint8], regions: Regions) -> None:
        for start, end in zip(*offsets(regions, self.start), strict=True):
            target[start:end] = source[start:end]

    def _move_pages(self, source: NDArray[np.uint8], target: NDArray[np.uint8], regions: Regions, base: int) -> None:
        size = regions.page_size
        shift = np.uint64(size.bit_length() - 1)
        low, high = ((edges - np.uint64(base)) >> shift for edges in (regions.starts, regions.ends))
        first, last = int(low[0]), int(high[-1])
        low -= low[0]
        chosen = np.zeros(last - first, bool)
        chosen[low.view(np.int64)] = True
        high -= np.uint64(first)
        # Random writes leave few runs of several pages.
        longer = np.flatnonzero(high - low > 1)
        for begin, end in zip(low[longer].tolist(), high[longer].tolist(), strict=True):
            chosen[begin:end] = True
        kind = f"V{size}"
        np.copyto(target.view(kind)[first:last], source.view(kind)[first:last], where=chosen)

    def differing(self, regions: Regions) -> Regions:
        from ..kernel.memory import compare_memory

        mine = self._mine(regions)
        live, base = mine.starts.tolist(), int(self.saved.ctypes.data)
        saved = (mine.starts - np.uint64(self.start) + np.uint64(base)).tolist()
        differs = compare_memory(live, saved, (mine.ends - mine.starts).tolist())
        if not any(differs):
            return mine.clip(0, 0)
        found = mine.to_records()[differs]
        return Regions.from_pages(Regions.trusted(found, page_size=mine.page_size).pages(), page_size=mine.page_size)


def copy_of(space: AddressSpace, start: int, end: int, *, own: bool) -> Copy:
    """The present contents of [start, end); ``own``: it is memory of this process."""
    return OwnCopy(space, start, end) if own else Copy(space, start, end)


def contents(space: AddressSpace, start: int, end: int) -> Regions:
    """What of [start, end) may hold other bytes than zeros, in whole pages: of private memory, what is populated."""
    size = space.page_size
    mapping = space.mapping_at(start) if start < end else None
    if mapping is not None and mapping.private_anonymous and end <= mapping.end:
        with contextlib.suppress(KernelCannot):  # no PAGEMAP_SCAN: an engine that does without
            return populated(space, start, end)
    return Regions.span(start - start % size, -(-end // size) * size, page_size=size)


def offsets(regions: Regions, base: int) -> tuple[list[int], list[int]]:
    """Where the regions begin and end, in bytes from ``base``."""
    first = np.uint64(base)
    return (regions.starts - first).tolist(), (regions.ends - first).tolist()


def _pieces(regions: Regions) -> Iterator[Regions]:
    """The regions in pieces of a bounded number of bytes."""
    if regions.byte_count <= _PIECE:
        if regions:
            yield regions
        return
    position, ends = int(regions.starts[0]), regions.ends
    while position < int(ends[-1]):
        yield regions.clip(position, position + _PIECE)
        position += _PIECE
        after = int(np.searchsorted(ends, np.uint64(position), "right"))
        if after < len(ends):
            position = max(position, int(regions.starts[after]))
