"""Which mappings live at a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..abi import Mapping
    from .model import MappingSpan

_FOREVER = np.iinfo(np.int64).max


class Lives:
    """The mappings of a recording by the samples that have them; remembers the last answer, for one after another.

    A heap that grows with every sample makes as many spans as samples, so an answer must not cost a sort of them all.
    """

    def __init__(self, spans: Sequence[MappingSpan]):
        ordered = sorted(spans, key=lambda span: span.mapping.start)
        self._mappings = np.empty(len(ordered), object)
        self._mappings[:] = [span.mapping for span in ordered]
        self._appeared = np.array([span.appeared for span in ordered], np.int64)
        ends = (_FOREVER if span.vanished is None else span.vanished for span in ordered)
        self._vanished = np.fromiter(ends, np.int64, len(ordered))
        self._changes = np.unique(np.concatenate([[0, _FOREVER], self._appeared, self._vanished]))
        self._last: tuple[int, int, tuple[Mapping, ...]] = (0, 0, ())

    def at(self, number: int) -> tuple[Mapping, ...]:
        """The mappings that the sample of this number has, by address."""
        low, high, found = self._last
        if not low <= number < high:
            # The same answer holds between two changes.
            after = int(np.searchsorted(self._changes, number, "right"))
            alive = (self._appeared <= number) & (number < self._vanished)
            found = tuple(self._mappings[alive].tolist())
            self._last = (int(self._changes[after - 1]), int(self._changes[after]), found)
        return found
