"""Which mappings the live view shows, and in which order: pure functions over a state."""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..reports.words import label as label_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .state import Row, State


#: Names are looked at letter by letter for what a terminal must not get; the same ones again and again.
label = functools.lru_cache(4096)(label_of)


class Column(enum.Enum):
    """What one can sort by, in the order of ``<`` and ``>``."""

    NAME = "name"
    SIZE = "size"
    NOW = "now"
    MINUTE = "minute"
    ADDRESS = "address"


class Line(NamedTuple):
    """One mapping, as it is shown.

    Attributes:
        row: the mapping.
        now, minute: bytes per second in the last interval, and over the last minute.
    """

    row: Row
    now: float
    minute: float


_KEYS: dict[Column, Callable[[Line], Any]] = {
    Column.NAME: lambda line: label(line.row.mapping.name).rpartition("/")[2].lower(),
    Column.SIZE: lambda line: line.row.mapping.size,
    Column.NOW: lambda line: (line.now, line.minute),
    Column.MINUTE: lambda line: (line.minute, line.now),
    Column.ADDRESS: lambda line: line.row.mapping.start,
}
#: Of amounts the largest comes first, of names and addresses the smallest.
_DESCENDING = {Column.SIZE, Column.NOW, Column.MINUTE}


@dataclass(frozen=True, slots=True)
class Choice:
    """What the reader chose.

    Attributes:
        column: what is sorted by.
        reverse: the other way round than usual.
        words: all of them have to be in the name, the addresses or the permissions; case does not matter.
        busy: only what was written to in the last minute.
    """

    column: Column = Column.NOW
    reverse: bool = False
    words: tuple[str, ...] = ()
    busy: bool = False

    @property
    def descending(self) -> bool:
        return (self.column in _DESCENDING) is not self.reverse

    def sorted_by_next(self, step: int) -> Choice:
        """Sorted by the column ``step`` places on, from the last one back to the first."""
        columns = list(Column)
        return replace(self, column=columns[(columns.index(self.column) + step) % len(columns)], reverse=False)

    def filtered(self, text: str) -> Choice:
        """With the words of this text."""
        return replace(self, words=tuple(text.lower().split()))


def choose(state: State, choice: Choice) -> list[Line]:
    """The lines to show. Equal ones are in the order of their addresses."""
    chosen = (row for row in state.rows if _has_words(row, choice.words))
    lines = [Line(row, state.now(row.finds), state.minute(row.finds)) for row in chosen]
    if choice.busy:
        lines = [line for line in lines if line.minute]
    lines.sort(key=_KEYS[Column.ADDRESS])
    lines.sort(key=_KEYS[choice.column], reverse=choice.descending)
    return lines


def _has_words(row: Row, words: tuple[str, ...]) -> bool:
    if not words:
        return True
    mapping = row.mapping
    text = f"{label(mapping.name)} {mapping.perms} {mapping.start:#x}-{mapping.end:#x}".lower()
    return all(word in text for word in words)
