"""Where the live view gets its looks from: a tracked process, and the recording of what was seen.

The view itself knows only :class:`Source`, so that tests hand it looks with known answers.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from ..errors import KernelCannot, NoSuchProcess
from ..ranges import Regions
from ..recording import EndReason, RecordingWriter
from ..recording.session import GONE, describe
from ..trackers.written import Quality, Written
from .heat import written_below
from .state import Look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..abi import Mapping
    from ..trackers.process_tracker import ProcessTracker

#: Seconds a process whose memory is gone may take until it is seen to have exited, or to have new memory.
_SETTLED = 2.0
_LOOK_AGAIN = 0.002


@dataclass(frozen=True, slots=True)
class Seen:
    """A look, and what it took.

    Attributes:
        look: what was found.
        duration_ns: how long the taking took.
        pause_ns: the longest the process can have stood still for us, altogether.
        remark: what the reader should know of it, or "".
    """

    look: Look
    duration_ns: int = 0
    pause_ns: int = 0
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The process is gone.

    Attributes:
        reason: in words.
        status: what it returned, as :attr:`subprocess.Popen.returncode`; None if that cannot be known.
    """

    reason: str
    status: int | None = None


class Source(Protocol):
    """What the view looks at.

    Attributes:
        pid: the process.
        command: its command line.
        recorded: how many looks were recorded; None if none are.
    """

    pid: int
    command: str

    @property
    def recorded(self) -> int | None: ...

    def start(self) -> Look:
        """What is mapped when the watching begins, nothing of it written."""

    def look(self) -> Seen | Ended:
        """What was written since the look before. Called from one thread at a time, not always the same."""


class _Taken(NamedTuple):
    """What one taking found."""

    written: Written
    time_ns: int
    took_ns: int


class ProcessSource:
    """A tracked process as a :class:`Source`. Close it to detach.

    Args:
        tracker: the process. If anything is raised here, it is detached.
        path: of the recording to make, or None.
        interval_ns: the time between looks, which the recording notes.
        force: overwrite what has that name.
        between: called before each look: a process that does not run by itself does there what it does meanwhile.

    Raises NoSuchProcess, and what :class:`~pagescan.recording.RecordingWriter` raises.
    """

    def __init__(
        self,
        tracker: ProcessTracker,
        *,
        path: str | None = None,
        interval_ns: int = 1_000_000_000,
        force: bool = False,
        between: Callable[[], object] | None = None,
    ):
        self._between = between or (lambda: None)
        self.pid = tracker.pid
        self.popen: subprocess.Popen[bytes] | None = tracker.popen
        self.ended: Ended | None = None
        self._tracker = tracker
        self._mappings: Sequence[Mapping] = ()
        self._told_ns = 0  # the part of the pause that the recording has
        self._writer: RecordingWriter | None = None
        try:
            info = describe(
                tracker,
                None,
                interval_ns=interval_ns,
                started_ns=time.monotonic_ns(),
                started_wall_ns=time.time_ns(),
            )
            self.command = " ".join(info.command_line)
            self._page_size = info.page_size
            self._writer = RecordingWriter(path, info, force=force) if path else None
        except BaseException:
            tracker.detach()
            raise

    @property
    def recorded(self) -> int | None:
        return None if self._writer is None else len(self._writer)

    def start(self) -> Look:
        with contextlib.suppress(NoSuchProcess):  # the first look says so
            self._mappings = self._tracker.mappings()
        return Look(time.monotonic_ns(), self._nothing(), self._tracked(), self._untracked())

    def look(self) -> Seen | Ended:
        if self.ended is not None:
            return self.ended
        self._between()
        began = time.monotonic_ns()
        written = self._take()
        taken = _Taken(written, time.monotonic_ns(), time.monotonic_ns() - began)
        gone = written.quality is Quality.LOST
        if not gone:
            with contextlib.suppress(NoSuchProcess):  # the next look says so
                self._mappings = self._tracker.mappings() or self._mappings
        self._record(taken, gone)
        if gone:
            self.ended = self._how_it_ended()
            return self.ended
        look = Look(taken.time_ns, written, self._tracked(), self._untracked())
        return Seen(look, taken.took_ns, self._tracker.pause_ns, written.reason)

    def _take(self) -> Written:
        """As the tracker's take. A process without memory is about to have new memory (exec), or to exit."""
        deadline = time.monotonic() + _SETTLED
        while time.monotonic() < deadline:
            try:
                return self._tracker.take()
            except NoSuchProcess:
                pass
            except KernelCannot:  # "has no memory of its own", as a kernel thread
                if self._tracker.facts.has_memory():
                    raise
            time.sleep(_LOOK_AGAIN)
        return Written.of(self._nothing(), self._nothing(), Quality.LOST, GONE)

    def _how_it_ended(self) -> Ended:
        status = None
        if self.popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self.popen.wait(_SETTLED)
        return Ended("it has exited" if status is None else in_words(status), status)

    def _record(self, taken: _Taken, gone: bool) -> None:
        if self._writer is None:
            return
        pause = self._tracker.pause_ns
        self._writer.append(
            taken.written,
            time_ns=taken.time_ns,
            wall_ns=time.time_ns(),
            duration_ns=taken.took_ns,
            pause_ns=pause - self._told_ns,
            quality=taken.written.quality,
            reason=taken.written.reason,
            resident_pages=None if gone else self._tracker.facts.resident_pages(),
            mappings=None if gone else self._mappings,
        )
        self._told_ns = pause

    def _tracked(self) -> list[Mapping]:
        """The mappings that are tracked, or that should be."""
        refused = self._untracked()
        starts = np.array([mapping.start for mapping in self._mappings], np.float64)
        ends = np.array([mapping.end for mapping in self._mappings], np.float64)
        covered = written_below(self._tracker.pages, ends) > written_below(self._tracker.pages, starts)
        return [m for m, is_ in zip(self._mappings, covered, strict=True) if is_ or (m.start, m.end) in refused]

    def _untracked(self) -> dict[tuple[int, int], str]:
        return {(mapping.start, mapping.end): why for mapping, why in self._tracker.untracked}

    def _nothing(self) -> Regions:
        return Regions.empty(page_size=self._page_size)

    def close(self, reason: EndReason = EndReason.CLOSED, detail: str = "") -> None:
        """Detach, and end the recording: for this reason, unless the process has exited."""
        self._tracker.detach()
        if self._writer is not None:
            ended = self.ended
            self._writer.close(EndReason.EXITED if ended else reason, ended.reason if ended else detail)


def in_words(status: int) -> str:
    """How a process ended, by its :attr:`subprocess.Popen.returncode`."""
    return f"it was ended by signal {-status}" if status < 0 else f"it returned {status}"
