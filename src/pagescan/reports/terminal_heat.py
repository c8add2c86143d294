"""The heat map in characters: a row a line, denser blocks for more; also without colour, and in plain ASCII."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..analysis import heat
from ..units import SECOND, format_count, format_duration, format_size
from .words import cut, span_label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ..analysis import Heat, Series
    from .base import Screen, Wishes

#: From these shares of a cell's pages on, as a mean over its samples, the next level is drawn. Below the first:
#: nothing was written, or less than that.
THRESHOLDS = (0.01, 0.1, 0.5, 0.9)
_BLOCKS, _ASCII = " ·░▒▓█", " .:+#@"
#: Of the 256 colours of a terminal, one a level: told apart on a light and on a dark ground.
_COLOURS = (0, 67, 37, 178, 208, 196)
_ADDRESS = 12
_MIN_CELLS, _MAX_CELLS, _MAX_NAME = 16, 160, 40
#: Lines that are no row: the title, the times, the legend.
_OTHER_LINES = 6
_TICK_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How many characters the cells and the names have."""

    cells: int
    name: int

    @classmethod
    def of(cls, screen: Screen, longest: int) -> _Layout:
        # An address, a border, the cells, a border, a blank, the name.
        room = screen.width - _ADDRESS - 3
        name = max(0, min(longest, _MAX_NAME, room - _MIN_CELLS - 1, max(8, room // 4)))
        return cls(max(1, min(_MAX_CELLS, room - (name + 1 if name else 0))), name)


def draw(series: Series, screen: Screen, wishes: Wishes) -> list[str]:
    """The heat map as lines, with its axes and a legend."""
    if not len(series):
        return ["no sample yet: there is nothing to draw"]
    if not len(series.low):
        return [f"nothing was written to in {format_duration(series.duration_ns)}"]
    longest = max((len(span_label(series.spans, i)) for i in range(len(series.spans))), default=8)
    layout = _Layout.of(screen, longest)
    # Gaps take lines too, so rows get two thirds.
    rows = wishes.rows or max(8, (screen.height - _OTHER_LINES) * 2 // 3)
    found = heat(series, rows=rows, columns=min(wishes.columns or layout.cells, layout.cells))
    lines = [*_body(found, series, layout, screen), *_times(found, screen.width), *_legend(found, screen)]
    return [f"{'ADDRESS':<{_ADDRESS}}  {'TIME':<{len(found.columns)}} MAPPING"[: screen.width], *lines]


def levels(share: NDArray[np.float64]) -> NDArray[np.int64]:
    """0 where nothing was written, then 1 to 5."""
    found: NDArray[np.int64] = np.digitize(share, THRESHOLDS) + (share > 0)
    return found


def _body(found: Heat, series: Series, layout: _Layout, screen: Screen) -> Iterator[str]:
    border, gap = ("│", "┆") if screen.blocks else ("|", ":")
    rows, before = found.rows, ""
    for index, level in enumerate(levels(found.share)):
        if rows.gap_before[index]:
            left_out = int(rows.low[index] - rows.high[index - 1]) * rows.page_size
            text = f"{gap:>{_ADDRESS + 2}} {format_size(left_out)} left out"
            yield _dim(text[: screen.width], screen)
        label = span_label(series.spans, int(rows.spans[index]))
        shown = cut(label, layout.name) if label != before or rows.gap_before[index] else ""
        before = label
        cells = f"{border}{_cells(level, screen)}{border}"
        yield f"{int(rows.starts[index]):0{_ADDRESS}x} {cells} {shown}".rstrip()


def _cells(level: NDArray[np.int64], screen: Screen) -> str:
    """One line of cells; each run of one level is coloured at once."""
    marks = _BLOCKS if screen.blocks else _ASCII
    if not screen.colour:
        return "".join(marks[value] for value in level)
    turns = [0, *(np.flatnonzero(np.diff(level)) + 1).tolist(), len(level)]
    return "".join(_coloured(marks[level[a]] * (b - a), int(level[a])) for a, b in pairwise(turns))


def _coloured(text: str, level: int) -> str:
    return f"\x1b[38;5;{_COLOURS[level]}m{text}\x1b[0m" if level else text


def _dim(text: str, screen: Screen) -> str:
    return f"\x1b[2m{text}\x1b[0m" if screen.colour else text


def _times(found: Heat, width: int) -> list[str]:
    """The axis of time, under the cells: a mark, and the time at which its column begins."""
    edges = (found.columns.edges - found.columns.edges[0]).tolist()
    columns, indent = len(found.columns), _ADDRESS + 2
    line, free = [" "] * width, 0
    for at in tick_times(edges[-1], max(1, columns // 12)):
        place = int(np.searchsorted(found.columns.edges - found.columns.edges[0], at, "right")) - 1
        text = f"'{format_duration(at)}" if at else "'0"
        begin = indent + min(place, columns)
        if begin >= free and begin + len(text) <= width:
            line[begin : begin + len(text)] = text
            free = begin + len(text) + 1
    return ["".join(line).rstrip()]


def tick_times(duration_ns: int, most: int) -> list[int]:
    """Round times from 0 to the duration, about so many: 1, 2 or 5 times a power of ten; above a minute, of minutes."""
    steps = [m * 10**p for p in range(9) for m in (1, 2, 5)] + [seconds * SECOND for seconds in _TICK_SECONDS]
    step = next((step for step in steps if step * most >= duration_ns), -(-duration_ns // most))
    return list(range(0, duration_ns + 1, step))


def _legend(found: Heat, screen: Screen) -> Iterator[str]:
    row = format_size(int(found.rows.pages.max(initial=0)) * found.rows.page_size)
    column = format_duration(int(np.diff(found.columns.edges).max(initial=0)))
    samples = format_count(int(np.diff(found.columns.samples).max(initial=1)), "sample")
    yield f"a line: up to {row}; a column: {column} ({samples})"[: screen.width]
    marks = (_BLOCKS if screen.blocks else _ASCII)[1:]
    names = ["< 1 %", *(f"{100 * share:.0f} %" for share in THRESHOLDS)]
    plain = "  ".join(f"{mark} {name}" for mark, name in zip(marks, names, strict=True))
    keys = plain
    if screen.colour:
        shown = zip(marks, names, range(1, len(marks) + 1), strict=True)
        keys = "  ".join(f"{_coloured(mark, level)} {name}" for mark, name, level in shown)
    text = "share of the pages written in a sample:"
    yield from [f"{text} {keys}"] if len(text) + 1 + len(plain) <= screen.width else [text[: screen.width], keys]
