"""Where a scan puts what it finds: neighbours joined, cut where ``vec_len`` or ``max_pages`` is reached.

The kernel gathers regions in a bounce buffer of one PMD range's number of pages (512) and copies it out when full; all
that shows of it is the position of the last full batch, which its stale ``walk_end`` is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..abi import REGION_DTYPE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pages = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of pages with equal output: [start, end) in page numbers, by address, none overlapping."""

    starts: Pages
    ends: Pages
    outputs: Pages

    @classmethod
    def one(cls, start: int, end: int, output: int) -> Runs:
        return cls(*(np.array([value], dtype=np.int64) for value in (start, end, output)))

    @classmethod
    def joined(cls, parts: list[Runs], apart_at: frozenset[int] | set[int] = frozenset()) -> Runs:
        """All runs by address, touching equal ones joined, except at the pages ``apart_at``."""
        starts, ends, outputs = (
            np.concatenate([getattr(p, name) for p in parts] or [np.zeros(0, dtype=np.int64)])
            for name in ("starts", "ends", "outputs")
        )
        if len(parts) > 1:
            order = np.argsort(starts, kind="stable")
            starts, ends, outputs = starts[order], ends[order], outputs[order]
        apart = np.ones(len(starts), dtype=np.bool_)
        apart[1:] = (starts[1:] != ends[:-1]) | (outputs[1:] != outputs[:-1])
        if apart_at:
            apart |= np.isin(starts, np.fromiter(apart_at, dtype=np.int64))
        last = np.append(apart[1:], True)[: len(apart)]
        return cls(starts[apart], ends[last], outputs[apart])

    def clip(self, first: int, last: int) -> Runs:
        starts, ends = np.maximum(self.starts, first), np.minimum(self.ends, last)
        keep = starts < ends
        return Runs(starts[keep], ends[keep], self.outputs[keep])

    def cut(self, at: set[int]) -> Runs:
        """The same, with every run that reaches over one of these pages cut in two."""
        runs = self
        for page in at:
            k = int(np.searchsorted(runs.starts, page)) - 1
            if k >= 0 and runs.ends[k] > page:
                runs = Runs(
                    np.insert(runs.starts, k + 1, page),
                    np.insert(runs.ends, k, page),
                    np.insert(runs.outputs, k, runs.outputs[k]),
                )
        return runs

    def __len__(self) -> int:
        return len(self.starts)


class Output:
    """The regions of one call so far.

    Attributes:
        count: how many.
        apart_at: pages at which equal neighbours are not joined.
        noted: an address that ``walk_end`` is set to although the walk goes on (hugetlb); 0 for none.
    """

    def __init__(self, vec_len: int, max_pages: int, page_size: int, batch: int):
        self._room = vec_len
        self._pages_left = min(max_pages, 1 << 52) or None
        self._page_size = page_size
        self._batch = batch
        self._parts: list[Runs] = []
        self._end = -1
        self._last_output = -1
        self.count = 0
        self.apart_at: set[int] = set()
        self.noted = 0

    def _joins(self, runs: Runs) -> bool:
        if not len(runs) or int(runs.starts[0]) in self.apart_at:
            return False
        return bool(runs.starts[0] == self._end and runs.outputs[0] == self._last_output)

    def room_for(self, runs: Runs) -> int | None:
        """The page at which the output is full, or None if all of it fits. Without a buffer everything fits."""
        if not self._room or not len(runs):
            return None
        stops = []
        if self._pages_left is not None:
            total = np.cumsum(runs.ends - runs.starts)
            k = int(np.searchsorted(total, self._pages_left, side="right"))
            if k < len(runs):
                before = int(total[k - 1]) if k else 0
                stops.append(int(runs.starts[k]) + self._pages_left - before)
        fits = self._room - self.count + self._joins(runs)
        if fits < len(runs):
            stops.append(int(runs.starts[fits]))
        return min(stops) if stops else None

    def add(self, runs: Runs, stop: int | None) -> None:
        """Take the runs, up to the page ``stop``."""
        if not self._room:
            return
        if stop is not None:
            runs = runs.clip(0, stop)
        if not len(runs):
            return
        self.count += len(runs) - self._joins(runs)
        self._parts.append(runs)
        self._end, self._last_output = int(runs.ends[-1]), int(runs.outputs[-1])
        if self._pages_left is not None:
            self._pages_left -= int((runs.ends - runs.starts).sum())

    def note(self, address: int) -> None:
        self.noted = max(self.noted, address)

    def regions(self) -> NDArray[np.void]:
        """The answer, as the kernel writes it."""
        runs = Runs.joined(self._parts, self.apart_at)
        regions = np.zeros(len(runs), dtype=REGION_DTYPE)
        regions["start"] = runs.starts * self._page_size
        regions["end"] = runs.ends * self._page_size
        regions["categories"] = runs.outputs
        return regions

    @property
    def last_full_batch(self) -> int:
        """Where the last full batch ended: the start of the first region after it; 0 if none was filled."""
        batches = (self.count - 1) // self._batch
        if batches < 1:
            return 0
        return int(self.regions()["start"][batches * self._batch])
