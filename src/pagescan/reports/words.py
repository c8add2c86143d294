"""How the reports write names, tables, rates and small curves as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..units import format_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..analysis.series import Span

_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.-=+*#@"
#: A curve of text is at least so wide, if the screen has the room at all.
_MIN_CURVE = 8


def safe(name: str) -> str:
    """A name from another process with all that could move a cursor, or cannot be shown, escaped."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)


def cut(text: str, width: int) -> str:
    """At most ``width`` characters; the beginning is left out, since the end of a path tells more."""
    return text if len(text) <= width else "~"[:width] + text[len(text) - max(0, width - 1) :]


def span_label(spans: tuple[Span, ...], index: int) -> str:
    """The name of a mapping of a series; index -1 is none."""
    return label(spans[index][0].name) if index >= 0 else "(not mapped)"


def label(name: str) -> str:
    """A mapping's name, or what it is without one."""
    return safe(name) or "(anonymous)"


def rate(bytes_per_second: float) -> str:
    """``"1.5 MiB/s"``."""
    return f"{format_size(round(bytes_per_second))}/s"


def percent(share: float) -> str:
    """``"12.3 %"``; a share that is not 0 is never shown as 0."""
    return "0 %" if share == 0 else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, left: Sequence[int] = (0,)) -> list[str]:
    """Lines of a table: the columns in ``left`` are aligned left, the others right. The last one gives way."""
    table = [head, *rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(head))]
    last = len(head) - 1
    room = max(4, width - sum(widths[:last]) - 2 * last)
    widths[last] = min(widths[last], room)

    def line(row: Sequence[str]) -> str:
        cells = [*row[:last], cut(row[last], room)]
        padded = (
            cell.ljust(size) if place in left else cell.rjust(size)
            for place, (cell, size) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()[:width]

    return [line(row) for row in table]


def curve(values: NDArray[np.int64] | NDArray[np.float64], width: int, *, blocks: bool = True) -> str:
    """The values as a row of bars, the largest of each stretch; 0 is a space. The highest bar is the maximum."""
    if not len(values) or width < 1:
        return ""
    starts = np.arange(min(width, len(values))) * len(values) // min(width, len(values))
    highest = np.maximum.reduceat(values, starts)
    top = highest.max()
    bars = _BARS if blocks else _ASCII_BARS
    if not top:
        return " " * len(highest)
    heights = np.ceil(highest / top * len(bars)).astype(int)
    return "".join(bars[height - 1] if height else " " for height in heights)


def curve_width(width: int, used: int) -> int:
    """Columns left for a curve on a line of which ``used`` are taken; 0 if it would be too small to read."""
    return width - used if width - used >= _MIN_CURVE else 0
