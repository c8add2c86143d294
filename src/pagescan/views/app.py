"""``pagescan top``: the live view, a Textual app over a :class:`~pagescan.views.source.Source`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App
from textual.binding import Binding
from textual.screen import ModalScreen
from textual.widgets import Static

from ..errors import PagescanError
from ..units import SECOND
from .choice import Choice, choose
from .help import HELP
from .layout import BLOCKS, Vitals, Widths, detail, header, heading, keys, legend, prompt
from .pace import paced
from .source import Ended, Seen
from .state import State
from .widgets import Lines, Table

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.events import Key, Paste, Resize

    from .source import Source

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The mean CPU time of so many intervals says how often to look.
_STEADY = 4
#: The fewest lines of a screen that has each of these, too.
_FOR_HEADING, _FOR_KEYS, _FOR_DETAIL, _FOR_HEADER = 3, 8, 10, 12


class HelpScreen(ModalScreen[None]):
    """The keys. Arrows scroll, any other key goes back."""

    _STEPS: ClassVar[dict[str, int]] = {"up": -1, "down": 1, "pageup": -4, "pagedown": 4, "home": -99, "end": 99}

    def compose(self) -> ComposeResult:
        yield Static(HELP.rstrip(), markup=False)

    def on_key(self, event: Key) -> None:
        event.stop()
        step = self._STEPS.get(event.key)
        if step is None:
            self.dismiss()
        else:
            self.scroll_relative(y=step, animate=False)


class TopApp(App[bool]):
    """The live view. :meth:`run` returns whether it was interrupted, rather than quit.

    Attributes:
        state: what is known now.
        choice: what is shown of it.
        vitals: what the header says of the watching itself.
        typing: whether a filter is being typed.
        words: the filter, as it was typed.
        failure: the error that ended the view, or None.

    Args:
        source: what to look at.
        interval_ns: the time between looks.
        alphabet: nine characters for the levels of heat.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: ansi_default; color: ansi_default; overflow: hidden; }
    #header, #heading, #detail, #keys { width: 1fr; height: 1; }
    #header.tall { height: 3; }
    #table { height: 1fr; scrollbar-size: 1 1; scrollbar-gutter: stable; overflow-x: hidden; background: ansi_default; }
    HelpScreen { align: center middle; background: ansi_default; overflow-y: auto; }
    HelpScreen Static { width: auto; max-width: 100%; height: auto; }
    """
    BINDINGS: ClassVar[list[Any]] = [
        Binding("q", "quit_view", "quit"),
        Binding("ctrl+c", "interrupt", "interrupt", priority=True),
        Binding("space,Z", "pause", "pause"),
        Binding("s,greater_than_sign", "sort(1)", "sort"),
        Binding("less_than_sign", "sort(-1)", "sort back"),
        Binding("r,I", "reverse", "reverse"),
        Binding("slash", "filter", "filter"),
        Binding("escape", "take_back", "take back"),
        Binding("i", "busy", "leave out idle mappings"),
        Binding("t", "strip", "heat over time, or by address"),
        Binding("h,question_mark", "help", "help"),
    ]

    def __init__(self, source: Source, interval_ns: int = SECOND, *, alphabet: str = BLOCKS):
        super().__init__(ansi_color=True)
        self.source = source
        self.choice = Choice()
        self.vitals = Vitals(source.pid, source.command, interval_ns, paced_ns=interval_ns, recorded=source.recorded)
        self.typing = False
        self.words = ""
        self.failure: PagescanError | OSError | None = None
        first = source.start()
        self.state = State.start(first.time_ns, first.mappings)
        self._alphabet = alphabet
        self._wake = asyncio.Event()
        self._clocks = time.monotonic_ns(), time.process_time_ns()
        self._spent: deque[int] = deque(maxlen=_STEADY)

    def compose(self) -> ComposeResult:
        yield Lines(id="header")
        yield Lines(id="heading")
        yield Table(id="table", alphabet=self._alphabet)
        yield Lines(id="detail")
        yield Lines(id="keys")

    def on_mount(self) -> None:
        self.theme = "ansi-dark"
        self._table.focus()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.action_interrupt)
        self.run_worker(self._watch(), name="watch", exit_on_error=True)

    def on_unmount(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    @property
    def _table(self) -> Table:
        return self.query_one("#table", Table)

    # Looking ----------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at each tick, until the process ends."""
        due = time.monotonic() + self.vitals.paced_ns / SECOND
        while not self.vitals.ended:
            await self._wait(None if self.vitals.paused else due - time.monotonic())
            if not self.vitals.paused:
                began = time.monotonic()
                await self.look()
                due = began + self.vitals.paced_ns / SECOND

    async def _wait(self, seconds: float | None) -> None:
        """Until so much time has passed, or a key says to go on."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if seconds is None else max(0.0, seconds))
        self._wake.clear()

    async def look(self) -> None:
        """Take one look, in a thread of its own, and show it."""
        try:
            seen = await asyncio.to_thread(self.source.look)
        except (PagescanError, OSError) as error:
            self.failure = error
            self.exit(False)
            return
        self._note(seen)
        self.show()

    def _note(self, seen: Seen | Ended) -> None:
        recorded = self.source.recorded
        if isinstance(seen, Ended):
            self.vitals = replace(self.vitals, ended=seen.reason, paused=False, recorded=recorded)
            return
        self.state = self.state.after(seen.look)
        cpu, paced_ns = self._cost()
        self.vitals = replace(
            self.vitals,
            command=self.source.command,
            paced_ns=paced_ns,
            duration_ns=seen.duration_ns,
            cpu=cpu,
            pause_ns=seen.pause_ns,
            recorded=recorded,
            remark=seen.remark,
        )

    def _cost(self) -> tuple[float | None, int]:
        """The share of a core that we took since the last look, and the interval that follows from it."""
        wall, cpu = self._clocks
        self._clocks = time.monotonic_ns(), time.process_time_ns()
        if self.state.looks == 1:
            return None, self.vitals.interval_ns  # that was the start of the program
        self._spent.append(self._clocks[1] - cpu)
        mean = sum(self._spent) // len(self._spent)
        return (self._clocks[1] - cpu) / max(1, self._clocks[0] - wall), paced(self.vitals.interval_ns, mean)

    # Showing ----------------------------------------------------------------------------------------------------------

    def on_resize(self, event: Resize) -> None:
        height = event.size.height
        self.query_one("#header").set_class(height >= _FOR_HEADER, "tall")
        self.query_one("#heading").display = height >= _FOR_HEADING
        self.query_one("#detail").display = height >= _FOR_DETAIL
        self.call_after_refresh(self.show)

    def show(self) -> None:
        """Show what is known now, all of it."""
        width, table = self.size.width, self._table
        tall = 3 if self.query_one("#header").has_class("tall") else 1
        self._lines("header").show(header(self.vitals, self.state.totals(), width, tall))
        table.show(self.state, choose(self.state, self.choice))
        widths = Widths.of(table.scrollable_content_region.width)
        self._lines("heading").show([heading(self.choice, widths, table.over_time)])
        self._lines("keys").display = self.typing or self.size.height >= _FOR_KEYS
        self._lines("keys").show([prompt(self.words, width) if self.typing else keys(self.choice, width)])
        self._show_detail()

    def _show_detail(self) -> None:
        table, width = self._table, self.size.width
        below = legend(width, self._alphabet, over_time=table.over_time)
        self._lines("detail").show([detail(self.state, table.line, width) if table.line else below])

    def _lines(self, name: str) -> Lines:
        return self.query_one(f"#{name}", Lines)

    def on_table_resized(self) -> None:
        self.show()

    def on_table_chosen(self) -> None:
        self._show_detail()

    # Keys -------------------------------------------------------------------------------------------------------------

    def _choose(self, choice: Choice) -> None:
        self.choice = choice
        self.show()

    def action_quit_view(self) -> None:
        self.exit(False)

    def action_interrupt(self) -> None:
        self.exit(True)

    def action_pause(self) -> None:
        if not self.vitals.ended:
            self.vitals = replace(self.vitals, paused=not self.vitals.paused)
            self._wake.set()
            self.show()

    def action_sort(self, step: int) -> None:
        self._choose(self.choice.sorted_by_next(step))

    def action_reverse(self) -> None:
        self._choose(replace(self.choice, reverse=not self.choice.reverse))

    def action_busy(self) -> None:
        self._choose(replace(self.choice, busy=not self.choice.busy))

    def action_strip(self) -> None:
        self._table.over_time = not self._table.over_time
        self.show()

    def action_help(self) -> None:
        self.push_screen(HelpScreen())

    def action_filter(self) -> None:
        self.typing = True
        self.show()

    def on_key(self, event: Key) -> None:
        """While a filter is typed, letters are letters.

        Keys come here one after another in the order in which they were pressed; an Input widget would get those that
        follow the "/" quickly only if it had the focus by then.
        """
        if not self.typing:
            return
        if event.key == "enter":
            self.typing = False
        elif event.key == "backspace":
            self.words = self.words[:-1]
        elif event.key == "ctrl+u":
            self.words = ""
        elif event.is_printable and event.character:
            self.words += event.character
        else:
            return
        event.prevent_default()  # no binding
        self._choose(self.choice.filtered(self.words))

    def on_paste(self, event: Paste) -> None:
        if self.typing:
            self.words += "".join(event.text.splitlines()[:1])
            self._choose(self.choice.filtered(self.words))

    def action_take_back(self) -> None:
        if self.words or self.typing:
            self.typing, self.words = False, ""
            self.choice = self.choice.filtered("")
        else:
            self._table.chosen = None
        self.show()
