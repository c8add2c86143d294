"""The widgets of the live view: lines of pieces, and a table that scrolls. What they show is made by :mod:`.layout`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from .layout import BLOCKS, Widths, fitted, table_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .choice import Line
    from .layout import Piece
    from .state import State

#: The terminal's own colours, so that they suit its background; heights and marks say the same without any colour.
STYLES = {
    "": Style(),
    "dim": Style(dim=True),
    "bold": Style(bold=True),
    "alert": Style(reverse=True, bold=True),
    "warn": Style(color="yellow"),
    "new": Style(color="green"),
    "gone": Style(dim=True, strike=True),
    "heading": Style(bold=True, underline=True),
    "sorted": Style(bold=True, reverse=True),
    **{f"heat{step}": Style(color="blue") for step in (1, 2)},
    **{f"heat{step}": Style(color="cyan") for step in (3, 4)},
    **{f"heat{step}": Style(color="magenta") for step in (5, 6)},
    **{f"heat{step}": Style(color="red") for step in (7, 8)},
}
_CURSOR = Style(reverse=True)


def as_text(lines: Sequence[Sequence[Piece]]) -> Text:
    """Lines of pieces as one value of rich."""
    return Text("\n").join(Text.assemble(*((text, STYLES[style]) for text, style in line)) for line in lines)


class Lines(Widget):
    """Some lines of text."""

    def __init__(self, *, id: str):
        super().__init__(id=id)
        self._text = Text()

    def show(self, lines: Sequence[Sequence[Piece]]) -> None:
        """Show these lines instead."""
        text = as_text(lines)
        if text != self._text or text.spans != self._text.spans:
            self._text = text
            self.refresh()

    def render(self) -> Text:
        return self._text


class Table(ScrollView, can_focus=True):
    """The mappings, a line each. A line is chosen once an arrow key was pressed, and stays chosen wherever it goes."""

    class Chosen(Message):
        """Another line was chosen."""

    class Resized(Message):
        """The table has another size now."""

    BINDINGS: ClassVar[list[Any]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "move_page(-1)", show=False),
        Binding("pagedown", "move_page(1)", show=False),
        Binding("home,g", "move(-1000000)", show=False),
        Binding("end,G", "move(1000000)", show=False),
    ]

    def __init__(self, *, alphabet: str = BLOCKS, id: str):
        super().__init__(id=id)
        self.alphabet = alphabet
        self.over_time = False
        self.lines: list[Line] = []
        self.chosen: int | None = None
        self._state: State | None = None
        self._strips: dict[int, tuple[tuple[object, ...], Strip]] = {}  # as last drawn, by the row's number

    def show(self, state: State, lines: list[Line]) -> None:
        """Show these lines of this state."""
        self._state, self.lines = state, lines
        if len(self._strips) > 2 * len(state.rows):
            self._strips.clear()  # of mappings that are gone for long
        self.virtual_size = Size(self.size.width, len(lines))
        self._follow()
        self.refresh()

    def on_resize(self) -> None:
        self.post_message(self.Resized())

    @property
    def line(self) -> Line | None:
        """The chosen line, if it is among those that are shown."""
        at = self._place()
        return None if at is None else self.lines[at]

    def _place(self) -> int | None:
        numbers = (at for at, line in enumerate(self.lines) if line.row.number == self.chosen)
        return None if self.chosen is None else next(numbers, None)

    def _follow(self) -> None:
        """Scroll so that the chosen line is seen."""
        at = self._place()
        height = self.scrollable_content_region.height
        if at is not None and height and not self.scroll_offset.y <= at < self.scroll_offset.y + height:
            self.scroll_to(y=at if at < self.scroll_offset.y else at - height + 1, animate=False)

    def action_move(self, step: int) -> None:
        """Choose the line so many places on; the first seen if none is."""
        if not self.lines:
            return
        at = self._place()
        first = self.scroll_offset.y if abs(step) == 1 else max(0, step)
        target = first if at is None else at + step
        self.chosen = self.lines[min(max(0, target), len(self.lines) - 1)].row.number
        self._follow()
        self.refresh()
        self.post_message(self.Chosen())

    def action_move_page(self, pages: int) -> None:
        """Choose the line a screenful on."""
        self.action_move(pages * max(2, self.scrollable_content_region.height - 1))

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        at = y + self.scroll_offset.y
        if self._state is None or at >= len(self.lines):
            return Strip.blank(width)
        line = self.lines[at]
        chosen = line.row.number == self.chosen
        # Over time every line moves on with each look. Else an idle one stays as it is, and so does its row.
        key = (line, self._state.is_new(line.row), chosen, width, self._state.looks if self.over_time else -1)
        known = self._strips.get(line.row.number)
        if known is None or known[0] != key:
            known = self._strips[line.row.number] = key, self._draw(self._state, line, width, chosen)
        return known[1]

    def _draw(self, state: State, line: Line, width: int, chosen: bool) -> Strip:
        widths = Widths.of(width)
        pieces = table_line(state, line, widths, over_time=self.over_time, alphabet=self.alphabet)
        heat = width - widths.strip  # the cursor does not turn the heat round
        segments, at = [], 0
        for text, style in fitted(pieces, width):
            segments.append(Segment(text, STYLES[style] + _CURSOR if chosen and at < heat else STYLES[style]))
            at += len(text)
        return Strip(segments).adjust_cell_length(width)
