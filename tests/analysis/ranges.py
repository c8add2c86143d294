"""What the tests of analysis share."""

from __future__ import annotations

from pagescan.ranges import Regions

PAGE = 4096


def regions(*ranges: tuple[int, int]) -> Regions:
    """Regions from ranges of page numbers."""
    return Regions.from_pairs([(low * PAGE, high * PAGE) for low, high in ranges], page_size=PAGE)
