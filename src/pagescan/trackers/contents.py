"""What memory held: kept page by page as copies or as digests, and compared with what it holds now."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ..ranges import Regions

    #: Turns pages, uint8 (n, page size), into what is kept of each: uint64 (n, words).
    Summary = Callable[[NDArray[np.uint8]], NDArray[np.uint64]]


def copies(pages: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A page as it is. An answer is then certain, and a second copy of the memory is kept."""
    return pages.view(np.uint64)


def digests() -> Summary | None:
    """128-bit xxh3 of a page, 16 bytes for each; None where the package xxhash is not installed.

    Two different contents have the same digest with probability 2 ** -128, unless somebody makes them so on purpose:
    xxh3 is no cryptographic hash.
    """
    try:
        from xxhash import xxh3_128_digest
    except ImportError:
        return None

    def summary(pages: NDArray[np.uint8]) -> NDArray[np.uint64]:
        joined = b"".join([xxh3_128_digest(page) for page in pages])
        return np.frombuffer(joined, np.uint64).reshape(len(pages), -1)

    return summary


class Piece:
    """The kept contents of [start, end), which nothing else keeps.

    Attributes:
        start, end: addresses in bytes, whole pages.
        kept: what is kept of each page, uint64 (pages, words). The memory for it is taken as it is filled.
        populated: which pages held anything when they were kept; of the others nothing is kept.
    """

    __slots__ = ("end", "kept", "populated", "start", "summary")

    def __init__(
        self,
        start: int,
        end: int,
        summary: Summary,
        kept: NDArray[np.uint64],
        populated: NDArray[np.bool_],
    ):
        self.start, self.end, self.summary, self.kept, self.populated = start, end, summary, kept, populated

    @classmethod
    def new(cls, start: int, end: int, page_size: int, summary: Summary) -> Piece:
        """Nothing was read of it yet: every page counts as full of zeros."""
        count = (end - start) // page_size
        zeros = summary(np.zeros((1, page_size), np.uint8))
        kept = np.zeros((count, zeros.shape[1]), np.uint64)
        if zeros.any():
            kept[:] = zeros
        return cls(start, end, summary, kept, np.zeros(count, np.bool_))

    def part(self, start: int, end: int, page_size: int) -> Piece:
        """A part of it, with memory of its own, so that the rest can be freed."""
        low, high = (start - self.start) // page_size, (end - self.start) // page_size
        return Piece(start, end, self.summary, self.kept[low:high].copy(), self.populated[low:high].copy())


class Contents:
    """The pieces of one address space, by address."""

    def __init__(self, page_size: int):
        self.page_size = page_size
        self._pieces: list[Piece] = []
        self._starts: list[int] = []

    @property
    def nbytes(self) -> int:
        """Bytes that are kept, at most."""
        return sum(piece.kept.nbytes for piece in self._pieces)

    def add(self, start: int, end: int, summary: Summary) -> None:
        """Keep [start, end) as well; what is kept already stays."""
        position = start
        for piece in [*self.over(start, end), None]:
            upto = piece.start if piece else end
            if position < upto:
                self._insert(Piece.new(position, upto, self.page_size, summary))
            if piece:
                position = max(position, piece.end)

    def _insert(self, piece: Piece) -> None:
        at = bisect.bisect_left(self._starts, piece.start)
        self._pieces.insert(at, piece)
        self._starts.insert(at, piece.start)

    def over(self, start: int, end: int) -> list[Piece]:
        """The pieces that overlap [start, end), by address."""
        first = max(bisect.bisect_right(self._starts, start) - 1, 0)
        return [p for p in self._pieces[first : bisect.bisect_left(self._starts, end)] if p.end > start]

    def remove(self, pages: Regions) -> None:
        """Forget these pages."""
        for region in pages:
            for piece in self.over(region.start, region.end):
                at = bisect.bisect_left(self._starts, piece.start)
                del self._pieces[at], self._starts[at]
                if piece.start < region.start:
                    self._insert(piece.part(piece.start, region.start, self.page_size))
                if region.end < piece.end:
                    self._insert(piece.part(region.end, piece.end, self.page_size))

    def blocks(self, start: int, end: int, size: int) -> Iterator[tuple[Piece, int, int]]:
        """[start, end), of which all is kept, in blocks of at most ``size`` bytes: (piece, first page, last page)."""
        step = max(size // self.page_size, 1)
        for piece in self.over(start, end):
            low = (max(start, piece.start) - piece.start) // self.page_size
            high = (min(end, piece.end) - piece.start) // self.page_size
            for first in range(low, high, step):
                yield piece, first, min(first + step, high)
