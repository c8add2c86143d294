"""When the packs of a series are merged, so that reading a version never takes too many of them, nor too much data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a chain of packs may get.

    A merge is part of a commit: the pages of the packs that are merged are written again, from memory.

    Attributes:
        packs: the most packs a version may need. One more, and the later ones are merged into one.
        overhead: pages in all packs of a version, for each page in use, at most 1 + this. Beyond it a new base is
            written: every page. So over time no more than 1 + 1/overhead times the written pages are written.
        spare: pages that ``overhead`` does not count, so that small series do not write a new base all the time.
    """

    packs: int = 64
    overhead: float = 1.0
    spare: int = 1024


def to_merge(budget: Budget, packs: Sequence[int], live: int, due: int) -> int:
    """How many of the packs, from the newest back, are to be merged into the next one.

    Args:
        packs: pages that each tells of, oldest first.
        live: pages in use, those of zeros not counted.
        due: pages that may be written now.
    """
    if sum(packs) + due > (1 + budget.overhead) * max(live, due) + budget.spare:
        return len(packs)
    if len(packs) < budget.packs:
        return 0
    # Half of them, and then all that are no larger than what is merged already: so a page is rewritten seldom.
    merged = len(packs) - len(packs) // 2
    while merged < len(packs) and packs[-merged - 1] <= sum(packs[-merged:]):
        merged += 1
    return merged
