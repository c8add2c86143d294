"""Strategies for hypothesis: regions, queries, and histories of what happens to tracked memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hypothesis import strategies as st

from ..query import Category, Query
from ..ranges import Regions

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

#: What can happen: somebody writes, reads, or gives back; a reader takes, peeks, asks whether anything changed, begins
#: or ends a transaction (that fails or not); another reader begins.
Happening = Literal["write", "read", "drop", "take", "peek", "changed", "fail", "cursor"]
_SHORT = 64


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a history.

    Attributes:
        what: what happens: "write", "read" and "drop" concern units ``[first, first + count)``; "take", "peek",
            "changed", "fail" (a transaction that fails) and "cursor" (a new reader) concern a reader.
        first, count: units.
        value: the byte that is written, 1 to 255.
        reader: which reader, modulo how many there are.
    """

    what: Happening
    first: int = 0
    count: int = 1
    value: int = 1
    reader: int = 0


@st.composite
def _steps(draw: st.DrawFn, units: int, happenings: tuple[Happening, ...]) -> Step:
    first = draw(st.integers(0, units - 1))
    return Step(
        what=draw(st.sampled_from(happenings)),
        first=first,
        count=draw(st.integers(1, min(3, units - first))),
        value=draw(st.integers(1, 255)),
        reader=draw(st.integers(0, 3)),
    )


def histories(units: int, *, droppable: bool = True, max_steps: int = 24) -> SearchStrategy[list[Step]]:
    """Histories of memory of so many units, with readers that come and go; see :class:`Step`."""
    happenings: tuple[Happening, ...] = ("write", "write", "read", "take", "peek", "changed", "fail", "cursor")
    return st.lists(_steps(units, (*happenings, "drop") if droppable else happenings), max_size=max_steps)


def regions(
    *, page_size: int = 4096, max_pages: int = 64, max_regions: int = 8, start: int = 0
) -> SearchStrategy[Regions]:
    """Regions of whole pages, of any categories, within ``max_pages`` pages from ``start`` on."""
    pages = st.integers(0, max_pages)
    categories = st.sets(st.sampled_from(list(Category)), max_size=2).map(lambda found: sum(map(int, found)))

    def to_regions(triples: list[tuple[int, int, int]]) -> Regions:
        pairs = (
            (start + min(a, b) * page_size, start + max(a, b) * page_size, categories) for a, b, categories in triples
        )
        return Regions.from_pairs(pairs, page_size=page_size)

    return st.lists(st.tuples(pages, pages, categories), max_size=max_regions).map(to_regions)


def queries() -> SearchStrategy[Query]:
    """Queries with any masks, also such that can never match."""
    mask = st.sets(st.sampled_from(list(Category)), max_size=3).map(lambda found: sum(map(int, found)))
    return st.builds(Query, required=mask, anyof=mask, excluded=mask, returned=mask)
