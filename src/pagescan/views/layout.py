"""The lines of the live view as pieces of text with the names of their styles: pure functions, no terminal.

What there is no room for is left out, the least important first. The names of the styles are those of
:data:`.widgets.STYLES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..reports.words import cut, safe
from ..units import format_count, format_duration, format_range, format_size
from .choice import Choice, Column, label
from .heat import LEVELS, cells, levels
from .words import brief, percent

if TYPE_CHECKING:
    from ..abi import Mapping
    from .choice import Line
    from .state import State, Totals

#: A piece of a line: its text, and the name of its style.
Piece = tuple[str, str]

BLOCKS = " ▁▂▃▄▅▆▇█"
#: Where the terminal's encoding has no block characters.
ASCII = " .:-=+*#@"
#: Shown below the table, the most important first.
_KEYS = (
    ("q", "quit"),
    ("space", "pause"),
    ("s < >", "sort"),
    ("/", "filter"),
    ("h", "help"),
    ("t", "time"),
    ("i", "idle"),
)
_SIZE, _NOW, _MINUTE, _ADDRESS = 5, 6, 8, 12


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the header says of the watching itself.

    Attributes:
        pid, command: the process.
        interval_ns: between looks, as asked for.
        paced_ns: the interval kept; longer, where looking would cost too much.
        duration_ns: how long the last look took.
        cpu: the share of one core that this program took of late; None before it is known.
        pause_ns: how long the process was held still, altogether.
        recorded: looks written to the recording; None without one.
        paused: the reader stopped the looking.
        ended: how the process ended, or "".
        remark: what the last look said of itself, or "".
    """

    pid: int
    command: str
    interval_ns: int
    paced_ns: int = 0
    duration_ns: int = 0
    cpu: float | None = None
    pause_ns: int = 0
    recorded: int | None = None
    paused: bool = False
    ended: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Widths:
    """Characters of each column of the table; 0: left out."""

    name: int
    size: int
    now: int
    minute: int
    address: int
    strip: int

    @property
    def total(self) -> int:
        """Of the whole line."""
        columns = (self.name, self.size, self.now, self.minute, self.address, self.strip)
        return 1 + sum(column + 1 for column in columns if column)

    @classmethod
    def of(cls, width: int) -> Widths:
        """The columns for a screen so wide: two characters are the mark, and one lies between columns."""
        minute = _MINUTE if width >= 30 else 0
        size = _SIZE if width >= 40 else 0
        address = _ADDRESS if width >= 110 else 0
        room = width - 2 - sum(column + 1 for column in (size, _NOW, minute, address) if column)
        if width < 54:
            return cls(max(1, room), size, _NOW, minute, address, 0)
        name = min(40, room * 3 // 7)
        return cls(name, size, _NOW, minute, address, room - name - 1)


# --- the header ------------------------------------------------------------------------------------------------------


def header(vitals: Vitals, totals: Totals, width: int, height: int) -> list[list[Piece]]:
    """The header in one line or three."""
    tag = _tag(vitals)
    if height == 1:
        short: list[Piece] = [tag, (f"{brief(totals.now)}/s ", "bold"), (f"{vitals.pid} ", ""), _command(vitals)]
        return [fitted(short, width)]
    first: list[Piece] = [tag, (f"process {vitals.pid}  ", "bold"), *_recorded(vitals), _command(vitals)]
    return [fitted(line, width) for line in (first, _amounts(totals), _costs(vitals))]


def _tag(vitals: Vitals) -> Piece:
    if vitals.ended:
        return f" ENDED: {vitals.ended} ", "alert"
    return (" PAUSED ", "alert") if vitals.paused else ("", "")


def _recorded(vitals: Vitals) -> list[Piece]:
    if vitals.recorded is None:
        return []
    return [(f" REC {vitals.recorded:,} ", "alert"), ("  ", "")]


def _command(vitals: Vitals) -> Piece:
    return safe(vitals.command), ""


def _amounts(totals: Totals) -> list[Piece]:
    line: list[Piece] = [
        (f"{format_size(round(totals.now))}/s", "bold"),
        (" now   ", "dim"),
        (f"{format_size(round(totals.minute))}/s", "bold"),
        (" last minute   ", "dim"),
        (f"{format_count(totals.mappings, 'mapping')}, {format_size(totals.size)}", ""),
    ]
    for count, word, style in ((totals.new, "new", "new"), (totals.gone, "gone", "dim")):
        if count:
            line.append((f"   {count} {word}", style))
    if totals.untracked:
        line.append((f"   {totals.untracked} not tracked", "warn"))
    return line


def _costs(vitals: Vitals) -> list[Piece]:
    line: list[Piece] = [("every ", "dim"), (format_duration(vitals.interval_ns), "")]
    if vitals.paced_ns > vitals.interval_ns * 1.1:
        line.append((f" (slowed to {format_duration(vitals.paced_ns)})", "warn"))
    line += [("   look ", "dim"), (format_duration(vitals.duration_ns), "")]
    if vitals.cpu is not None:
        line += [("   own CPU ", "dim"), (percent(vitals.cpu), "")]
    line += [("   target held ", "dim"), (format_duration(vitals.pause_ns), "")]
    if vitals.remark:
        line.append((f"   {vitals.remark}", "warn"))
    return line


# --- the table -------------------------------------------------------------------------------------------------------


def heading(choice: Choice, widths: Widths, over_time: bool) -> list[Piece]:
    """The names of the columns; the one that is sorted by has an arrow."""
    names = (
        (Column.NAME, "MAPPING", widths.name, False),
        (Column.SIZE, "SIZE", widths.size, True),
        (Column.NOW, "NOW/s", widths.now, True),
        (Column.MINUTE, "1 MIN/s", widths.minute, True),
        (Column.ADDRESS, "ADDRESS", widths.address, True),
    )
    line: list[Piece] = [("  ", "heading")]
    for column, name, width, right in names:
        if width:
            sorted_by = column is choice.column
            text = (name + ("▼" if choice.descending else "▲") * sorted_by)[:width]
            line.append((text.rjust(width) if right else text.ljust(width), "sorted" if sorted_by else "heading"))
            line.append((" ", "heading"))
    strip = "HEAT OVER TIME, now at the right" if over_time else "HEAT BY ADDRESS"
    return fitted([*line, (strip[: widths.strip].ljust(widths.strip), "heading")], widths.total)


def table_line(
    state: State, line: Line, widths: Widths, *, over_time: bool = False, alphabet: str = BLOCKS
) -> list[Piece]:
    """One mapping."""
    row, mapping = line.row, line.row.mapping
    mark, style = _mark(state, line)
    rates = ("-", "-") if row.untracked else (brief(line.now), brief(line.minute))
    name = cut(_name(mapping, widths), widths.name)
    pieces: list[Piece] = [(mark + " ", style), (name.ljust(widths.name) + " ", style)]
    for text, width in ((brief(mapping.size), widths.size), *zip(rates, (widths.now, widths.minute), strict=True)):
        if width:
            pieces.append((text.rjust(width) + " ", style or ("dim" if text == "0" else "")))
    if widths.address:
        pieces.append((f"{mapping.start:x}"[:_ADDRESS].rjust(widths.address) + " ", "dim"))
    if widths.strip:
        pieces += _strip(state, line, widths.strip, over_time, alphabet)
    return fitted(pieces, widths.total)


def _name(mapping: Mapping, widths: Widths) -> str:
    """The file's name without its folder; memory without a name is told by its address, if no column has that."""
    if mapping.name or widths.address:
        return label(mapping.name).rpartition("/")[2]
    return f"anon {mapping.start:x}"


def _mark(state: State, line: Line) -> Piece:
    """The sign before a mapping, and the style of its line."""
    if not line.row.lives:
        return "-", "gone"
    if line.row.untracked:
        return "!", "warn"
    return ("+", "new") if state.is_new(line.row) else (" ", "")


def _strip(state: State, line: Line, width: int, over_time: bool, alphabet: str) -> list[Piece]:
    shares = state.shares(line.row, width) if over_time else cells(line.row.heat, width)
    steps = [0] * (width - len(shares)) + levels(shares)
    pieces: list[Piece] = []
    for step in steps:
        style = f"heat{step}" if step else ""
        if pieces and pieces[-1][1] == style:
            pieces[-1] = pieces[-1][0] + alphabet[step], style
        else:
            pieces.append((alphabet[step], style))
    return pieces


# --- below the table -------------------------------------------------------------------------------------------------


def detail(state: State, line: Line, width: int) -> list[Piece]:
    """All there is to say of one mapping."""
    row, mapping = line.row, line.row.mapping
    place = f"{format_range(mapping.start, mapping.end)} {mapping.perms} {format_size(mapping.size)}  "
    if row.vanished_ns is not None:
        news = f"gone since {format_duration(state.time_ns - row.vanished_ns)}"
    elif row.untracked:
        news = f"not tracked: {row.untracked}"
    else:
        last = row.finds[-1].written if row.finds and row.finds[-1].time_ns == state.time_ns else 0
        age = "" if row.appeared_ns is None else f", {format_duration(state.time_ns - row.appeared_ns)} old"
        news = f"{format_size(last)} in the last look{age}"
    name = cut(label(mapping.name), max(8, width - len(place) - len(news) - 2))
    return fitted([(place, "dim"), (news + "  ", "warn" if row.untracked else ""), (name, "bold")], width)


def legend(width: int, alphabet: str = BLOCKS, *, over_time: bool = False) -> list[Piece]:
    """What the levels of the heat mean."""
    line: list[Piece] = [("written: ", "dim")]
    for step in range(1, LEVELS + 1):
        bound = "any " if step == 1 else f">1/{2 ** (LEVELS + 1 - step)} "
        line += [(alphabet[step], f"heat{step}"), (bound, "dim")]
    fading = "" if over_time else "  fades a step each 5 s"
    return fitted([*line, (fading, "dim")], width)


def keys(choice: Choice, width: int) -> list[Piece]:
    """The most important keys, and what is filtered by."""
    line: list[Piece] = []
    if choice.words:
        line.append((f"only {' '.join(choice.words)} ", "alert"))
    if choice.busy:
        line.append(("only busy ", "alert"))
    for key, word in _KEYS:
        line += [(f" {key} ", "bold"), (f"{word} ", "dim")]
    return fitted(line, width)


def prompt(words: str, width: int) -> list[Piece]:
    """A filter while it is typed."""
    shown = cut(safe(words), max(1, width - 2))
    return fitted([("/", "bold"), (shown, ""), (" ", "alert"), ("  Enter keeps it, Esc takes it back", "dim")], width)


def fitted(line: list[Piece], width: int) -> list[Piece]:
    """The line cut to the width."""
    kept: list[Piece] = []
    for text, style in line:
        if width <= 0:
            break
        if text:
            kept.append((text[:width], style))
        width -= len(text)
    return kept
