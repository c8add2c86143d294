"""What every engine is: it covers ranges of memory, and tells which of their pages were written to since last asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..ranges import Regions

#: How step 4 of the set-up is done: by ``PAGEMAP_SCAN`` or by ``UFFDIO_WRITEPROTECT``. The effect is the same.
Arm = Literal["scan", "ioctl"]
#: What to do with memory that is written to in every interval: protect it as all other, or leave it unprotected.
Hot = Literal["protect", "exempt"]


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of pages in one mapping, which an engine handles in one way.

    Attributes:
        start, end: addresses in bytes, multiples of ``page_size``.
        page_size: bytes that one protection covers (a huge page for hugetlb).
        private: the mapping is private, so memory that is given back loses its contents.
        anonymous: private memory of no file, so that what is not populated holds zeros.
        sparse: its holes are left unprotected, because protecting them would cost page tables (only of private
            anonymous memory, where a hole is known to hold zeros).
    """

    start: int
    end: int
    page_size: int
    private: bool
    sparse: bool = False
    anonymous: bool = False

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start


@dataclass(slots=True)
class Loss:
    """An extent whose coverage was lost, and why. What had been written to it is unknown."""

    extent: Extent
    why: str


@dataclass(slots=True)
class Findings:
    """What one look found.

    Attributes:
        written: the written pages.
        losses: extents that could not be asked.
        unsure: of the written pages, those that may be so only because they were left unprotected; None if none was.
    """

    written: Regions
    losses: list[Loss] = field(default_factory=list)
    unsure: Regions | None = None


class Engine(Protocol):
    """A way to find written pages in one address space. Not for two threads at a time: the hub holds a lock.

    ``plan`` has no effect on the memory; the others take extents it returned (or parts of them), by address and without
    overlap. Extents that are covered already may be covered again, which changes nothing.

    The one promise that no engine may break: a page whose contents changed between two looks is in the answer of the
    second, or the second reports a loss. Naming more is allowed, and said by ``caveat``.
    """

    @property
    def name(self) -> str:
        """As in ``engine=``."""

    def plan(self, pages: Regions) -> list[Extent]:
        """How these pages would be covered; raises a typed error naming the mapping that cannot be."""

    def cover(self, extents: Sequence[Extent]) -> None:
        """Start covering. After an error some may be covered; whoever called uncovers them."""

    def arm(self, extents: Sequence[Extent], how: Arm) -> None:
        """Make every page "not written" without asking; the extents are covered, and nobody else waits for them."""

    def take(self, extents: Sequence[Extent]) -> Findings:
        """The pages written to since they were last taken or armed, protected again in the same step."""

    def peek(self, extents: Sequence[Extent]) -> Findings:
        """The same, changing nothing."""

    def caveat(self, written: Regions, extents: Sequence[Extent]) -> str:
        """Why an answer that names these pages may name too many, in a sentence; "" if each was really written to.

        ``written`` is what the answer names, of ``extents``; it may come from several looks.
        """

    def uncover(self, pages: Regions) -> None:
        """Stop covering these pages; what is no longer mapped is passed over."""

    def close(self) -> None:
        """Stop everything and free the descriptors."""

    def close_in_child(self) -> None:
        """In a forked child: free the descriptors without touching the parent's coverage."""


@runtime_checkable
class OwnEngines(Protocol):
    """An address space that brings engines of its own, by names in its ``engines`` (:mod:`pagescan.testing` does)."""

    def make_engine(self, name: str) -> Engine:
        """A new engine of this name on it."""
