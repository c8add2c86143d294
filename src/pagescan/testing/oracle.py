"""The one oracle: what the memory really holds, byte by byte, at two moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..trackers.written import Quality

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from ..trackers.written import Written
    from .memory import TrackedMemory


class Oracle:
    """One reader's "since I last asked", from a comparison of all the bytes."""

    def __init__(self, memory: TrackedMemory):
        self._memory = memory
        self._before = self._units()

    def _units(self) -> NDArray[np.uint8]:
        """The contents, uint8 (units, bytes of one)."""
        contents = self._memory.read(0, self._memory.nbytes)
        return np.frombuffer(contents, np.uint8).reshape(-1, self._memory.unit)

    def named(self, written: Written) -> set[int]:
        """The numbers of the units that an answer names."""
        memory = self._memory
        starts = range(memory.address, memory.address + memory.nbytes, memory.unit)
        return {number for number, at in enumerate(starts) if written.clip(at, at + memory.unit)}

    def changed(self) -> set[int]:
        """The units whose contents differ from those at the last check."""
        return set(np.flatnonzero((self._units() != self._before).any(axis=1)).tolist())

    def check(self, written: Written, touched: Iterable[int], *, keep: bool = False) -> None:
        """The answer names every unit whose contents changed since the last check, and owns up to what is too much.

        Args:
            written: the answer.
            touched: the units that were written to or given back since then, whether that changed them or not.
            keep: what was answered stays due, so that the next check compares with the same contents.
        """
        changed = self.changed()
        named = self.named(written)
        assert not changed - named, f"units {sorted(changed - named)} changed and are not named: {written}"
        too_many = named - set(touched)
        assert not too_many or written.quality is Quality.SUPERSET, (
            f"units {sorted(too_many)} are named, nobody wrote to them, and the answer calls itself {written.quality}"
        )
        assert written.quality is Quality.EXACT or written.reason, "an answer that is not exact gives a reason"
        if not keep:
            self._before = self._units()
