"""Memory that exists only in the test, and an engine that knows of every write to it because it goes through here.

For tests of programs that use trackers: it needs no kernel, and does on request what the real ones do rarely::

    memory = FakeMemory(16 * 4096)
    with pagescan.track(memory, on_lost="report") as tracker:
        memory.write(5000, b"x")
        memory.overstate(3)                     # the next answer names page 3 as well, quality SUPERSET
        memory.lose("it was unmapped")          # the next answer is LOST, or take() raises CoverageLost
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..abi import Mapping, MemoryKind, PlainGapFinder, TrackingProof
from ..errors import CoverageLost, InvalidArgument, KernelCannot
from ..query import Category
from ..ranges import Regions
from ..trackers.looking import look_at_each, runs_of
from ..trackers.registration import plan_extents

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ..abi import GapFinder, Pagemap, Userfaultfd
    from ..trackers.base import Arm, Extent, Findings

#: Far from the addresses of anything real.
_START = 0x10_0000_0000
_SAID = "the test says that too much is named"


class FakeMemory:
    """Bytes to track, written and read through this object alone.

    Attributes:
        space: the address space that consists of it.
        address, nbytes, itemsize: where it "lies"; as of any buffer.
    """

    droppable = True

    def __init__(self, nbytes: int, *, page_size: int = 4096):
        """``nbytes``: its length, whole pages. Raises InvalidArgument."""
        if nbytes <= 0 or nbytes % page_size:
            raise InvalidArgument(f"{nbytes} bytes are not whole pages of {page_size}")
        self.address, self.nbytes, self.itemsize = _START, nbytes, 1
        self.unit = page_size
        self.written = np.zeros(nbytes // page_size, np.bool_)
        self.overstated = np.zeros(nbytes // page_size, np.bool_)
        self.lost = ""
        self._bytes = np.zeros(nbytes, np.uint8)
        self.space = FakeSpace(self)

    @property
    def buffer(self) -> FakeMemory:
        """Itself: what is given to :func:`pagescan.track`."""
        return self

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes; their pages are written to."""
        if not 0 <= offset <= offset + len(data) <= self.nbytes:
            raise InvalidArgument(f"{len(data)} bytes at {offset} are outside {self.nbytes} bytes")
        self._bytes[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        self.written[offset // self.unit : -(-(offset + len(data)) // self.unit)] = True

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes."""
        return self._bytes[offset : offset + length].tobytes()

    def drop(self, offset: int, length: int) -> None:
        """Give whole pages back: they hold zeros, and count as written to."""
        self.write(offset, bytes(length))

    def overstate(self, *pages: int) -> None:
        """The next answer names these pages too (numbers from 0), and says that it may name too many."""
        self.overstated[list(pages)] = True

    def lose(self, why: str = "the test says so") -> None:
        """From now on the memory can no longer be asked about, as if it had been unmapped."""
        self.lost = why


class FakeSpace:
    """An address space that consists of one :class:`FakeMemory`, with an engine of its own."""

    engines: tuple[str, ...] = ("fake",)
    label = "fake memory"

    def __init__(self, memory: FakeMemory):
        self._memory = memory
        self.page_size = memory.unit

    def make_engine(self, name: str) -> FakeEngine:
        """The one engine there is."""
        return FakeEngine(self._memory)

    def mappings(self) -> Sequence[Mapping]:
        memory = self._memory
        return [Mapping(memory.address, memory.address + memory.nbytes, "rw-p", page_size=self.page_size)]

    def mapping_at(self, address: int) -> Mapping | None:
        return next((m for m in self.mappings() if m.start <= address < m.end), None)

    def is_droppable(self, mapping: Mapping) -> bool:
        return False

    def has_gap(self, start: int, end: int) -> bool:
        (mapping,) = self.mappings()
        return not mapping.start <= start <= end <= mapping.end

    def gap_finder(self) -> GapFinder:
        return PlainGapFinder(self)

    def prove_tracking(self) -> TrackingProof:
        return TrackingProof(True, "fake memory knows of every write to it")

    @contextlib.contextmanager
    def trial(self, kind: MemoryKind) -> Iterator[_Trial]:
        yield _Trial(FakeMemory(4 * self.page_size, page_size=self.page_size))

    def read(self, regions: Any) -> NDArray[np.uint8]:
        start = self._memory.address
        pairs = zip(regions.starts.tolist(), regions.ends.tolist(), strict=True)
        parts = [np.frombuffer(self._memory.read(low - start, high - low), np.uint8) for low, high in pairs]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint8)

    def write(self, regions: Any, data: Any) -> None:
        content, position = np.frombuffer(data, np.uint8), 0
        for low, high in zip(regions.starts.tolist(), regions.ends.tolist(), strict=True):
            self._memory.write(low - self._memory.address, content[position : position + high - low].tobytes())
            position += high - low

    def truly_swapped(self, pagemap: Any, suspects: Regions) -> Regions:
        return Regions.empty(page_size=self.page_size)

    def open_pagemap(self) -> Pagemap:
        raise KernelCannot("fake memory has no page tables", hint="the model has: pagescan.model.Machine()")

    def open_userfaultfd(self, features: int) -> Userfaultfd:
        raise KernelCannot("fake memory has no userfaultfd", hint="the model has: pagescan.model.Machine()")

    def clear_soft_dirty(self) -> None:
        raise KernelCannot("fake memory has no page tables")

    def foreign_faults(self) -> int:
        return 0


class _Trial:
    """Fake memory to prove the engine on (:class:`pagescan.abi.TrialMemory`)."""

    def __init__(self, memory: FakeMemory):
        self._memory = memory
        self.space = memory.space
        self.start, self.size, self.count = memory.address, memory.unit, memory.nbytes // memory.unit

    def write(self, *indices: int) -> None:
        for index in indices:
            self._memory.write(index * self.size, b"x")

    def drop(self, index: int) -> None:
        self._memory.drop(index * self.size, self.size)


class FakeEngine:
    """The engine ``fake``; the interface is :class:`pagescan.trackers.base.Engine`'s."""

    name = "fake"

    def __init__(self, memory: FakeMemory):
        self._memory = memory
        #: What was overstated and taken; it may be due to other readers still.
        self._overstated = Regions.empty(page_size=memory.unit)

    def plan(self, pages: Regions) -> list[Extent]:
        return plan_extents(self._memory.space, pages)[0]

    def cover(self, extents: Sequence[Extent]) -> None:
        """Nothing to do: every write is known."""

    def arm(self, extents: Sequence[Extent], how: Arm) -> None:
        for extent in extents:
            self._memory.written[self._pages(extent)] = False

    def take(self, extents: Sequence[Extent]) -> Findings:
        findings = self.peek(extents)
        for extent in extents:
            pages = self._pages(extent)
            self._overstated |= Regions.trusted(
                runs_of(self._memory.overstated[pages], extent.start, self._memory.unit), page_size=self._memory.unit
            )
            self._memory.written[pages] = self._memory.overstated[pages] = False
        return findings

    def peek(self, extents: Sequence[Extent]) -> Findings:
        return look_at_each(extents, self._look, page_size=self._memory.unit)

    def _look(self, extent: Extent) -> Regions:
        if self._memory.lost:
            raise CoverageLost(self._memory.lost)
        pages = self._pages(extent)
        named = self._memory.written[pages] | self._memory.overstated[pages]
        found = runs_of(named, extent.start, self._memory.unit, Category.WRITTEN)
        return Regions.trusted(found, page_size=self._memory.unit)

    def _pages(self, extent: Extent) -> slice:
        first = self._memory.address
        return slice((extent.start - first) // self._memory.unit, (extent.end - first) // self._memory.unit)

    def caveat(self, written: Regions, extents: Sequence[Extent]) -> str:
        too_many = self._overstated | Regions.trusted(
            runs_of(self._memory.overstated, self._memory.address, self._memory.unit), page_size=self._memory.unit
        )
        return _SAID if written & too_many else ""

    def uncover(self, pages: Regions) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def close_in_child(self) -> None:
        """Nothing to do."""
