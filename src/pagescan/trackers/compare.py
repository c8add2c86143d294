"""The engine ``compare``: the contents now against the contents when they were last taken.

It needs nothing of the kernel but that memory can be read, so it works everywhere: in a container that has no
userfaultfd, on kernels without asynchronous write protection, on memory that cannot be registered. And it sees what
page tables do not: writes through another mapping of the same memory or by another process, holes punched, files
truncated, transfers by devices. A page that was written with the bytes it held is not in the answer: the answer is
about contents.

What it costs: a take reads all the memory (docs/engines.md), and what it held is kept: a copy of everything, or above
`copy_limit` bytes 16 bytes a page, if the package xxhash is installed. Writers pay nothing.

*The moment of the answer*. A page that is not named holds the bytes it held when it was last taken: of that the answer
is certain. But nobody notices a page that changes and changes back between two takes. So who copies named pages has to
do it before they are written to again; or what was copied may be such a passing state, that no later answer corrects.
Engines that see writes have no such limit.

*Reading* goes through the kernel (``process_vm_readv``, ``/proc/self/mem``), not through pointers: a page that is gone
is then an error, and this process lives. A page that is not populated, in private memory of no file, holds zeros, and
is not read, which would populate it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from ..abi import Entry
from ..errors import CoverageLost, InvalidArgument, NoSuchProcess, PagescanError
from ..query import Category
from ..ranges import Regions
from .contents import Contents, Piece, copies, digests
from .looking import UNMAPPED, look_at_each, runs_of
from .registration import plan_extents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..abi import AddressSpace, Pagemap
    from .base import Arm, Extent, Findings
    from .contents import Summary

#: Bytes read and compared at a time.
BLOCK = 4 << 20
_POPULATED = np.uint64(Entry.PRESENT | Entry.SWAPPED)


class CompareEngine:
    """See the module's docstring; the interface is :class:`.base.Engine`'s."""

    name = "compare"
    #: Bytes of one extent up to which a copy is kept, whether digests are to be had or not.
    copy_limit = 64 << 20

    def __init__(self, space: AddressSpace):
        self._space = space
        self._contents = Contents(space.page_size)
        self._digests = digests()
        self._pagemap: Pagemap | None
        try:
            self._pagemap = space.open_pagemap()
        except NoSuchProcess:
            raise
        except (PagescanError, OSError):
            self._pagemap = None  # then everything is read, populated or not

    @property
    def kept_bytes(self) -> int:
        """How much is kept to compare with, at most."""
        return self._contents.nbytes

    def plan(self, pages: Regions) -> list[Extent]:
        return plan_extents(self._space, pages)[0]

    def cover(self, extents: Sequence[Extent]) -> None:
        for extent in extents:
            self._contents.add(extent.start, extent.end, self._summary_for(extent))

    def _summary_for(self, extent: Extent) -> Summary:
        return copies if extent.size <= self.copy_limit or self._digests is None else self._digests

    def arm(self, extents: Sequence[Extent], how: Arm) -> None:
        for extent in extents:
            try:
                self._look(extent, keep=True)
            except CoverageLost as error:
                raise InvalidArgument(
                    f"{extent.start:#x}-{extent.end:#x} of {self._space.label} cannot be compared: {error.message}",
                    hint="track memory that can be read",
                ) from None

    def take(self, extents: Sequence[Extent]) -> Findings:
        return self._each(extents, keep=True)

    def peek(self, extents: Sequence[Extent]) -> Findings:
        return self._each(extents, keep=False)

    def _each(self, extents: Sequence[Extent], *, keep: bool) -> Findings:
        look = functools.partial(self._look, keep=keep)
        return look_at_each(extents, look, has_gap=self._space.has_gap, page_size=self._space.page_size)

    def caveat(self, written: Regions, extents: Sequence[Extent]) -> str:
        return ""

    def _look(self, extent: Extent, *, keep: bool) -> Regions:
        """The pages that differ from what is kept; ``keep`` keeps what they hold now."""
        size = self._space.page_size
        found = [runs_of(np.zeros(0, np.bool_), 0, size)]
        for piece, low, high in self._contents.blocks(extent.start, extent.end, BLOCK):
            changed = self._changed(piece, low, high, extent.anonymous, keep)
            if changed.any():
                found.append(runs_of(changed, piece.start + low * size, size, Category.WRITTEN))
        return Regions.merged(np.concatenate(found), page_size=size)

    def _changed(self, piece: Piece, low: int, high: int, anonymous: bool, keep: bool) -> NDArray[np.bool_]:
        """Which pages [low, high) of a piece differ from what is kept of them."""
        start = piece.start + low * self._space.page_size
        populated = self._populated(start, high - low, anonymous)
        candidates = np.flatnonzero(populated | piece.populated[low:high])
        changed = np.zeros(high - low, np.bool_)
        if not len(candidates):
            return changed
        now = piece.summary(self._read(start, candidates, populated))
        rows: slice | NDArray[np.intp] = slice(low, high) if len(candidates) == high - low else candidates + low
        differs = (piece.kept[rows] != now).any(axis=1)
        changed[candidates[differs]] = True
        if keep:
            piece.kept[candidates[differs] + low] = now[differs]
            piece.populated[low:high] = populated
        return changed

    def _populated(self, start: int, count: int, anonymous: bool) -> NDArray[np.bool_]:
        """Which of these pages have to be read; the others are known to hold zeros."""
        if not anonymous or self._pagemap is None:
            return np.ones(count, np.bool_)
        entries = self._pagemap.read_entries(start, start + count * self._space.page_size)
        populated: NDArray[np.bool_] = (entries & _POPULATED) != 0
        return populated

    def _read(self, start: int, pages: NDArray[np.intp], populated: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The contents of these pages (numbers from ``start`` on), uint8 (n, page size). Raises CoverageLost."""
        size = self._space.page_size
        there = Regions.trusted(runs_of(populated, start, size), page_size=size)
        try:
            data = self._space.read(there).reshape(-1, size)
        except NoSuchProcess:
            raise
        except (InvalidArgument, OSError) as error:
            gap = self._space.has_gap(start, start + len(populated) * size)
            raise CoverageLost(UNMAPPED if gap else f"it can no longer be read: {_said(error)}") from None
        if len(data) == len(pages):
            return data
        contents = np.zeros((len(pages), size), np.uint8)
        contents[populated[pages]] = data
        return contents

    def uncover(self, pages: Regions) -> None:
        self._contents.remove(pages)

    def close(self) -> None:
        if self._pagemap is not None:
            self._pagemap.close()
        self._contents = Contents(self._space.page_size)

    def close_in_child(self) -> None:
        self.close()


def _said(error: Exception) -> str:
    return error.message if isinstance(error, PagescanError) else str(error)
