"""Buffers watched for a while, and what of them was written to, to the byte also where a page is shared.

A page that holds the end of a buffer holds other objects too, and a write to those says nothing of the buffer. Here
whole pages are tracked, and what a buffer has of its first and last page beside them is compared with a copy: at most
two pages. So a small array among others is watched by comparing alone, and costs no system call but its copy.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import Closed
from ..process.buffers import HeldBuffer
from ..query import Category
from ..ranges import Regions
from .tracker import track
from .written import Quality, Written

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from ..abi import AddressSpace


@dataclass(frozen=True, slots=True)
class _WholePages:
    """The pages that hold nothing but one buffer, as a buffer (:class:`~pagescan.abi.LocatedBuffer`)."""

    space: AddressSpace
    address: int
    nbytes: int
    itemsize: int = 1


@dataclass(frozen=True, slots=True)
class _Edge:
    """The bytes that a buffer has in a page it shares, and a copy of them."""

    space: AddressSpace
    address: int
    copy: NDArray[np.uint8]

    def changed(self) -> Regions:
        """The bytes that differ from the copy."""
        now = self.space.read(_span(self.space, self.address, self.address + len(self.copy)))
        turns = (np.flatnonzero(np.diff(now != self.copy, prepend=False, append=False)) + self.address).tolist()
        return Regions.from_pairs(zip(turns[::2], turns[1::2], strict=True), page_size=self.space.page_size)


class Watch:
    """Watches buffers (as :func:`.track` takes them) from now on. A context manager.

    Of pages that hold nothing but a buffer a write counts, also one of the same value; of bytes in a page that a buffer
    shares with others, a change of their value.

    Raises as :func:`.track`.
    """

    def __init__(self, *buffers: Any, engine: str = "auto"):
        self._end = contextlib.ExitStack()
        self.closed = False
        self._held: list[HeldBuffer] = []
        with contextlib.ExitStack() as undo:
            for buffer in buffers:
                self._held.append(HeldBuffer(buffer))
                undo.callback(self._held[-1].release)
            self._edges = [edge for held in self._held for edge in _edges(held)]
            whole = [pages for held in self._held if (pages := _whole_pages(held)).nbytes]
            self._tracker = undo.enter_context(track(*whole, engine=engine)) if whole else None
            self._end = undo.pop_all()

    def peek(self) -> Written:
        """What was written to since the beginning; nothing changes.

        Its regions are whole pages, but for single bytes in pages that are shared; ``slices(buffer)`` are elements.
        Raises CoverageLost if a buffer was moved or unmapped, Closed after close().
        """
        if self.closed:
            raise Closed("this watch has ended", hint="begin another one")
        for held in self._held:
            held.check_place()
        size = self._page_size
        written = self._tracker.peek() if self._tracker else Regions.empty(page_size=size)
        changed = Regions.union([edge.changed() for edge in self._edges], page_size=size)
        found = (written | changed).with_categories(Category.WRITTEN)
        covered = Regions.from_pairs((held.page_range() for held in self._held), page_size=size)
        if isinstance(written, Written):
            return Written.of(found, covered, written.quality, written.reason)
        return Written.of(found, covered, Quality.EXACT)

    @property
    def engine(self) -> str:
        """The engine that tells of whole pages; ``"compare"`` if there are none."""
        return self._tracker.engine if self._tracker else "compare"

    @property
    def _page_size(self) -> int:
        return self._held[0].space.page_size if self._held else 4096

    def close(self) -> None:
        """Stop watching. Closing again does nothing."""
        self.closed = True
        self._end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _whole_pages(held: HeldBuffer) -> _WholePages:
    low, high = _inside(held)
    return _WholePages(held.space, low, max(0, high - low))


def _inside(held: HeldBuffer) -> tuple[int, int]:
    """The range of pages that hold nothing but the buffer; empty, or the wrong way round, if there is none."""
    size = held.space.page_size
    if held.exclusive:
        return held.page_range()
    return -(-held.address // size) * size, (held.address + held.nbytes) // size * size


def _edges(held: HeldBuffer) -> list[_Edge]:
    start, end = held.address, held.address + held.nbytes
    low, high = _inside(held)
    parts = [(start, end)] if low >= high else [(start, low), (high, end)]
    return [_Edge(held.space, at, held.space.read(_span(held.space, at, until))) for at, until in parts if at < until]


def _span(space: AddressSpace, start: int, end: int) -> Regions:
    return Regions.span(start, end, page_size=space.page_size)
