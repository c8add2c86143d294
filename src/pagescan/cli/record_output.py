"""What ``pagescan record`` says: progress on a terminal, and a summary at the end."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from ..units import SECOND, format_count, format_duration, format_size
from .output import note, printable, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..abi import Mapping
    from ..recording.session import Session

SCHEMA_VERSION = 1
_REDRAW_NS = SECOND // 5
_ENDED = {
    "interrupted": "stopped by a signal",
    "exited": "the process ended",
    "duration": "the time was over",
}


class Progress:
    """One line on a terminal that is written over: call it after each sample."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._shown = 0
        self._drawn_ns = 0
        self._pages_then = 0

    def __call__(self, session: Session) -> None:
        now = time.monotonic_ns()
        if now - self._drawn_ns < _REDRAW_NS:
            return
        cost, size = session.cost, session.info.page_size
        since = self._drawn_ns or session.info.started_ns
        rate = (cost.pages - self._pages_then) * size * SECOND // max(1, now - since)
        self._drawn_ns, self._pages_then = now, cost.pages
        self._draw(
            f"{format_duration(cost.elapsed_ns)}  {format_count(cost.samples, 'sample')}  "
            f"{format_count(cost.pages, 'page')} written  {format_size(rate)}/s"
        )

    def clear(self) -> None:
        """Wipe the line, with the ^C that the terminal may have shown after it."""
        if self._shown:
            self._draw(" " * (self._shown + 2))
            self._stream.write("\r")
            self._stream.flush()

    def _draw(self, text: str) -> None:
        text = text[: max(1, shutil.get_terminal_size().columns - 1)]
        self._stream.write("\r" + text.ljust(self._shown))
        self._stream.flush()
        self._shown = len(text)


def cut_end(text: str, width: int) -> str:
    """The text in at most ``width`` characters."""
    return text if len(text) <= width else text[: width - 3] + "..."


@dataclass(frozen=True, slots=True)
class Summary:
    """A recording that has ended."""

    session: Session
    reason: str
    status: int | None
    untracked: Sequence[tuple[Mapping, str]]
    file_bytes: int

    @classmethod
    def of(cls, session: Session, reason: str, status: int | None, untracked: Sequence[tuple[Mapping, str]]) -> Summary:
        """``status``: the exit code of a started command; ``untracked``: as :attr:`ProcessTracker.untracked`."""
        return cls(session, reason, status, untracked, os.stat(session.path).st_size)

    def print(self, *, as_json: bool) -> None:
        """Words to stderr; or, as JSON, to stdout."""
        if as_json:
            write_json("record", SCHEMA_VERSION, self.document())
            return
        note("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """The summary in words."""
        session, cost = self.session, self.session.cost
        written = format_size(cost.pages * session.info.page_size)
        path = printable(str(session.path))
        command = printable(" ".join(session.info.command_line)).rstrip()
        how_long = f"{format_duration(cost.mean_take_ns)} on average, {format_duration(cost.longest_take_ns)} at most"
        lines = [
            f"{format_count(cost.samples, 'sample')} in {format_duration(cost.elapsed_ns)}; {_ENDED[self.reason]}",
            f"process   {session.info.pid} {cut_end(command, 100)}",
            f"written   {format_count(cost.pages, 'page')}, {written}",
            f"file      {path}, {format_size(self.file_bytes)}",
            f"overhead  process held still: {format_duration(cost.pause_ns) if cost.pause_ns else 'never'}",
            f"          a take: {how_long}",
            f"          recorder: {cost.cpu_share:.1%} of one processor",
        ]
        if cost.missed:
            late = format_count(cost.missed, "interval")
            lines.append(f"late      {late} passed during other samples, and went into the next; a longer -i avoids it")
        if self.untracked:
            count = format_count(len(self.untracked), "mapping")
            mapping, why = self.untracked[0]
            lines.append(f"untracked {count}, the first {printable(str(mapping))}: {why}")
        return [*lines, f"look      pagescan report {path}"]

    def document(self) -> dict[str, Any]:
        """The summary as ``--json`` has it (docs/commands/record.md)."""
        info, cost = self.session.info, self.session.cost
        return {
            "file": str(self.session.path),
            "file_bytes": self.file_bytes,
            "pid": info.pid,
            "command_line": list(info.command_line),
            "command_status": self.status,
            "engine": info.engine,
            "page_size": info.page_size,
            "interval_ns": info.interval_ns,
            "elapsed_ns": cost.elapsed_ns,
            "ended": self.reason,
            "samples": cost.samples,
            "inexact_samples": cost.inexact,
            "missed_intervals": cost.missed,
            "written_pages": cost.pages,
            "written_regions": cost.regions,
            "overhead": {
                "pause_ns": cost.pause_ns,
                "mean_take_ns": cost.mean_take_ns,
                "longest_take_ns": cost.longest_take_ns,
                "cpu_ns": cost.cpu_ns,
                "cpu_share": round(cost.cpu_share, 6),
            },
            "untracked": [
                {"start": f"{mapping.start:#x}", "end": f"{mapping.end:#x}", "name": mapping.name, "why": why}
                for mapping, why in self.untracked
            ],
        }
