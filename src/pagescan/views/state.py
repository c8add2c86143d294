"""What the live view knows of a process: values in, values out.

A :class:`State` is made from the mappings at the start, and each :class:`Look` makes the next one of it. No descriptor,
clock or terminal is in here. Times are nanoseconds on the monotonic clock, sizes bytes, ranges half-open.

What "written" counts: a page that was written to between two looks counts once, in full, however often it was written
to. So a rate is that of pages that become dirty, which is what copying the changes would cost; it is not the rate of
the program's store instructions.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from ..errors import InvalidArgument
from ..units import MINUTE, SECOND
from .heat import COLD, faded, heated, rebinned, written_below, written_shares

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Mapping as Dictionary

    from numpy.typing import NDArray

    from ..abi import Mapping
    from ..ranges import Regions

#: "The last minute" of a rate.
WINDOW_NS = MINUTE
#: For so long a mapping is marked as new, and one that vanished stays on the screen.
MARKED_NS = 10 * SECOND


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at one moment.

    Attributes:
        time_ns: when.
        regions: the pages written to since the look before.
        mappings: what was mapped then, by address; those that cannot be written to do not matter.
        untracked: why a mapping is not tracked, by its (start, end).
    """

    time_ns: int
    regions: Regions
    mappings: Sequence[Mapping]
    untracked: Dictionary[tuple[int, int], str] = field(default_factory=dict)


class Find(NamedTuple):
    """What one look found of one mapping."""

    time_ns: int
    written: int  #: bytes of the pages that were written to


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One mapping, followed while it grows, shrinks and vanishes.

    Attributes:
        number: names the row for good.
        mapping: as it is now, or was last.
        appeared_ns: when it was first seen; None if it was there at the start.
        vanished_ns: when it was first missed; None while it lasts.
        finds: the looks of the last minute that found something, oldest first.
        heat: float64, one a bin of equal length over the mapping's addresses: see :mod:`.heat`.
        untracked: why it is not tracked, or "".
    """

    number: int
    mapping: Mapping
    appeared_ns: int | None = None
    vanished_ns: int | None = None
    finds: tuple[Find, ...] = ()
    heat: NDArray[np.float64] = field(default_factory=lambda: COLD, repr=False)
    untracked: str = ""

    @property
    def lives(self) -> bool:
        return self.vanished_ns is None


class Totals(NamedTuple):
    """All mappings together.

    Attributes:
        now, minute: bytes per second in the last interval, and over the last minute.
        mappings: how many there are, and can be written to.
        size: their bytes.
        new, gone: how many appeared, and vanished, in the last ten seconds.
        untracked: how many of the mappings are not tracked.
    """

    now: float
    minute: float
    mappings: int
    size: int
    new: int
    gone: int
    untracked: int


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What is known after some looks.

    Attributes:
        edges: the moments of the last minute's looks, and before them the one from which on the first of them tells.
        rows: the mappings that can be written to, in the order of their appearance, and those that vanished of late.
        finds: what the last minute's looks found in all mappings together.
        looks: how many there were.
        next_number: of the next row.
    """

    edges: tuple[int, ...]
    rows: tuple[Row, ...]
    finds: tuple[Find, ...] = ()
    looks: int = 0
    next_number: int = 0

    @classmethod
    def start(cls, time_ns: int, mappings: Iterable[Mapping]) -> Self:
        """The mappings when the tracking began; nothing is written yet."""
        rows = tuple(Row(number, mapping) for number, mapping in enumerate(m for m in mappings if m.writable))
        return cls((time_ns,), rows, next_number=len(rows))

    @property
    def time_ns(self) -> int:
        """The moment of the last look, or of the start."""
        return self.edges[-1]

    def after(self, look: Look) -> State:
        """The state after one look more. Raises InvalidArgument if its time lies before the last one's."""
        if look.time_ns < self.time_ns:
            raise InvalidArgument(f"a look at {look.time_ns} after one at {self.time_ns}")
        since = look.time_ns - WINDOW_NS
        rows, count = self._followed(look)
        found = Find(look.time_ns, look.regions.byte_count)
        return State(
            (*self.edges[max(0, bisect.bisect_right(self.edges, since) - 1) :], look.time_ns),
            tuple(_written(rows, look, look.time_ns - self.time_ns)),
            _appended(self.finds, found, since),
            self.looks + 1,
            count,
        )

    def _followed(self, look: Look) -> tuple[list[Row], int]:
        """The rows with the mappings of the look, those that vanished of late among them; and the next row's number."""
        heirs, new = _heirs([row for row in self.rows if row.lives], [m for m in look.mappings if m.writable])
        rows = []
        for row in self.rows:
            mapping = heirs.get(row.number)
            if mapping is not None:
                rows.append(_moved(row, mapping))
            elif row.lives:
                rows.append(replace(row, vanished_ns=look.time_ns))
            elif look.time_ns - (row.vanished_ns or 0) < MARKED_NS:
                rows.append(row)
        rows += [Row(number, m, appeared_ns=look.time_ns) for number, m in enumerate(new, self.next_number)]
        return rows, self.next_number + len(new)

    # Rates

    @property
    def interval_seconds(self) -> float:
        """How long the last look's interval was; 0 before the first look."""
        return (self.edges[-1] - self.edges[-2]) / SECOND if len(self.edges) > 1 else 0.0

    @property
    def window_seconds(self) -> float:
        """How much of the last minute is known: its intervals from the first to the last, together."""
        return (self.edges[-1] - self.edges[0]) / SECOND

    def now(self, finds: Sequence[Find]) -> float:
        """Bytes per second in the last interval."""
        last = finds[-1].written if finds and finds[-1].time_ns == self.time_ns else 0
        return last / self.interval_seconds if self.interval_seconds else 0.0

    def minute(self, finds: Sequence[Find]) -> float:
        """Bytes per second over the last minute, or what of it is known."""
        written = sum(find.written for find in finds if find.time_ns > self.edges[0])
        return written / self.window_seconds if self.window_seconds else 0.0

    def totals(self) -> Totals:
        """All mappings together, with what was written in mappings that nobody has seen."""
        living = [row for row in self.rows if row.lives]
        return Totals(
            self.now(self.finds),
            self.minute(self.finds),
            len(living),
            sum(row.mapping.size for row in living),
            sum(self.is_new(row) for row in living),
            len(self.rows) - len(living),
            sum(bool(row.untracked) for row in living),
        )

    def is_new(self, row: Row) -> bool:
        """Whether the mapping appeared in the last ten seconds."""
        return row.appeared_ns is not None and self.time_ns - row.appeared_ns < MARKED_NS

    def shares(self, row: Row, columns: int) -> list[float]:
        """From 0 to 1: the written share of the mapping in each of the last ``columns`` intervals, oldest first.

        Fewer, if there were fewer in the last minute.
        """
        written = {find.time_ns: find.written for find in row.finds}
        times = self.edges[1:][-columns:]
        return [min(1.0, written.get(time, 0) / row.mapping.size) for time in times]


