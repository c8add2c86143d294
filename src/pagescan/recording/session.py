"""The recording of a live process: a sample at each tick of a clock that does not drift, until something ends it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import AccessDenied, AlreadyExists, InvalidArgument, KernelCannot, NoSuchProcess
from ..ranges import Regions
from ..trackers.written import Quality, Written
from .model import EndReason, RecordingInfo
from .watch import Happened
from .writer import RecordingWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..abi import Mapping, ProcessFacts

#: Looks at a process whose memory is gone, until it is seen to have new memory or to have exited.
_LOOK_AGAIN_NS = 2_000_000
GONE = "the memory of the process is gone"


class Tracked(Protocol):
    """What a session needs of a :class:`~pagescan.trackers.process_tracker.ProcessTracker`."""

    pid: int

    @property
    def pages(self) -> Regions: ...
    @property
    def pause_ns(self) -> int: ...
    @property
    def facts(self) -> ProcessFacts: ...
    @property
    def engine(self) -> str: ...
    def take(self) -> Written: ...
    def mappings(self) -> Sequence[Mapping]: ...
    def detach(self) -> None: ...


class Waiting(Protocol):
    """What a session needs of a :class:`~pagescan.recording.watch.Watch`."""

    def wait(self, until_ns: int | None) -> Happened: ...


@dataclass(slots=True)
class Cost:
    """What a session wrote, and what it took. Times are nanoseconds.

    Attributes:
        samples: how many were written.
        pages: pages written to, summed over the samples: a page counts once in each.
        regions: likewise.
        missed: ticks that passed while a sample was still being taken.
        inexact: samples that are not exact.
        pause_ns: how long the process was held still in all.
        take_ns: time that taking took in all.
        longest_take_ns: the longest of them.
        cpu_ns: processor time of this process, in user mode and in the kernel.
        elapsed_ns: from the start of the first interval to the last sample.
    """

    samples: int = 0
    pages: int = 0
    regions: int = 0
    missed: int = 0
    inexact: int = 0
    pause_ns: int = 0
    take_ns: int = 0
    longest_take_ns: int = 0
    cpu_ns: int = 0
    elapsed_ns: int = 0

    @property
    def mean_take_ns(self) -> int:
        return self.take_ns // self.samples if self.samples else 0

    @property
    def cpu_share(self) -> float:
        """Of one processor, from 0 to 1 (above, if several were busy)."""
        return self.cpu_ns / self.elapsed_ns if self.elapsed_ns else 0.0


class _Found(NamedTuple):
    """An answer of the tracker, when it was asked for, and how long it took."""

    time_ns: int
    wall_ns: int
    took_ns: int
    written: Written


class Session:
    """One recording under way.

    Attributes:
        tracker: of the process. Whoever made the session detaches it.
        cost: what was written, and what it took; grows with each sample.
        info: what the file says is recorded.

    Args:
        tracker: a tracker of which nothing was taken yet.
        path: the file to make; errors as :class:`RecordingWriter`.
        interval_ns: time between samples.
        started_ns, started_wall_ns: when the pages were protected; by default now.
        command_line: what the file says was executed; by default what the process says now.
        force: overwrite what has that name.
        clock: nanoseconds on the monotonic clock.
    """

    def __init__(
        self,
        tracker: Tracked,
        path: str | os.PathLike[str],
        *,
        interval_ns: int,
        started_ns: int | None = None,
        started_wall_ns: int | None = None,
        command_line: Sequence[str] | None = None,
        force: bool = False,
        clock: Callable[[], int] = time.monotonic_ns,
    ):
        self.tracker = tracker
        self.cost = Cost()
        self._clock = clock
        self._cpu_before = time.process_time_ns()
        self.info = describe(
            tracker,
            command_line,
            interval_ns=interval_ns,
            started_ns=clock() if started_ns is None else started_ns,
            started_wall_ns=time.time_ns() if started_wall_ns is None else started_wall_ns,
        )
        self.writer = RecordingWriter(path, self.info, force=force)

    @property
    def path(self) -> Path:
        return self.writer.path

    def run(
        self,
        watch: Waiting,
        duration_ns: int | None = None,
        on_sample: Callable[[Session], object] | None = None,
    ) -> EndReason:
        """Record until ``duration_ns`` is over, the process exits, or the watch is stopped; the file is then closed.

        ``on_sample`` is called after each sample. Raises PagescanError: the file cannot be written, or the process can
        no longer be tracked; what was recorded until then is kept, and its end record says so.
        """
        with self.writer as writer:
            reason = self._record(watch, duration_ns, on_sample or (lambda session: None))
            writer.close(reason)
        return reason

    def _record(self, watch: Waiting, duration_ns: int | None, on_sample: Callable[[Session], object]) -> EndReason:
        start, due = self.info.started_ns, self.info.started_ns
        end = None if duration_ns is None else start + duration_ns
        while True:
            before, due = due, self._next_tick(end)
            self.cost.missed += max(0, (due - before - 1) // self.info.interval_ns)
            happened = watch.wait(due)
            exited = self._sample(watch) or happened is Happened.EXITED
            on_sample(self)
            if exited:
                return EndReason.EXITED
            if happened is Happened.STOPPED:
                return EndReason.INTERRUPTED
            if end is not None and self._clock() >= end:
                return EndReason.DURATION

    def _next_tick(self, end: int | None) -> int:
        """The end, or the first tick that lies ahead. Counted from the start: none inherits another's lateness."""
        start, interval = self.info.started_ns, self.info.interval_ns
        tick = start + ((self._clock() - start) // interval + 1) * interval
        return tick if end is None else min(tick, end)

    def _sample(self, watch: Waiting) -> bool:
        """Take and write one sample. Whether the process has exited."""
        begin, wall = self._clock(), time.time_ns()
        written = self._take(watch)
        self._write(_Found(begin, wall, self._clock() - begin, written))
        return written.quality is Quality.LOST

    def _take(self, watch: Waiting) -> Written:
        """As the tracker's take. A process whose memory is gone is about to have new memory (exec), or to exit."""
        while True:
            try:
                return self.tracker.take()
            except NoSuchProcess:
                pass
            except KernelCannot:  # "has no memory of its own", as a kernel thread
                if self.tracker.facts.has_memory():
                    raise
            if watch.wait(self._clock() + _LOOK_AGAIN_NS) is not Happened.DUE:
                nothing = Regions.empty(page_size=self.info.page_size)
                return Written.of(nothing, nothing, Quality.LOST, GONE)

    def _mappings(self) -> Sequence[Mapping] | None:
        try:
            return self.tracker.mappings()
        except NoSuchProcess:
            return None

    def _write(self, found: _Found) -> None:
        written, cost = found.written, self.cost
        gone = written.quality is Quality.LOST
        pause = self.tracker.pause_ns - cost.pause_ns
        self.writer.append(
            written,
            time_ns=found.time_ns,
            wall_ns=found.wall_ns,
            duration_ns=found.took_ns,
            pause_ns=pause,
            quality=written.quality,
            reason=written.reason,
            resident_pages=None if gone else self.tracker.facts.resident_pages(),
            mappings=None if gone else self._mappings(),
        )
        cost.samples += 1
        cost.pages += written.page_count
        cost.regions += len(written)
        cost.inexact += written.quality is not Quality.EXACT
        cost.pause_ns += pause
        cost.take_ns += found.took_ns
        cost.longest_take_ns = max(cost.longest_take_ns, found.took_ns)
        cost.elapsed_ns = found.time_ns - self.info.started_ns
        cost.cpu_ns = time.process_time_ns() - self._cpu_before


def describe(
    tracker: Tracked, command_line: Sequence[str] | None, *, interval_ns: int, started_ns: int, started_wall_ns: int
) -> RecordingInfo:
    """What a recording of this process says about itself."""
    from .. import __version__

    facts = tracker.facts
    return RecordingInfo(
        pid=tracker.pid,
        start_time=facts.start_time,
        command_line=facts.command_line() if command_line is None else tuple(command_line),
        kernel=facts.kernel,
        machine=facts.machine,
        page_size=tracker.pages.page_size,
        engine=tracker.engine,
        interval_ns=interval_ns,
        pagescan_version=__version__,
        started_ns=started_ns,
        started_wall_ns=started_wall_ns,
    )


def check_destination(path: str | os.PathLike[str], *, force: bool) -> None:
    """Find out before a process is touched whether a recording may be made there.

    Raises AlreadyExists, InvalidArgument (no such folder), AccessDenied.
    """
    target = Path(path)
    folder = target.parent
    if os.path.lexists(target) and not force:
        raise AlreadyExists(f"{target} exists", hint="use another file (-o FILE), or overwrite it: --force")
    if not folder.is_dir():
        raise InvalidArgument(f"cannot write {target}: there is no folder {folder}", hint=f"mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise AccessDenied(f"cannot write to the folder {folder}", hint="give a file in a folder of your own: -o FILE")
