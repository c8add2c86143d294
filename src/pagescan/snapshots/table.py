"""What the writer of a series knows of every page of the version that it builds on, and what the next one changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .digests import empty_table, is_zero, table_sum, weighted_sum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .digests import Sum, Table


@dataclass(frozen=True, slots=True)
class PageTable:
    """What a version says of a buffer's pages.

    Attributes:
        digest: of each page; zeros for a page of zeros.
        pack: of each page, which of the version's packs tells of it, -1 for none.
        told: of each of the version's packs, how many of the pages it tells of.
        live: how many pages are not zeros.
        total: the weighted sum of the digests, from which the digest of the buffer is made.
    """

    digest: Table
    pack: NDArray[np.int32]
    told: NDArray[np.int64]
    live: int
    total: Sum

    @classmethod
    def of(cls, digest: Table, pack: NDArray[np.int32], packs: int) -> PageTable:
        """Of a version with so many packs."""
        told = np.bincount(pack + 1, minlength=packs + 1)[1:]
        return cls(digest, pack, told, int(np.count_nonzero(~is_zero(digest))), table_sum(digest))

    @classmethod
    def empty(cls) -> PageTable:
        """Of a buffer without a page."""
        return cls.of(empty_table(0), np.empty(0, np.int32), 0)

    def resized(self, pages: int) -> PageTable:
        """For a buffer of so many pages: itself, if it has them."""
        if pages == len(self.pack):
            return self
        kept = min(pages, len(self.pack))
        digest, pack = empty_table(pages), np.full(pages, -1, np.int32)
        digest[:kept], pack[:kept] = self.digest[:kept], self.pack[:kept]
        return PageTable.of(digest, pack, len(self.told))


class TableChanges:
    """What one commit changes in a table. The table stays as it is until :meth:`applied`: a commit that comes to
    nothing leaves nothing to take back.

    Attributes:
        before: the table.
        told, live, total: as they are afterwards, once :meth:`sum_up` was called.
    """

    def __init__(self, before: PageTable, kept: int):
        """``kept``: how many of the packs, the first, stay. Pages that the others tell of have to be :meth:`moved`."""
        self.before = before
        self.live, self.total = before.live, before.total
        self.told = _sized(before.told[:kept], kept)
        self._digests: list[tuple[NDArray[np.int64], Table]] = []
        self._packs: list[tuple[NDArray[np.int64], int]] = []

    def rehashed(self, page: NDArray[np.int64], digest: Table) -> None:
        """These pages, each named once, have another digest."""
        self._digests.append((page, digest))

    def moved(self, page: NDArray[np.int64], pack: int) -> None:
        """These pages, each named once, are told of by this pack, a new one; -1: by none."""
        self._packs.append((page, pack))

    def sum_up(self) -> None:
        """Count what was named. Once, at the end."""
        if self._digests:
            page, new = (np.concatenate(some) for some in zip(*self._digests, strict=True))
            old = self.before.digest[page]
            self.live += int(np.count_nonzero(is_zero(old))) - int(np.count_nonzero(is_zero(new)))
            self.total = self.total + weighted_sum(page, new) - weighted_sum(page, old)
        if self._packs:
            kept = len(self.told)
            old = self.before.pack[np.concatenate([page for page, _ in self._packs])]
            self.told = _sized(self.told, 1 + max(kept - 1, *(pack for _, pack in self._packs)))
            self.told[:kept] -= np.bincount(old[old < kept] + 1, minlength=kept + 1)[1:]
            for page, pack in self._packs:
                if pack >= 0:
                    self.told[pack] += len(page)

    def used(self, packs: int) -> NDArray[np.bool_]:
        """Which of so many packs tell of a page, afterwards."""
        return _sized(self.told, packs) > 0

    def applied(self, needed: NDArray[np.bool_]) -> PageTable:
        """The table afterwards, in the memory of the one before. Doing this again gives the same.

        ``needed``: which packs stay; they are numbered anew.
        """
        digest, pack = self.before.digest, self.before.pack
        for pages, new in self._digests:
            digest[pages] = new
        for pages, number in self._packs:
            pack[pages] = number
        if not needed.all():
            # One more element, for -1. Not in place: then a second time would number them anew once more.
            pack = np.append(np.where(needed, np.cumsum(needed) - 1, -1), -1).astype(np.int32)[pack]
        return PageTable(digest, pack, _sized(self.told, len(needed))[needed], self.live, self.total)


def _sized(counts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """A copy with zeros at the end, of this length."""
    copy = np.zeros(length, np.int64)
    copy[: len(counts)] = counts
    return copy
