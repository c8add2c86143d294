"""Which memory is so hot that it is left unprotected: the policy behind ``hot="exempt"``, pure.

A page that is written to in every interval costs its writer a fault in every interval, to tell what was known
beforehand. So memory that was written to in (nearly) every interval is left as it is after a look: not protected again,
and named in every answer without being asked about. Now and then it is protected after all, to see whether it is still
hot.

The unit is a *block* of `BLOCK_PAGES` pages that lie in one covered range, at multiples of their size. A block is hot
in an answer that names all its pages.

* *Exempted* is a block that was hot in `HOT_ANSWERS` of the last `ANSWERS` answers of a reader, the one at hand among
  them, unless another reader objects, of whose last `ANSWERS` answers fewer were hot. And only with neighbours,
  `RUN_BLOCKS` or more in a row: each run costs calls, and has to save much more than that.
* *Probed*, that is protected again, it is after `INTERVALS` looks, more each time it turned out to be still hot. If it
  was, it is exempted anew in the look that finds it so, and costs one fault for each probe.
* *Forgotten* are its probes once too few of the last answers were hot.

So a block that is written to no more is named in at most ``INTERVALS[-1]`` further looks, and exactly from then on.

Nothing is ever missed: an exempted block is in every answer, one that is no longer exempted is still unprotected and
therefore WRITTEN in the next look, which names it before it protects it. What is named because of that, rather than
because it was written to, is :attr:`HotPages.unprotected`.

State is an array of bytes for each property, one byte a block (16 KiB for each GiB), and ranges are `Regions`: no
object is made for a block.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..query import Category
from ..ranges import Regions
from ..records import REGION_DTYPE, runs

if TYPE_CHECKING:
    from typing import TypeVar

    from numpy.typing import NDArray

    _Kind = TypeVar("_Kind", bound=np.generic)

#: Pages of a block.
BLOCK_PAGES = 16
#: Blocks in a row that are worth a run of its own: 64 pages save their writer some 40 us, and cost a call of some 5.
RUN_BLOCKS = 4
#: Of so many answers ...
ANSWERS = 8
#: ... so many must have named all of a block.
HOT_ANSWERS = 7
#: Looks after which a block is probed: first, and while it stays hot. A probe costs what tracking costs in an interval.
INTERVALS = (8, 16, 32, 64, 128, 256)

#: By the bits of the last eight answers: whether enough of them were hot.
_ENOUGH = np.array([bits.bit_count() >= HOT_ANSWERS for bits in range(1 << ANSWERS)])
_WRITTEN = int(Category.WRITTEN)


@dataclass(slots=True)
class _History:
    """The answers that one reader got. ``bits`` has a byte for each block, the latest answer lowest, 1 for hot."""

    bits: NDArray[np.uint8]
    answers: int = 0
    quiet: int = 0  # so many of the latest had no hot block at all


class HotPages:
    """What is exempted of some pages. Its methods belong together, in one look of one reader::

        hot.begin()                                  # what is due to be probed is no longer exempt
        candidates = hot.candidates(reader)
        hot.exempt_those_in(look at the candidates, protecting nothing)
        take all but hot.exempt; answer that and hot.exempt
        hot.done()                                   # now all but hot.exempt is protected
        hot.note(reader, answer)

    Attributes:
        exempt: what is not asked about and not protected.
        unprotected: what may be WRITTEN although it was not written to since the last look.
        looks: how many there were.
    """

    def __init__(self, pages: Regions):
        self._page_size = pages.page_size
        self._size = np.uint64(BLOCK_PAGES * pages.page_size)
        self._starts = _block_starts(pages, int(self._size))
        count = len(self._starts)
        self._exempt = np.zeros(count, np.bool_)
        self._barred = np.zeros(count, np.bool_)
        #: Exempt no longer and not yet protected: that they are WRITTEN says nothing of this interval.
        self._stale = np.zeros(count, np.bool_)
        self._probes = np.zeros(count, np.uint8)
        self._due = np.zeros(count, np.int64)
        self._next_due = 0
        self._candidates: NDArray[np.bool_] | None = None
        self._histories: weakref.WeakKeyDictionary[object, _History] = weakref.WeakKeyDictionary()
        self.exempt = self.unprotected = self._nothing = Regions.empty(page_size=pages.page_size)
        self.looks = 0

    def follow(self, pages: Regions) -> None:
        """These are the pages now; what is known of those that were there before stays known."""
        starts = _block_starts(pages, int(self._size))
        place = np.searchsorted(self._starts, starts)
        old = np.flatnonzero(np.append(self._starts, np.uint64(0))[place] == starts) if len(self._starts) else place[:0]

        def carried(values: NDArray[_Kind], unknown: int = 0) -> NDArray[_Kind]:
            result = np.full(len(starts), unknown, values.dtype)
            result[old] = values[place[old]]
            return result

        self._barred, self._stale, exempt = carried(self._barred), carried(self._stale), carried(self._exempt)
        self._probes, self._due = carried(self._probes), carried(self._due)
        for history in self._histories.values():
            # A block that is new has been in no answer: it begins as one that was never hot.
            history.bits = carried(history.bits)
        self._starts, self._exempt = starts, exempt
        self.unprotected &= pages
        self._set(exempt)

    def begin(self) -> None:
        """A look begins."""
        self.looks += 1
        if self.exempt and self.looks >= self._next_due:
            self._set(self._exempt & (self._due > self.looks))

    def candidates(self, reader: object) -> Regions:
        """What would be exempted if it turned out to be hot in this look of the reader."""
        history = self._histories.get(reader)
        # Enough of the last answers were hot only if one of the last two was.
        self._candidates = None
        if history is None or history.answers < ANSWERS - 1 or history.quiet > ANSWERS - HOT_ANSWERS:
            return self._nothing
        chosen = _ENOUGH[history.bits << 1 | 1] & ~(self._exempt | self._barred | self._stale)
        for other in self._histories.values():
            if other is not history:
                chosen &= _ENOUGH[other.bits]
        self._candidates = self._in_runs(chosen)
        return self._regions(self._candidates)

    def exempt_those_in(self, written: Regions) -> None:
        """Exempt the candidates that this names in full; they have not been protected since they were written to."""
        hot = self._blocks_in(written)
        if hot is None or self._candidates is None:
            return
        chosen = self._in_runs(self._candidates & hot)
        if chosen.any():
            self._due[chosen] = self.looks + np.array(INTERVALS)[self._probes[chosen]]
            self._probes[chosen] = np.minimum(self._probes[chosen] + 1, len(INTERVALS) - 1)
            self._set(self._exempt | chosen)

    def done(self) -> None:
        """The look is over: everything that is not exempt has been protected."""
        if self.unprotected is not self.exempt:
            self.unprotected = self.exempt
            self._stale[:] = False

    def note(self, reader: object, answer: Regions) -> None:
        """What the reader was answered, from all looks since it last asked."""
        history = self._histories.get(reader)
        if history is None:
            # Nothing is known of it, so it objects to nothing.
            history = self._histories[reader] = _History(np.full(len(self._starts), 0xFF, np.uint8))
        hot = self._blocks_in(answer)
        history.answers += 1
        history.quiet = history.quiet + 1 if hot is None else 0
        if history.quiet > ANSWERS:
            return  # all bits are 0
        history.bits <<= 1
        if hot is not None:
            history.bits |= hot
        if self._probes.any():
            self._probes[~_ENOUGH[history.bits]] = 0

    def bar(self, pages: Regions) -> None:
        """Exempt nothing of which these pages are part, and whatever else there is: somebody needs them exactly."""
        reached = np.zeros(len(self._starts), np.bool_)
        if pages and len(reached):
            first = np.searchsorted(self._starts + self._size, pages.starts, "right")
            last = np.searchsorted(self._starts, pages.ends, "left")
            for low, high in zip(first.tolist(), last.tolist(), strict=True):
                reached[low:high] = True
        self._barred = reached
        if (self._exempt & reached).any():
            self._set(self._exempt & ~reached)

    def protected(self, pages: Regions) -> Regions:
        """Somebody else's look protects these pages; returns those of them that were left unprotected."""
        reached = self.unprotected & pages
        self.unprotected -= pages
        return reached

    def _set(self, exempt: NDArray[np.bool_]) -> None:
        self._stale |= self._exempt & ~exempt
        self._exempt = exempt
        self.exempt = self._regions(exempt)
        self.unprotected |= self.exempt
        if self.exempt:
            self._next_due = int(self._due[exempt].min())

    def _in_runs(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Those of the chosen that have, with what is exempt, enough neighbours in a row."""
        if not chosen.any():
            return chosen
        at = np.flatnonzero(chosen | self._exempt)
        first, last = runs(np.diff(self._starts[at]) != self._size, len(at))
        lengths = np.flatnonzero(last) - np.flatnonzero(first) + 1
        long = np.zeros_like(chosen)
        long[at] = np.repeat(lengths >= RUN_BLOCKS, lengths)
        return chosen & long

    def _blocks_in(self, regions: Regions) -> NDArray[np.bool_] | None:
        """Which blocks lie wholly in the regions; None if there is none."""
        if not regions:
            return None
        if (regions.ends[:-1] == regions.starts[1:]).any():
            regions = regions.with_categories(_WRITTEN)  # neighbours that differ in categories only
        wide = regions.ends - regions.starts >= self._size
        if not wide.any():
            return None
        first = np.searchsorted(self._starts, regions.starts[wide], "left")
        last = np.searchsorted(self._starts, regions.ends[wide] - self._size, "right")
        steps = np.zeros(len(self._starts) + 1, np.int8)
        some = first < last
        if not some.any():
            return None
        # The blocks of two regions differ, so no index comes twice.
        steps[first[some]] += 1
        steps[last[some]] -= 1
        return np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)

    def _regions(self, chosen: NDArray[np.bool_]) -> Regions:
        starts = self._starts[chosen]
        first, last = runs(np.diff(starts) != self._size, len(starts))
        records = np.empty(int(first.sum()), REGION_DTYPE)
        records["start"], records["end"], records["categories"] = starts[first], starts[last] + self._size, _WRITTEN
        return Regions.trusted(records, page_size=self._page_size)


def _block_starts(pages: Regions, size: int) -> NDArray[np.uint64]:
    """The addresses, multiples of ``size``, of all blocks that lie wholly in one region."""
    first = -(-pages.starts.astype(np.int64) // size)
    counts = np.maximum(pages.ends.astype(np.int64) // size - first, 0)
    offsets = np.cumsum(counts) - counts
    numbers = np.repeat(first - offsets, counts) + np.arange(counts.sum())
    return (numbers * size).astype(np.uint64)
