"""What forked processes still share, and what they un-share: a meter of copy on write.

After a fork, parent and child share every page of private memory, until one of them writes to it and gets a copy of its
own. The kernel tells of each page whether this process is the only one that maps it (bit 56 of ``/proc/PID/pagemap``,
Linux 4.2). So a page that was shared at one look and is this process's alone at the next has been un-shared in between:

* *copied*: this process wrote to it, and has a new page; or
* *left to it*: the others wrote to it, gave it back, or ended. It is the same page as before, which its frame number
  shows, to those who may read it (CAP_SYS_ADMIN).

Pages of files and of shared memory are never un-shared, and the page of zeros is nobody's; neither counts here. Pages
that KSM merged count as shared. A page that is swapped out is neither shared nor alone until it is back, and then
counts as what it is. Of large folios a kernel without CONFIG_PAGE_MAPCOUNT only knows whether all of it is unshared.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .abi import Entry
from .errors import InvalidArgument, PagescanError
from .process.current import current_pagemap, current_space
from .process.process import Process
from .query import Category
from .ranges import REGION_DTYPE, Regions
from .scanning.walk import scan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from .abi import AddressSpace, Mapping, Pagemap

#: Pages between two regions that are read as well, rather than asking twice: 4 KiB of entries.
_NEAR = 512
#: Pages that are read at once: 128 KiB of entries, which stay in the processor's cache while they are looked through.
_CHUNK = 1 << 14
#: Where a present page lies: PM_PFRAME_MASK in fs/proc/task_mmu.c; zero to those who may not know.
_FRAME = np.uint64((1 << 55) - 1)
_STATE = np.uint64(Entry.PRESENT | Entry.FILE | Entry.EXCLUSIVE)
_SHARED, _ALONE = np.uint64(Entry.PRESENT), np.uint64(Entry.PRESENT | Entry.EXCLUSIVE)
_IN_SWAP = np.uint64(Entry.PRESENT | Entry.SWAPPED)


def cow_meter(target: Any = "self") -> CowMeter:
    """Measure what a process un-shares from the processes it was forked with, from now on.

    ::

        with pagescan.cow_meter() as meter:     # before the fork: exact from the fork on, in parent and child
            pid = os.fork()
            ...
            meter.read().unshared.byte_count

    Args:
        target: ``"self"``, a pid, a :class:`Process`, or a process of the model.

    Raises NoSuchProcess, AccessDenied; KernelCannot before Linux 6.7.
    """
    return CowMeter(target)


@dataclass(frozen=True, slots=True)
class MappingShares:
    """What was found of one mapping; bytes, and of private pages only.

    Attributes:
        mapping: the mapping.
        shared: mapped by another process as well.
        alone: this process's alone.
        unshared: of these, what was shared at the look before.
        copied: of these, what this process wrote to; None if frame numbers could not be read.
    """

    mapping: Mapping
    shared: int
    alone: int
    unshared: int
    copied: int | None


@dataclass(frozen=True, slots=True)
class CowSample:
    """One look of a :class:`CowMeter`.

    Attributes:
        elapsed_ns: nanoseconds since the look before.
        shared: private pages that another process maps as well.
        alone: private pages that this process alone maps.
        unshared: of these, those that were shared at the look before; and those that were un-shared before a fork of
            this process shared them anew.
        copied: of these, those that this process wrote to; the others were left to it. None where that is not known,
            because frame numbers take CAP_SYS_ADMIN.
        mappings: what was mapped, by address.
    """

    elapsed_ns: int
    shared: Regions
    alone: Regions
    unshared: Regions
    copied: Regions | None
    mappings: Sequence[Mapping]

    def by_mapping(self) -> list[MappingShares]:
        """A row for each mapping that has private pages, by address."""
        return [row for row in map(self._row, self.mappings) if row.shared or row.alone]

    def _row(self, mapping: Mapping) -> MappingShares:
        found = (self.shared, self.alone, self.unshared, self.copied)
        counts = [None if part is None else part.clip(mapping.start, mapping.end).byte_count for part in found]
        return MappingShares(mapping, *counts)  # type: ignore[arg-type]


class CowMeter:
    """Tells which pages a process un-shares; made by :func:`cow_meter`. A context manager.

    A meter of this process goes on in a forked child as the child's own. When this process forks through Python
    (``os.fork``, ``multiprocessing``), what it has in memory just before is what counts as shared. Another process's
    meter knows what is shared when it looks: make it as soon as the child is there. Not for two threads at a time.

    Attributes:
        last: the last look; at first the one at which the meter was made.
    """

    last: CowSample

    def __init__(self, target: Any = "self"):
        self._target = _target(target)
        self._shared = self._swapped = _Pages.none()
        #: What earlier forks found un-shared, and copied, since the last look that was asked for.
        self._carried: list[tuple[Regions, Regions | None]] = []
        self._looked_ns = time.monotonic_ns()
        self.read()
        _meters.add(self)

    def read(self) -> CowSample:
        """What is shared now, and what was un-shared since the look before (or since the meter was made).

        Each page's state was true at one moment; the whole is not one snapshot. Raises NoSuchProcess after the end.
        """
        found = self._look()
        now = time.monotonic_ns()
        elapsed, self._looked_ns = now - self._looked_ns, now
        self._shared, self._swapped = found.candidates, found.swapped
        unshared, copied = found.unshared, found.copied
        for earlier, earlier_copied in self._carried:
            unshared |= earlier
            copied = copied | earlier_copied if copied is not None and earlier_copied is not None else None
        self._carried.clear()
        self.last = CowSample(elapsed, found.shared, found.alone, unshared, copied, found.mappings)
        return self.last

    def _look(self, *, keep_alone: bool = False) -> _Look:
        with _opened(self._target) as (space, pagemap):
            size = space.page_size
            mappings = [mapping for mapping in space.mappings() if not mapping.shared]
            private = Regions.from_pairs(((m.start, m.end) for m in mappings), page_size=size)
            present = scan(space, required_mask=Category.PRESENT, excluded_mask=Category.PFNZERO, return_mask=0)
            look = _Look(mappings, size, present & private, self._shared, keep_alone)
            for start, end in _spans(look.present | self._swapped.regions(size)):
                look.take_in(start, pagemap.read_entries(start, end))
            return look

    def _before_fork(self) -> None:
        """All that is private and in memory is shared with the child in a moment, but what a child does not get."""
        if self._target is not None:
            return
        from .kernel.procfs import kept_from_children

        with contextlib.suppress(PagescanError):
            look = self._look(keep_alone=True)
            kept = Regions.from_pairs(kept_from_children(os.getpid()), page_size=look.page_size)
            self._carried.append((look.unshared, look.copied))
            self._shared, self._swapped = look.everything.without(kept), look.swapped

    def close(self) -> None:
        """Measure no longer. Closing again does nothing."""
        _meters.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Pages:
    """Some pages: their addresses, ascending, and the frames they lay in (0 where that may not be known)."""

    addresses: NDArray[np.uint64]
    frames: NDArray[np.uint64]

    @classmethod
    def none(cls) -> Self:
        return cls(np.empty(0, np.uint64), np.empty(0, np.uint64))

    def within(self, start: int, end: int) -> Self:
        low, high = np.searchsorted(self.addresses, np.array([start, end], np.uint64))
        return self[slice(int(low), int(high))]

    def without(self, regions: Regions) -> Self:
        ended = np.searchsorted(regions.ends, self.addresses, "right")
        return self[ended >= np.searchsorted(regions.starts, self.addresses, "right")]

    def regions(self, page_size: int) -> Regions:
        return Regions.from_pages(self.addresses, page_size=page_size)

    def __getitem__(self, chosen: Any) -> Self:
        return type(self)(self.addresses[chosen], self.frames[chosen])

    @classmethod
    def joined(cls, parts: Sequence[_Pages]) -> Self:
        """All of them, in order: each part is, but they may interleave."""
        if not parts:
            return cls.none()
        addresses = np.concatenate([part.addresses for part in parts])
        all_of_them = cls(addresses, np.concatenate([part.frames for part in parts]))
        return all_of_them if (addresses[1:] > addresses[:-1]).all() else all_of_them[np.argsort(addresses)]


class _Look:
    """What one look finds, put together chunk by chunk, by address.

    Attributes:
        present: the pages of private mappings that are in memory, but for the page of zeros.
    """

    def __init__(self, mappings: Sequence[Mapping], page_size: int, present: Regions, before: _Pages, keep_alone: bool):
        self.mappings = mappings
        self.page_size = page_size
        self.present = present
        self._before = before
        self._keep_alone = keep_alone
        self._frames_known = False
        self._runs: dict[bool, list[NDArray[np.void]]] = {True: [], False: []}  # by whether it is shared
        self._shared: list[_Pages] = []
        self._swapped: list[_Pages] = []  # since they were shared
        self._alone: list[_Pages] = []
        self._unshared: list[_Pages] = []
        self._copied: list[_Pages] = []

    def take_in(self, start: int, entries: NDArray[np.uint64]) -> None:
        """The entries of the pages from ``start`` on."""
        state = np.where(self._inside(start, len(entries)), entries & _STATE, np.uint64(0))
        shared, alone = state == _SHARED, state == _ALONE
        self._runs[True].append(self._as_records(shared, start))
        self._runs[False].append(self._as_records(alone, start))
        frames = entries & _FRAME
        self._frames_known |= bool(frames[alone].any() or frames[shared].any())
        was = self._before.within(start, start + len(entries) * self.page_size)
        at = ((was.addresses - np.uint64(start)) // np.uint64(self.page_size)).astype(np.int64)
        in_swap = entries[at] & _IN_SWAP == np.uint64(Entry.SWAPPED)
        self._shared.append(self._pages(shared, start, frames))
        self._swapped.append(was[in_swap])
        if self._keep_alone:
            self._alone.append(self._pages(alone, start, frames))
        unshared = alone[at]
        self._unshared.append(was[unshared])
        self._copied.append(was[unshared & (was.frames != frames[at])])

    def _inside(self, start: int, count: int) -> NDArray[np.bool_]:
        """Whether each of these pages is among the present ones."""
        part = self.present.clip(start, start + count * self.page_size)
        turns = np.zeros(count + 1, np.int8)
        for bounds, turn in ((part.starts, 1), (part.ends, -1)):
            turns[((bounds - np.uint64(start)) // np.uint64(self.page_size)).astype(np.int64)] += turn
        inside: NDArray[np.bool_] = np.cumsum(turns[:-1], dtype=np.int8).view(np.bool_)
        return inside

    def _as_records(self, chosen: NDArray[np.bool_], start: int) -> NDArray[np.void]:
        turns = np.flatnonzero(np.diff(np.concatenate(([False], chosen, [False])))).astype(np.uint64)
        bounds = turns * np.uint64(self.page_size) + np.uint64(start)
        records = np.zeros(len(bounds) // 2, REGION_DTYPE)
        records["start"], records["end"] = bounds[::2], bounds[1::2]
        return records

    def _pages(self, chosen: NDArray[np.bool_], start: int, frames: NDArray[np.uint64]) -> _Pages:
        at = np.flatnonzero(chosen)
        return _Pages(at.astype(np.uint64) * np.uint64(self.page_size) + np.uint64(start), frames[at])

    @property
    def candidates(self) -> _Pages:
        """What may have been un-shared by the next look: what is shared, or was when it was swapped out."""
        return _Pages.joined([*self._shared, *self._swapped])

    @property
    def swapped(self) -> _Pages:
        """What was shared when it was swapped out."""
        return _Pages.joined(self._swapped)

    @property
    def everything(self) -> _Pages:
        """All private pages in memory or of :attr:`candidates`; with ``keep_alone``."""
        return _Pages.joined([*self._shared, *self._swapped, *self._alone])

    @property
    def shared(self) -> Regions:
        return self._regions(self._runs[True])

    @property
    def alone(self) -> Regions:
        return self._regions(self._runs[False])

    def _regions(self, runs: list[NDArray[np.void]]) -> Regions:
        records = np.concatenate(runs) if runs else np.empty(0, REGION_DTYPE)
        return Regions.merged(records, page_size=self.page_size)

    @property
    def unshared(self) -> Regions:
        return _Pages.joined(self._unshared).regions(self.page_size)

    @property
    def copied(self) -> Regions | None:
        return _Pages.joined(self._copied).regions(self.page_size) if self._frames_known else None


def _spans(regions: Regions) -> Iterator[tuple[int, int]]:
    """Few ranges that hold the regions, none longer than a chunk: regions near each other are joined."""
    if not regions:
        return
    starts, ends, size = regions.starts, regions.ends, regions.page_size
    cut = np.flatnonzero(starts[1:] - ends[:-1] > np.uint64(_NEAR * size))
    firsts, lasts = starts[np.concatenate(([0], cut + 1))], ends[np.concatenate((cut, [-1]))]
    for start, end in zip(firsts.tolist(), lasts.tolist(), strict=True):
        for at in range(start, end, _CHUNK * size):
            yield at, min(end, at + _CHUNK * size)


def _target(target: Any) -> Process | AddressSpace | None:
    """The process; None for this one, whichever that is after a fork."""
    if target == "self" or (isinstance(target, int) and target == os.getpid()):
        current_space()
        return None
    if isinstance(target, int):
        return Process(target)
    if isinstance(target, Process) or hasattr(target, "open_pagemap"):
        return target  # type: ignore[no-any-return]
    raise InvalidArgument(f"target = {target!r}", hint='use "self", a pid, or a Process')


@contextlib.contextmanager
def _opened(target: Process | AddressSpace | None) -> Iterator[tuple[AddressSpace, Pagemap]]:
    """Its memory as it is now: another program may have been executed since the last look."""
    if target is None:
        yield current_space(), current_pagemap()
        return
    pagemap = target.open_pagemap()
    try:
        yield (target.space if isinstance(target, Process) else target), pagemap
    finally:
        pagemap.close()


_meters: weakref.WeakSet[CowMeter] = weakref.WeakSet()


def _before_fork() -> None:
    for meter in list(_meters):
        meter._before_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
