"""How fast each mapping is written to."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .axes import time_axis
from .heat import per_second

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..abi import Mapping
    from .axes import TimeAxis
    from .series import Series, Span

_LAST_PAGE = 1 << 62


@dataclass(frozen=True, slots=True)
class Group:
    """Mappings that one thinks of as one: all of a name, or anonymous ones that overlap as they grow and shrink.

    Attributes:
        label: the name, or ``"(anonymous)"``.
        start, end: addresses in bytes: the smallest and one past the largest.
        spans: indices into the series' ``spans``, in the order of appearance.
    """

    label: str
    start: int
    end: int
    spans: tuple[int, ...]


def group_mappings(spans: tuple[Span, ...]) -> tuple[Group, ...]:
    """The groups of a recording's mappings, by address.

    A heap that grows in every sample is one mapping to its reader and a hundred to the kernel.
    """
    members: dict[str, list[int]] = {}
    nameless = [index for index, (mapping, _, _) in enumerate(spans) if not mapping.name]
    for index, (mapping, _, _) in enumerate(spans):
        if mapping.name:
            members.setdefault(mapping.name, []).append(index)
    named = [_group(label, indices, spans) for label, indices in members.items()]
    clusters = [_group("(anonymous)", indices, spans) for indices in _overlapping(nameless, spans)]
    return tuple(sorted(named + clusters, key=lambda group: group.start))


def _group(label: str, indices: list[int], spans: tuple[Span, ...]) -> Group:
    mappings = [spans[index][0] for index in indices]
    return Group(label, min(m.start for m in mappings), max(m.end for m in mappings), tuple(sorted(indices)))


def _overlapping(indices: list[int], spans: tuple[Span, ...]) -> list[list[int]]:
    clusters: list[list[int]] = []
    reached = 0
    for index in sorted(indices, key=lambda i: spans[i][0].start):
        mapping: Mapping = spans[index][0]
        if not clusters or mapping.start >= reached:
            clusters.append([])
        clusters[-1].append(index)
        reached = max(reached, mapping.end)
    return clusters


@dataclass(frozen=True, eq=False, slots=True)
class Rates:
    """Written pages by mapping and time.

    Attributes:
        groups: the mappings, by address; also those never written to.
        pages: int64, shape (groups, columns): written pages, counted once for each sample that has them.
        unmapped: int64, one a column: written pages in no mapping that the samples know of.
        columns: what a column stands for.
        page_size: bytes of a page.
    """

    groups: tuple[Group, ...]
    pages: NDArray[np.int64]
    unmapped: NDArray[np.int64]
    columns: TimeAxis
    page_size: int

    @property
    def bytes_per_second(self) -> NDArray[np.float64]:
        """Bytes of written pages per second, shape (groups, columns); 0 where a column has no duration."""
        return per_second(self.pages * self.page_size, self.columns.seconds)


def write_rates(series: Series, *, columns: int | None = None) -> Rates:
    """How many pages of each mapping were written to, in at most ``columns`` columns (None: one for each sample).

    A region is counted to the mappings that its own sample has, and divided where it spans several.
    """
    across = time_axis(series, columns)
    groups = group_mappings(series.spans)
    table = _Table(series, groups)
    pages = np.zeros((len(groups) + 1, len(across)), np.int64)  # the last row: in no mapping
    bounds = np.union1d(_changes(series), across.samples)
    columns_of = np.searchsorted(across.samples, bounds, "right") - 1
    for column, (first, last) in zip(columns_of, itertools.pairwise(bounds), strict=False):
        edges, owners = table.pieces(first)
        part = slice(series.offsets[first], series.offsets[last])
        np.add.at(pages[:, column], owners, _covered(edges, series.low[part], series.high[part]))
    return Rates(groups, pages[:-1], pages[-1], across, series.page_size)


def _changes(series: Series) -> list[int]:
    """The samples at which the mappings change, the first, and one past the last."""
    count = len(series)
    changes = {0, count}
    for _, appeared, vanished in series.spans:
        changes |= {min(appeared, count), count if vanished is None else min(vanished, count)}
    return sorted(changes)


class _Table:
    """All mappings by address, as page numbers, so that those of a sample are found without a loop over them."""

    def __init__(self, series: Series, groups: tuple[Group, ...]):
        group_of = {index: place for place, group in enumerate(groups) for index in group.spans}
        size, count = series.page_size, len(series)
        order = sorted(group_of, key=lambda index: series.spans[index][0].start)
        # The last page there is cannot be recorded, so what is mapped beyond (vsyscall) may be cut off.
        rows = [
            (min(m.start // size, _LAST_PAGE), min(m.end // size, _LAST_PAGE), first, count if last is None else last)
            for m, first, last in (series.spans[index] for index in order)
        ]
        self._rows = np.array(rows, np.int64).reshape(-1, 4)
        self._owners = np.array([group_of[index] for index in order], np.int64)
        self._none = len(groups)

    def pieces(self, sample: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All page numbers cut at the ends of the sample's mappings: the edges, and of each piece the group, or one
        past the last group for none."""
        alive = (self._rows[:, 2] <= sample) & (sample < self._rows[:, 3])
        edges = self._rows[alive, :2].reshape(-1)
        owners = np.full(len(edges) + 1, self._none)
        owners[1::2] = self._owners[alive]
        return np.concatenate([[0], edges, [_LAST_PAGE + 1]]), owners


def _covered(edges: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many pages of each piece the regions cover.

    Of every region: what lies in the piece it begins in; and if it ends in a later one, the beginning of that, and all
    pieces between.
    """
    count = len(edges) - 1
    begin = np.searchsorted(edges, low, "right") - 1
    end = np.searchsorted(edges, high, "left") - 1
    # Floats, as bincount has it, but sums of pages that were written: exact below 2**53.
    partly = np.bincount(begin, np.minimum(high, edges[begin + 1]) - low, count)
    across = np.flatnonzero(end > begin)
    partly += np.bincount(end[across], (high - edges[end])[across], count)
    opened = np.bincount(begin[across] + 1, minlength=count + 1) - np.bincount(end[across], minlength=count + 1)
    covered: NDArray[np.int64] = partly.astype(np.int64) + np.cumsum(opened)[:-1] * np.diff(edges)
    return covered
