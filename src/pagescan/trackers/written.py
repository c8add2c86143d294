"""The answer of a tracker: which pages were written to, and how far that can be relied on."""

from __future__ import annotations

import enum
from typing import Any

from ..errors import InvalidArgument
from ..ranges import Regions, locate
from ..units import format_count


class Quality(enum.Enum):
    """How good an answer is. In no case is a written page left out."""

    EXACT = "exact"  #: these pages were written to, and no others
    SUPERSET = "superset"  #: pages that were not written to may be among them; ``reason`` says why
    LOST = "lost"  #: coverage was lost: the lost ranges are named in full, since anything in them may have changed

    def __str__(self) -> str:
        return self.value


class Written(Regions):
    """The regions that were written to, in whole pages, with the quality of the answer.

    Attributes:
        quality: a :class:`Quality`.
        reason: why it is not EXACT, in a sentence; "" if it is.
        covered: the page ranges that were asked about.
        exempted: those of the regions that are named because they were left unprotected, as hot pages are under
            ``hot="exempt"``; whether they were written to is not known.
    """

    __slots__ = ("covered", "exempted", "quality", "reason")

    quality: Quality
    reason: str
    covered: Regions
    exempted: Regions

    @classmethod
    def of(
        cls,
        regions: Regions,
        covered: Regions,
        quality: Quality = Quality.EXACT,
        reason: str = "",
        exempted: Regions | None = None,
    ) -> Written:
        """An answer over ``covered`` from its regions."""
        self = cls.like(regions)
        self.covered, self.quality, self.reason = covered, quality, reason
        self.exempted = Regions.empty(page_size=regions.page_size) if exempted is None else exempted
        return self

    def slices(self, array: Any) -> list[slice]:
        """The elements of ``array`` that the written pages hold, as slices of ``array.reshape(-1)``.

        Rounded outward to whole elements and clipped to the array; neighbours are joined. Raises InvalidArgument if
        the array does not lie within the tracked memory, where "not written" would be a guess.
        """
        location = locate(array)
        end = location.address + location.nbytes
        if self.covered.clip(location.address, end).byte_count < location.nbytes:
            raise InvalidArgument(
                f"the array at {location.address:#x}-{end:#x} is not (wholly) within the memory this tracker covers",
                hint="pass one of the tracked buffers, or a contiguous view of one",
            )
        return self.slices_in(location.address, location.nbytes, location.itemsize)

    def __repr__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        size = f"{format_count(self.page_count, 'page')} in {format_count(len(self), 'region')}"
        return f"<Written: {size}, {self.quality}{reason}>"