# --- following mappings ----------------------------------------------------------------------------------------------


def _heirs(rows: Sequence[Row], mappings: Sequence[Mapping]) -> tuple[dict[int, Mapping], list[Mapping]]:
    """Which mapping each row has now, by the row's number; and the mappings of no row.

    A mapping is the same if its range and name are; else if it has the name, and the most bytes in common.
    """
    places = {(row.mapping.start, row.mapping.end, row.mapping.name): row for row in rows}
    heirs: dict[int, Mapping] = {}
    others: list[Mapping] = []
    for mapping in mappings:
        row = places.pop((mapping.start, mapping.end, mapping.name), None)
        if row is None:
            others.append(mapping)
        else:
            heirs[row.number] = mapping
    left = list(places.values())
    new = []
    for mapping in others:
        best = max(left, key=lambda row: _common(row.mapping, mapping), default=None)
        if best is not None and _common(best.mapping, mapping) > 0:
            left.remove(best)
            heirs[best.number] = mapping
        else:
            new.append(mapping)
    return heirs, new


def _common(old: Mapping, new: Mapping) -> int:
    return min(old.end, new.end) - max(old.start, new.start) if old.name == new.name else 0


def _moved(row: Row, mapping: Mapping) -> Row:
    """The row with its mapping as it is now."""
    if mapping == row.mapping:
        return row
    old = row.mapping
    heat = row.heat if row.heat is COLD else rebinned(row.heat, (old.start, old.end), (mapping.start, mapping.end))
    return replace(row, mapping=mapping, heat=heat)


# --- counting --------------------------------------------------------------------------------------------------------


def _written(rows: list[Row], look: Look, passed_ns: int) -> Iterable[Row]:
    """The rows with what the look found. Rows without news are handed on as they are."""
    starts = np.array([row.mapping.start for row in rows], np.float64)
    ends = np.array([row.mapping.end for row in rows], np.float64)
    counts = written_below(look.regions, ends) - written_below(look.regions, starts)
    since = look.time_ns - WINDOW_NS
    for row, count in zip(rows, counts.astype(np.int64).tolist(), strict=True):
        # What vanished may have left its address to another.
        written = count if row.lives else 0
        heat = faded(row.heat, passed_ns)
        if written:
            heat = heated(heat, written_shares(look.regions, row.mapping.start, row.mapping.end))
        finds = _appended(row.finds, Find(look.time_ns, written), since)
        untracked = look.untracked.get((row.mapping.start, row.mapping.end), "") if row.lives else row.untracked
        if heat is row.heat and finds is row.finds and untracked == row.untracked:
            yield row
        else:
            yield replace(row, heat=heat, finds=finds, untracked=untracked)


def _appended(finds: tuple[Find, ...], find: Find, since_ns: int) -> tuple[Find, ...]:
    """With one find more, if it is one, and without those that are not later than ``since_ns``."""
    first = 0
    while first < len(finds) and finds[first].time_ns <= since_ns:
        first += 1
    if not first and not find.written:
        return finds
    return (*finds[first:], find) if find.written else finds[first:]
