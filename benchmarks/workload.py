"""What both sides are asked to find: pages chosen at random, and the check that they found exactly these."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from native import PAGE

SHARES = (0.0, 0.01, 0.1, 1.0)


def random_pages(pages: int, share: float) -> NDArray[np.uint32]:
    """So many page indexes in ascending order, without repetition, the same in every run."""
    count = round(pages * share)
    chosen = np.random.default_rng(pages + count).choice(pages, size=count, replace=False)
    return np.sort(chosen).astype(np.uint32)


def page_indexes(records: NDArray[np.void], start: int) -> NDArray[np.int64]:
    """The pages that regions hold, as indexes from ``start``."""
    first = ((records["start"] - np.uint64(start)) // np.uint64(PAGE)).astype(np.int64)
    lengths = ((records["end"] - records["start"]) // np.uint64(PAGE)).astype(np.int64)
    offsets = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(first, lengths) + offsets


def require_same(found: NDArray[np.int64], expected: NDArray[np.uint32], who: str) -> None:
    """A measurement of a wrong answer is worth nothing."""
    if not np.array_equal(found, expected):
        raise AssertionError(f"{who} found {len(found)} pages, not the {len(expected)} that were written")


def percent(share: float) -> str:
    return f"{share * 100:g} %"
